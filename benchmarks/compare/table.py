"""The figures as a table, for a terminal or in Markdown.

Rule: pure; it shows the document and computes nothing.
"""

from collections.abc import Iterator, Sequence

from benchmarks.compare.engines import EDGED
from edged.commands.bench.figures import ABSENT, ROWS, Document
from edged.commands.bench.figures import remarks as own_remarks
from edged.commands.bench.turns import concurrent_name

_QUIET_SHARE = 0.05
"""Above this share, the machine was busy."""


def figures(document: Document) -> list[list[str]]:
    """Return the cells: a heading row, then one row for each figure that any engine has."""
    engines, ratios = document["engines"], document["ratios"]
    names = sorted(engines, key=lambda name: name != EDGED)
    others = [name for name in names if name in ratios]
    rows = [["", *names, *(f"edged ÷ {name}" for name in others)]]
    for row in ROWS:
        cells = [row.cell(document["samples"][name]) for name in names]
        if any(cell != ABSENT for cell in cells):
            quotients = [_quotient(ratios[name].get(row.name)) for name in others]
            rows.append([row.title, *cells, *quotients])
    return rows


def remarks(document: Document) -> Iterator[str]:
    """Yield the notes below the table: roofline, missing engines, load."""
    bandwidth = document["read_bandwidth_bytes_s"] / 1e9
    weights = document["weight_bytes_per_token"] / 1e6
    roofline = document["roofline"]
    if roofline is not None:
        yield (
            f"roofline of decode: {roofline:.2f} (= {weights:.1f} MB of weights a token x tok/s"
            f" ÷ {bandwidth:.1f} GB/s read bandwidth)"
        )
    if document["engines"][EDGED].get(concurrent_name(4)) is None:
        yield "edged: no batching; requests are answered one at a time"
    yield from own_remarks(document)
    for name, reason in document["left_out"].items():
        yield f"{name}: left out: {reason}"
    share = document["idle_cpu_share"]
    yield f"idle engines used {share:.1%} of a CPU during the turns of others"
    disturbance = document["disturbance_share"]
    advice = "; repeat it on an idle one" if disturbance > _QUIET_SHARE else ""
    yield f"other programs used {disturbance:.0%} of the machine during edged's turns{advice}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as a Markdown table."""
    head, *body = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([head, "|---" + "|--:" * (len(rows[0]) - 1) + "|", *body])


def _quotient(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f} x"
