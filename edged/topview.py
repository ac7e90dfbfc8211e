"""One look at a node as lines of text, made of its ``state`` and those before it.

Rule: no clock, no terminal; a member that is missing or null is a dash.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

HISTORY = 60
"""States that a sparkline shows."""
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
_MIB = 1024**2


class TopView:
    """Remember the latest states and draw them."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._states: deque[Mapping[str, Any]] = deque(maxlen=HISTORY)

    def add(self, state: Mapping[str, Any]) -> None:
        """Take in one ``state`` message."""
        self._states.append(state)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the latest state."""
        state = self._states[-1] if self._states else {}
        yield (
            f"{self._node}: {state.get('state', '-')}, up {_duration(state.get('uptime_s'))},"
            f" {state.get('running', 0)} of {state.get('slots', '-')} slots running,"
            f" {state.get('queue', 0)} waiting"
        )
        yield from self._memory(state)
        yield ""
        yield self._spark("first token p95", "ttft_p95_s", " s", state)
        yield self._spark("decode", "decode_tok_s", " tok/s", state)
        yield self._spark("waiting", "queue", "", state)
        yield self._spark("temperature", "temperature_c", " °C", state)
        yield ""
        yield (
            f"predicted within {_share(state.get('prediction_error_p50'))} (median),"
            f" {_share(state.get('prediction_error_p95'))} (p95);"
            f" throttled {_share(state.get('throttled'))}, battery {_share(state.get('battery'))}"
        )
        counts = ("served", "refused", "expired", "cancelled", "paused", "duplicates", "dropped")
        yield ", ".join(f"{state.get(name, '-')} {name}" for name in counts)
        refused = state.get("refused_by_code") or {}
        if refused:
            yield "refused: " + ", ".join(f"{code} {n}" for code, n in sorted(refused.items()))

    def _memory(self, state: Mapping[str, Any]) -> Iterator[str]:
        budget = state.get("budget_bytes") or 0
        rss, planned = state.get("rss_bytes") or 0, state.get("planned_bytes") or 0
        kept_by = "the kernel" if state.get("budget_enforced") else "edged alone"
        yield (
            f"memory  {_bar(rss, budget)} {rss // _MIB} of {budget // _MIB} MiB, kept by {kept_by};"
            f" pressure: {state.get('pressure', '-')}"
        )
        ledger = state.get("ledger") or {}
        parts = ", ".join(f"{name} {size // _MIB}" for name, size in ledger.items() if size)
        yield f"ledger  {_bar(planned, budget)} {planned // _MIB} MiB: {parts or '-'}"

    def _spark(self, title: str, key: str, unit: str, state: Mapping[str, Any]) -> str:
        values = [value for seen in self._states if (value := seen.get(key)) is not None]
        latest = state.get(key)
        told = "-" if latest is None else f"{latest:g}{unit}"
        return f"{title:<16}{told:>14}  {sparkline(values)}".rstrip()


def sparkline(values: list[float]) -> str:
    """Draw values as one line of bars, from the least to the greatest of them."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = high - low
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / span * top) if span else 0] for value in values)


def _bar(part: float, whole: float) -> str:
    full = round(min(part / whole, 1.0) * _WIDTH) if whole else 0
    return "[" + "#" * full + "." * (_WIDTH - full) + "]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds) % 60} s"
