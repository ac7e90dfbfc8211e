"""The figures as a table: aligned for a terminal, in pipes for a page.

Rule: pure; it shows what the document says and computes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edged.commands.bench.adapters import EDGED
from edged.commands.bench.figures import Document
from edged.commands.bench.rows import ROWS, Row

ABSENT = "-"
_QUIET_SHARE = 0.05
"""Above this, the figures are those of a busy machine."""


def heading(document: Document) -> str:
    """Say what was measured, on what, and how."""
    device, model = document["device"], document["model"]
    return (
        f"{model['id']} on {device['name']}: {document['num_threads']} threads,"
        f" context {document['max_model_len']:,},"
        f" median (least to most) of {document['runs']} alternating runs"
    )


def figures(document: Document) -> list[list[str]]:
    """Return the table as cells: a heading row, then one row a figure that any engine has."""
    engines, ratios = document["engines"], document["ratios"]
    names = sorted(engines, key=lambda name: name != EDGED)
    head = ["", *names, *(f"edged ÷ {name}" for name in names if name in ratios)]
    rows = [head]
    for row in ROWS:
        cells = [_cell(row, engines[name], document["samples"][name]) for name in names]
        if any(cell != ABSENT for cell in cells):
            quotients = [_quotient(row, ratios[name]) for name in names if name in ratios]
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
    if document["engines"][EDGED]["concurrent"].get("4") is None:
        yield "edged: several requests at a time are not offered; they are answered in turn"
    yield _daemon(document["daemon"])
    for name, reason in document["left_out"].items():
        yield f"{name}: left out: {reason}"
    share = document["idle_cpu_share"]
    yield f"waiting engines used {share:.1%} of a CPU during the turns of others"
    disturbance = document["disturbance_share"]
    advice = "; repeat it on a quiet one" if disturbance > _QUIET_SHARE else ""
    yield f"other programs used {disturbance:.0%} of the machine during edged's turns{advice}"


def _daemon(figures: Mapping[str, float] | None) -> str:
    if figures is None:
        return "daemon: it ended by itself; `edged run` tells why"
    held = ", ".join(
        f"{title} {figures[name] / 2**20:.0f} MiB"
        for title, name in (("RSS", "rss_bytes"), ("private dirty", "private_dirty_bytes"))
        if name in figures
    )
    ready, idle = figures["ready_s"], figures["idle_cpu_share"]
    return f"daemon: READY after {ready:.2f} s, {held}; idle, {idle:.1%} of a CPU"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for title, *cells in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([f"{title:<{widths[0]}}", *padded]).rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as a Markdown table."""
    head, *body = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([head, "|---" + "|--:" * (len(rows[0]) - 1) + "|", *body])


def _cell(row: Row, engine: Mapping[str, Any], samples: Mapping[str, Any]) -> str:
    value = row.value(engine)
    if value is None:
        return ABSENT
    spread = [sample for sample in samples.get(row.sample, []) if sample is not None]
    least, most = row.shown(min(spread, default=value)), row.shown(max(spread, default=value))
    return row.shown(value) if least == most else f"{row.shown(value)} ({least} to {most})"


def _quotient(row: Row, ratio: Mapping[str, Any]) -> str:
    value = row.value(ratio)
    return ABSENT if value is None else f"{value:.2f} x"
