"""``edged top``: how a node is, from the ``state`` it retains at the broker; no curses.

Rule: a reader only; it publishes nothing.
"""

import argparse
import json
import queue
import secrets
import sys
import time

from edged.broker_options import BrokerOptions, add_broker_options, read_broker_options
from edged.errors import ExitCode
from edged.messages import Delivery, Topics
from edged.topview import TopView
from edged.transport import BrokerSettings, Transport, TransportEvent

WAIT_S = 10.0
"""How long to wait for a broker and a first state."""
_HOME_AND_CLEAR = "\x1b[H\x1b[J"
_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged top``."""
    add_broker_options(parser)
    parser.add_argument("--once", action="store_true", help="print one look and end")
    parser.add_argument("--json", action="store_true", help="with --once: the state itself")


def main(arguments: argparse.Namespace) -> int:
    """Show a node until it is interrupted; return the exit status.

    Raises:
        UsageError: An option is missing or wrong.
    """
    options = read_broker_options(arguments)
    events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
    transport = _transport(options, events)
    transport.start()
    try:
        return _show(options, events, arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        transport.stop([], 1.0)


def _show(
    options: BrokerOptions,
    events: "queue.SimpleQueue[TransportEvent]",
    arguments: argparse.Namespace,
) -> int:
    view = TopView(options.node)
    state = _next_state(events, WAIT_S)
    if state is None:
        where = f"{options.address.url} within {WAIT_S:.0f} s; are --broker and --node right?"
        print(f"edged top: no state of {options.node} at {where}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    if arguments.once and arguments.json:
        print(json.dumps(state, indent=2))
        return ExitCode.OK
    while True:
        if state is not None:
            view.add(state)
            print("" if arguments.once else _HOME_AND_CLEAR, end="")
            print(*view.lines(), sep="\n", flush=True)
        if arguments.once:
            return ExitCode.OK
        state = _next_state(events, WAIT_S)


def _next_state(
    events: "queue.SimpleQueue[TransportEvent]", wait_s: float
) -> dict[str, object] | None:
    """Return the next state that arrives, or None when none does in time."""
    until_s = time.monotonic() + wait_s
    while (left_s := until_s - time.monotonic()) > 0:
        try:
            event = events.get(timeout=left_s)
        except queue.Empty:
            break
        if isinstance(event, Delivery):
            try:
                state = json.loads(event.payload)
            except ValueError:
                continue
            if isinstance(state, dict):
                return state
    return None


def _transport(options: BrokerOptions, events: "queue.SimpleQueue[TransportEvent]") -> Transport:
    broker = options.address
    return Transport(
        BrokerSettings(
            host=broker.host,
            port=broker.port,
            client_id=f"top-{secrets.token_hex(8)}",
            username=broker.username,
            password=broker.password,
            is_tls=broker.is_tls,
            ca_file=options.ca_file,
            session_expiry_s=0,
            wants_retained=True,
        ),
        subscriptions=[Topics(options.prefix, options.node).state],
        will=None,
        emit=events.put,
    )
