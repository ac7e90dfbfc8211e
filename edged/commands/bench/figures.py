"""From samples to figures and their table.

Rule: pure; the table shows what was sampled and nothing else.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edged.commands.bench.turns import (
    CONCURRENCY,
    CONTEXTS,
    TTFT_TOKENS,
    concurrent_name,
    decode_name,
    prefill_name,
)

# What ``--json`` writes.
Document = dict[str, Any]
# One value a run, by the figure's name.
Samples = dict[str, list[float | None]]
ABSENT = "-"
_BUSY_LOAD = 0.5
_MIB = 1 / 2**20
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, with its name for people and its unit."""

    title: str
    name: str
    """Among the samples."""
    scale: float = 1.0
    """From the sample's unit to the shown one."""
    digits: int = 1

    def shown(self, value: float) -> str:
        """Write a value in the row's unit."""
        return f"{value * self.scale:,.{self.digits}f}"

    def cell(self, samples: Samples) -> str:
        """Write the median, and the least and the most beside it where they differ."""
        values = samples.get(self.name, [])
        value = median(values)
        if value is None:
            return ABSENT
        present = [each for each in values if each is not None]
        middle, least, most = map(self.shown, (value, min(present), max(present)))
        return middle if least == most else f"{middle} ({least} to {most})"


def _rows() -> Iterator[Row]:
    for context in CONTEXTS:
        yield Row(f"prefill of {context:,} tokens, tok/s", prefill_name(context), digits=0)
    for context in CONTEXTS:
        yield Row(f"decode at {context:,} tokens, tok/s", decode_name(context))
    yield Row(f"first token of {TTFT_TOKENS}, cold, ms", "ttft_s", _MS)
    yield Row(f"first token of {TTFT_TOKENS}, prompt cached, ms", "ttft_cached_s", _MS)
    for count in CONCURRENCY:
        yield Row(f"decode of {count} at a time, total tok/s", concurrent_name(count))
    yield Row("CPU per token, ms", "cpu_s_per_token", _MS)
    yield Row("load, s", "load_s", digits=2)
    for title, name in (("RSS", "rss"), ("PSS", "pss"), ("private dirty", "private_dirty")):
        yield Row(f"{title} after load, MiB", f"loaded_{name}_bytes", _MIB, 0)
        yield Row(f"{title} after work, MiB", f"{name}_bytes", _MIB, 0)


ROWS = tuple(_rows())


def median(values: Sequence[float | None]) -> float | None:
    """Return the median, or None when a value is missing: not offered in one run is not offered."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present and len(present) == len(values) else None


def medians(samples: Samples) -> dict[str, float | None]:
    """Return the median of each figure."""
    return {name: median(values) for name, values in samples.items()}


def heading(document: Document) -> str:
    """Say what was measured, on what, and how."""
    device, model = document["device"], document["model"]
    return (
        f"{model['id']} on {device['name']}: {document['num_threads']} threads,"
        f" context {document['max_model_len']:,}, median (least to most) of {document['runs']} runs"
    )


def remarks(document: Document) -> Iterator[str]:
    """Yield what the table does not show: the daemon, and a machine that was busy."""
    figures = document["daemon"]
    if figures is None:
        yield "daemon: it ended by itself; `edged run` tells why"
    else:
        rss, dirty = (figures.get(f"{name}_bytes", 0) * _MIB for name in ("rss", "private_dirty"))
        yield (
            f"daemon: READY after {figures['ready_s']:.2f} s, RSS {rss:.0f} MiB, private dirty"
            f" {dirty:.0f} MiB; idle, {figures['idle_cpu_share']:.1%} of a CPU"
        )
    yield from busy(document["device"])


def busy(device: Document) -> Iterator[str]:
    """Yield a warning when the machine had other work before."""
    if device["load_before"] > _BUSY_LOAD:
        load = device["load_before"]
        yield f"the machine was busy before (load {load:.1f}); repeat it on a quiet one"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for title, *cells in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([f"{title:<{widths[0]}}", *padded]).rstrip())
    return "\n".join(lines)
