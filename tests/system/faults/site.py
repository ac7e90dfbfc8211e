"""A broker, the daemon on it with a tiny model, and a client that counts.

The client is edged's own transport with a persistent session, so it misses nothing whatever happens
to the broker; it does not use the proxy.
"""

import contextlib
import itertools
import json
import queue
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edged.commands.local_broker import Broker
from edged.daemon.client_id import FILE_NAME, PART_BYTES
from edged.protocol.wire import Delivery, Encoded, WireProperties
from edged.transport.events import Published
from tests.system.broker.daemons import Daemon, daemon
from tests.system.broker.wire_ends import Peer, settings

REQUEST = "edged/kitchen/request/generate"
REPLIES = "edged/kitchen/response/#"
LIMIT_S = 300.0
KEEPALIVE = "5s"
"""The shortest that the configuration takes."""


class Crowd:
    """Ask by number and account for every answer."""

    def __init__(self, peer: Peer, prefix: str) -> None:
        self.asked: set[str] = set()
        self.replies: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.num_copies = 0
        """Messages that came twice, to the byte: MQTT's own at least once."""
        self._peer = peer
        self._prefix = prefix
        self._numbers = itertools.count()

    def ask(self, count: int, *, expiry_s: int = 3600, **members: object) -> list[str]:
        """Send requests; return when the broker has them all."""
        names = [f"{self._prefix}{next(self._numbers)}" for _ in range(count)]
        self.asked.update(names)
        # Sampled, so that no two executions give the same text.
        usual = {"prompt": "x", "max_tokens": 8, "temperature": 1, "timeout_ms": 300_000}
        request = usual | members
        properties = WireProperties(message_expiry_s=expiry_s)
        handles = set()
        for name in names:
            payload = json.dumps(request | {"id": name}).encode()
            message = Encoded(REQUEST, payload, properties)
            handles.add(self._peer.transport.publish(message))
        until_s = time.monotonic() + LIMIT_S
        while handles and time.monotonic() < until_s:
            event = self._peer.events.get(timeout=LIMIT_S)
            if isinstance(event, Delivery):
                self._note(event)
            elif isinstance(event, Published):
                assert event.failure is None
                handles.discard(event.handle)
        return names

    def take(self, count: int) -> None:
        """Wait for this many more answers, not counting refusals, or until no request is open."""
        wanted = count + self._num_answers()
        while self.lost and self._num_answers() < wanted:
            self._note(self._peer.expect(Delivery))

    def settle(self) -> None:
        """Wait until all requests are answered."""
        until_s = time.monotonic() + LIMIT_S
        while self.lost and (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                event = self._peer.events.get(timeout=left_s)
                if isinstance(event, Delivery):
                    self._note(event)
        assert not self.lost, f"never answered: {self.lost}"

    @property
    def lost(self) -> set[str]:
        """Requests without a reply so far."""
        return self.asked - self.replies.keys()

    @property
    def num_executed_again(self) -> int:
        """Answers beyond the first of each request, marked or not."""
        return sum(max(0, len(answers) - 1) for answers in self._answers())

    @property
    def num_unmarked(self) -> int:
        """Of these, those not marked as a repetition; must be 0."""
        firsts = ([a for a in answers if not a["duplicate"]] for answers in self._answers())
        return sum(max(0, len(first) - 1) for first in firsts)

    @property
    def codes(self) -> set[str]:
        """How the requests ended: ``ok``, or codes of errors."""
        every = (reply for replies in self.replies.values() for reply in replies)
        return {reply.get("error", {}).get("code", "ok") for reply in every}

    def _num_answers(self) -> int:
        return sum(len(answers) for answers in self._answers())

    def _answers(self) -> list[list[dict[str, Any]]]:
        """Yield the answers to each request, after its refusals."""
        return [[r for r in replies if r["status"] == "ok"] for replies in self.replies.values()]

    def _note(self, delivery: Delivery) -> None:
        reply = json.loads(delivery.payload)
        if reply in self.replies[reply["id"]]:
            self.num_copies += 1  # the same message again, duplicated by QoS 1
        else:
            self.replies[reply["id"]].append(reply)
        self._peer.transport.acknowledge(delivery)


@contextlib.contextmanager
def crowd(broker: Broker, prefix: str = "r") -> Iterator[Crowd]:
    """Connect a client that receives every reply of the node; its ids start with ``prefix``."""
    peer = Peer(settings(broker, "crowd"), REPLIES)
    try:
        yield Crowd(peer, prefix)
    finally:
        peer.stop()


def configure(
    folder: Path, bundle: Path, port: int, keepalive: str = KEEPALIVE, *, is_first: bool = False
) -> Path:
    """Write a configuration that keeps state in ``folder`` and detects a dead broker quickly.

    Unless it ``is_first``, the node has run in that folder before, and has no former session to
    look for.
    """
    known = folder / FILE_NAME
    if not is_first and not known.exists():
        known.touch(0o600)
        known.write_text(f"edged-kitchen-{secrets.token_hex(PART_BYTES)}\n")
    document = {
        "node": "kitchen",
        "model": {"path": str(bundle)},
        "broker": {"host": "127.0.0.1", "port": port, "keepalive": keepalive},
        "queue": {"size": 16},
        "state": {"folder": str(folder), "file": str(folder / "state.json"), "interval": "1s"},
    }
    path = folder / "edged.yaml"
    path.write_text(json.dumps(document), "utf-8")  # JSON is YAML
    return path


@contextlib.contextmanager
def serving(
    folder: Path,
    bundle: Path,
    port: int,
    *changes: str,
    keepalive: str = KEEPALIVE,
    **environment: str,
) -> Iterator[Daemon]:
    """The daemon, connected.

    Args:
        folder: For its configuration, state and log.
        bundle: The model.
        port: Of the broker, or of the proxy in front of it.
        changes: Of ``hasty.py``, made to the daemon before it starts.
        keepalive: Longer for a test in which no connection may break on a busy machine.
        environment: Of the process.
    """
    config = str(configure(folder, bundle, port, keepalive))
    program = ("-m", "tests.system.faults.hasty", *changes) if changes else ("-m", "edged")
    with daemon(folder, "--config", config, program=program, **environment) as process:
        process.until("STATUS=serving")
        yield process


def state(folder: Path) -> dict[str, Any]:
    """Return the content of the state file."""
    path = folder / "state.json"
    members = json.loads(path.read_bytes()) if path.exists() else {}
    assert isinstance(members, dict)
    return members


def wait_for_log(process: Daemon, words: str) -> None:
    """Wait until the daemon has logged something."""
    pause = threading.Event()
    until_s = time.monotonic() + LIMIT_S
    while words not in process.log:
        assert time.monotonic() < until_s, f"never logged: {words}\n{process.log}"
        pause.wait(0.05)


def wait_for_state(folder: Path, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until the state file satisfies a condition."""
    pause = threading.Event()
    until_s = time.monotonic() + LIMIT_S
    while not (found := state(folder)) or not holds(found):
        assert time.monotonic() < until_s, f"the state never came to that: {found}"
        pause.wait(0.05)
    return found
