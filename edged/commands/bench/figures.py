"""Figures from samples, and their table.

Rule: pure; the table shows only what was sampled.
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

# Written by ``--json``.
Document = dict[str, Any]
# One value per run, by the name of the figure.
Samples = dict[str, list[float | None]]
ABSENT = "-"
_BUSY_LOAD = 0.5
_MIB = 1 / 2**20
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Row:
    """One figure with its title and unit."""

    title: str
    name: str
    """Key of the samples."""
    scale: float = 1.0
    """Factor from the unit of the samples to the displayed one."""
    digits: int = 1

    def shown(self, value: float) -> str:
        """Format a value in the unit of the row."""
        return f"{value * self.scale:,.{self.digits}f}"

    def cell(self, samples: Samples) -> str:
        """Format the median, with minimum and maximum if they differ."""
        values = samples.get(self.name, [])
        value = median(values)
        if value is None:
            return ABSENT
        present = [each for each in values if each is not None]
        middle, low, high = map(self.shown, (value, min(present), max(present)))
        return middle if low == high else f"{middle} ({low} to {high})"


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
    """Return the median; None if any value is missing, because the engine lacks the feature."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present and len(present) == len(values) else None


def medians(samples: Samples) -> dict[str, float | None]:
    """Return the median of each figure."""
    return {name: median(values) for name, values in samples.items()}


def heading(document: Document) -> str:
    """Return one line: model, device and method."""
    device, model = document["device"], document["model"]
    return (
        f"{model['id']} on {device['name']}: {document['num_threads']} threads,"
        f" context {document['max_model_len']:,}, median (min to max) of {document['runs']} runs"
    )


def remarks(document: Document) -> Iterator[str]:
    """Yield the figures of the daemon, and a warning about a busy machine."""
    figures = document["daemon"]
    if figures is None:
        yield "daemon: it did not start; `edged run` shows the reason"
    else:
        rss, dirty = (figures.get(f"{name}_bytes", 0) * _MIB for name in ("rss", "private_dirty"))
        yield (
            f"daemon: READY after {figures['ready_s']:.2f} s, RSS {rss:.0f} MiB, private dirty"
            f" {dirty:.0f} MiB; idle, {figures['idle_cpu_share']:.1%} of a CPU"
        )
    yield from busy_warning(document["device"])


def busy_warning(device: Document) -> Iterator[str]:
    """Yield a warning if the machine was busy before the measurement."""
    if device["load_before"] > _BUSY_LOAD:
        load = device["load_before"]
        yield f"the machine was busy (load average {load:.1f}); repeat it when it is idle"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Align cells for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for title, *cells in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([f"{title:<{widths[0]}}", *padded]).rstrip())
    return "\n".join(lines)
