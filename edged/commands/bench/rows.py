"""The figures that are shown, in order, with their names for people and their units."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edged.commands.bench.plan import (
    CONCURRENCY,
    CONTEXTS,
    TTFT_TOKENS,
    concurrent_name,
    decode_name,
    prefill_name,
)

_MIB = 1 / 2**20
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of every engine."""

    title: str
    path: tuple[str, ...]
    """Its keys within an engine's figures."""
    sample: str
    """Its name among the samples."""
    scale: float = 1.0
    """From the document's unit to the shown one."""
    digits: int = 1

    def value(self, engine: Mapping[str, Any]) -> float | None:
        """Return the figure in the document's unit, None when there is none."""
        found: Any = engine
        for key in self.path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, int | float) else None

    def shown(self, value: float) -> str:
        """Write a value in the row's unit."""
        return f"{value * self.scale:,.{self.digits}f}"


def _rows() -> Iterator[Row]:
    for context in CONTEXTS:
        name = prefill_name(context)
        yield Row(f"prefill of {context:,} tokens, tok/s", (name,), name, digits=0)
    for context in CONTEXTS:
        name = decode_name(context)
        yield Row(f"decode at {context:,} tokens, tok/s", (name,), name)
    for title, name in (("cold", "ttft_s"), ("prompt cached", "ttft_cached_s")):
        yield Row(f"first token of {TTFT_TOKENS}, {title}, ms", (name,), name, _MS)
    for count in CONCURRENCY:
        path = ("concurrent", str(count))
        yield Row(f"decode of {count} at a time, total tok/s", path, concurrent_name(count))
    yield Row("CPU per token, ms", ("cpu_s_per_token",), "cpu_s_per_token", _MS)
    yield Row("load, s", ("load_s",), "load_s", digits=2)
    for title, name in (("RSS", "rss"), ("PSS", "pss"), ("private dirty", "private_dirty")):
        key = f"{name}_bytes"
        yield Row(f"{title} after load, MiB", ("after_load", key), f"loaded_{key}", _MIB, 0)
        yield Row(f"{title} after work, MiB", (key,), key, _MIB, 0)


ROWS = tuple(_rows())
