"""The figures as a table: aligned for a terminal, in pipes for a page.

Rule: pure; it shows what the document says and computes nothing.
"""

from collections.abc import Iterator, Sequence

from benchmarks.compare.engines import EDGED
from edged.commands.bench.figures import ABSENT, ROWS, Document
from edged.commands.bench.figures import remarks as own_remarks
from edged.commands.bench.turns import concurrent_name

_QUIET_SHARE = 0.05
"""Above this, the figures are those of a busy machine."""


def figures(document: Document) -> list[list[str]]:
    """Return the table as cells: a heading row, then one row a figure that any engine has."""
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
    """Yield what the table cannot say: the roofline, and what is not in it."""
    bandwidth = document["read_bandwidth_bytes_s"] / 1e9
    weights = document["weight_bytes_per_token"] / 1e6
    roofline = document["roofline"]
    if roofline is not None:
        yield (
            f"roofline of decode: {roofline:.2f} (= {weights:.1f} MB of weights a token x tok/s"
            f" ÷ {bandwidth:.1f} GB/s read bandwidth)"
        )
    if document["engines"][EDGED].get(concurrent_name(4)) is None:
        yield "edged: several requests at a time are not offered; they are answered in turn"
    yield from own_remarks(document)
    for name, reason in document["left_out"].items():
        yield f"{name}: left out: {reason}"
    share = document["idle_cpu_share"]
    yield f"waiting engines used {share:.1%} of a CPU during the turns of others"
    disturbance = document["disturbance_share"]
    advice = "; repeat it on a quiet one" if disturbance > _QUIET_SHARE else ""
    yield f"other programs used {disturbance:.0%} of the machine during edged's turns{advice}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as a Markdown table."""
    head, *body = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([head, "|---" + "|--:" * (len(rows[0]) - 1) + "|", *body])


def _quotient(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f} x"
