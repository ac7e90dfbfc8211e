"""A measurement of the wire as a table, and the goals it is held to.

Rule: pure; it shows what the document says.
"""

from collections.abc import Iterator

from edged.commands.bench.wire import ECHO_SIDE, NODE_SIDE, Document

_BUSY_LOAD = 0.5


def heading(document: Document) -> str:
    """Say what was measured, on what."""
    device = document["device"]
    return (
        f"prompt to reply without a model, on {device['name']}: broker {document['broker']},"
        f" QoS 1, {document['rounds']} alternating rounds"
    )


def rows(document: Document) -> Iterator[list[str]]:
    """Yield the cells: a heading row, then one row a figure."""
    ours, bare = document["wire"][NODE_SIDE], document["wire"][ECHO_SIDE]
    yield ["", "edged", "bare echo", "edged ÷ echo"]
    for title, key, unit in (
        ("prompt to reply, p50", "p50", "ms"),
        ("prompt to reply, p99", "p99", "ms"),
        (f"replies, {document['window']} on their way", "rate_per_s", "/s"),
    ):
        digits = 0 if unit == "/s" else 2
        shown = [f"{side[key]:,.{digits}f} {unit}" for side in (ours, bare)]
        yield [title, *shown, f"{ours[key] / bare[key]:.2f} x"]
    fragment = document["first_fragment_ms"]
    record = document["record_ms"]
    for title, values in (
        ("token to its fragment's arrival", fragment),
        ("with `state.folder`, on this disk", record),
    ):
        yield [f"{title}, p50", f"{values['p50']:.2f} ms", "-", "-"]
        yield [f"{title}, p99", f"{values['p99']:.2f} ms", "-", "-"]


def goal_rows(document: Document) -> Iterator[list[str]]:
    """Yield title, goal, measured value and verdict."""
    ours, bare = document["wire"][NODE_SIDE], document["wire"][ECHO_SIDE]
    yield ["goal", "", "measured", ""]
    for title, value, limit, unit in (
        ("prompt to reply, p50", ours["p50"], 2.0, "ms"),
        ("prompt to reply, p99", ours["p99"], 10.0, "ms"),
        ("p50, beside the bare echo", ours["p50"] / bare["p50"], 1.5, "x"),
        ("token to its fragment, p99", document["first_fragment_ms"]["p99"], 5.0, "ms"),
    ):
        verdict = "met" if value <= limit else "missed"
        yield [title, f"≤ {limit:g} {unit}", f"{value:.2f} {unit}", verdict]
    rate = ours["rate_per_s"]
    yield ["replies", "≥ 500 /s", f"{rate:,.0f} /s", "met" if rate >= 500 else "missed"]  # noqa: PLR2004 - the goal


def remarks(document: Document) -> Iterator[str]:
    """Yield what the table cannot say."""
    load = document["device"]["load_before"]
    if load > _BUSY_LOAD:
        yield f"the machine was busy before (load {load:.1f}); repeat it on a quiet one"
