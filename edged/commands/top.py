"""``edged top``: show a node's retained ``state``, refreshed in the terminal.

Rule: it only subscribes; it publishes nothing.
"""

import argparse
import json
import secrets
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from edged.commands.broker_options import BrokerOptions, add_broker_options, read_broker_options
from edged.commands.sync_client import SyncClient
from edged.commands.terminal import shown, shown_json
from edged.errors import ExitCode
from edged.protocol.wire import Delivery
from edged.transport.events import ConnectFailed

# States in a sparkline.
HISTORY = 60
# How long to wait for the broker and the first state.
WAIT_S = 10.0
_HOME_AND_CLEAR = "\x1b[H\x1b[J"
_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
_MIB = 1024**2
_TEXTS, _COUNTS_BY_NAME = ("state", "pressure"), ("refused_by_code", "ledger")
_LARGEST = 1e15


class TopView:
    """Remember the latest states and draw them."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._states: deque[Mapping[str, Any]] = deque(maxlen=HISTORY)

    def add(self, state: Mapping[str, Any]) -> None:
        """Add one ``state`` message, without members of another kind than a node's."""
        self._states.append({name: one for name, one in state.items() if _is_shown(name, one)})

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
        enforced_by = "the kernel" if state.get("budget_enforced") else "edged only"
        yield (
            f"memory  {_bar(rss, budget)} {rss // _MIB} of {budget // _MIB} MiB,"
            f" enforced by {enforced_by}; pressure: {state.get('pressure', '-')}"
        )
        ledger = state.get("ledger") or {}
        parts = ", ".join(f"{name} {size // _MIB}" for name, size in ledger.items() if size)
        yield f"ledger  {_bar(planned, budget)} {planned // _MIB} MiB: {parts or '-'}"

    def _spark(self, title: str, key: str, unit: str, state: Mapping[str, Any]) -> str:
        values = [value for seen in self._states if (value := seen.get(key)) is not None]
        latest = state.get(key)
        figure = "-" if latest is None else f"{latest:g}{unit}"
        return f"{title:<16}{figure:>14}  {sparkline(values)}".rstrip()


def _is_shown(name: str, value: object) -> bool:
    """Return whether a member is of its kind: whoever may publish there, may publish anything."""
    if name in _TEXTS:
        return isinstance(value, str)
    if name in _COUNTS_BY_NAME:
        return isinstance(value, dict) and all(map(_is_number, value.values()))
    return _is_number(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST


def sparkline(values: list[float]) -> str:
    """Draw values as one line of bars, scaled to their range."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = high - low
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / span * top) if span else 0] for value in values)


def _bar(part: float, whole: float) -> str:
    full = round(min(max(part / whole, 0.0), 1.0) * _WIDTH) if whole else 0
    return "[" + "#" * full + "." * (_WIDTH - full) + "]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds) % 60} s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged top``."""
    add_broker_options(parser)
    parser.add_argument("--once", action="store_true", help="print it once and exit")
    parser.add_argument("--json", action="store_true", help="with --once: the state as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Show a node until it is interrupted; return the exit status.

    Raises:
        UsageError: An option is missing or wrong.
    """
    options = read_broker_options(arguments)
    with options.client(f"top-{secrets.token_hex(8)}", [options.topics.state]) as client:
        try:
            return _show(options, client, arguments)
        except KeyboardInterrupt:
            return _INTERRUPTED


def _show(options: BrokerOptions, client: SyncClient, arguments: argparse.Namespace) -> int:
    state, problem = _next_state(client)
    if state is None:
        where = f"{options.address.url} within {WAIT_S:.0f} s"
        why = shown(problem or "are --broker and --node right?")
        print(f"edged top: no state of {options.node} at {where}; {why}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    if arguments.once and arguments.json:
        print(shown_json(state, indent=2))
        return ExitCode.OK
    view = TopView(options.node)
    while True:
        if state is not None:
            view.add(state)
            print("" if arguments.once else _HOME_AND_CLEAR, end="")
            print(*map(shown, view.lines()), sep="\n", flush=True)
        if arguments.once:
            return ExitCode.OK
        state, _ = _next_state(client)


def _next_state(client: SyncClient) -> tuple[dict[str, Any] | None, str | None]:
    """Return the next state that arrives in time, and why the broker could not be asked."""
    problem = None
    for event in client.events(WAIT_S):
        if isinstance(event, ConnectFailed):
            problem = event.reason
        if isinstance(event, Delivery):
            try:
                state = json.loads(event.payload)
            except (ValueError, RecursionError):
                continue
            if isinstance(state, dict):
                return state, None
    return None, problem
