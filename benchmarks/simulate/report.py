"""The figures as tables: by policy, and by class."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.simulate.figures import Figures

_COLUMNS = (
    "policy",
    "asked",
    "on time",
    "refused",
    "cut",
    "expired",
    "late",
    "of bound",
    "tok of bound",
    "Jain",
)
_CLASS_COLUMNS = ("policy", "class", "asked", "on time", "ttft p50", "ttft p95", "alone p95")


def report(runs: Mapping[str, Figures]) -> str:
    """Return both tables as aligned Markdown."""
    return table(_COLUMNS, _policy_rows(runs)) + "\n" + table(_CLASS_COLUMNS, _class_rows(runs))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format aligned rows."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    rule = ["-" * width for width in widths]
    padded = (
        " | ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in [lines[0], rule, *lines[1:]]
    )
    return "".join(f"| {line} |\n" for line in padded)


def _policy_rows(runs: Mapping[str, Figures]) -> Iterable[list[str]]:
    for policy, it in runs.items():
        counts = [str(it[key]) for key in ("asked", "on_time", "refused", "cut", "expired", "late")]
        ratios = [_ratio(it[key]) for key in ("goodput", "goodput_tokens", "jain")]
        yield [policy, *counts, *ratios]


def _class_rows(runs: Mapping[str, Figures]) -> Iterable[list[str]]:
    for policy, it in runs.items():
        for name, part in it["classes"].items():
            share = part["on_time"] / part["asked"]
            times = (part["ttft_p50_s"], part["ttft_p95_s"], part["ttft_alone_p95_s"])
            yield [policy, name, str(part["asked"]), f"{share:.1%}", *map(_seconds, times)]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
