"""A requester of a group that retries, and accounts for every request."""

import contextlib
import json
import queue
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from edged.protocol.wire import Delivery, Encoded, WireProperties
from tests.system.broker.wire_ends import Peer

REQUEST = "edged/group/lab/request/generate"
REPLIES = "edged/reply/fleet"
PATIENCE_S = 6.0
"""After so long without a reply it asks again: longer than a dead node's session lives."""
NUM_OPEN = 6
"""Requests on their way at any time: two for each node."""
LIMIT_S = 240.0


@dataclass(frozen=True)
class Outcome:
    """What a requester saw."""

    fault: str
    asked: int
    lost: int
    """Never answered, although asked again."""
    refused: int
    """Refusals that were followed by another try."""
    asked_again: int
    """Tries beyond the first of a request because no reply came."""
    answered_twice: int
    """Requests with the answers of two executions."""
    median_s: float
    longest_s: float
    """From the first try to the first answer."""
    nodes: dict[str, int]
    """Answers by node."""


class Requester:
    """Keep some requests open, and account for each; ``name`` is a prefix of their ids."""

    def __init__(self, peer: Peer, name: str) -> None:
        self._peer, self._name = peer, name
        self._first_s: dict[str, float] = {}
        self._tried_s: dict[str, float] = {}
        self._answers: dict[str, list[str]] = {}
        self._waited_s: list[float] = []
        self._num_refused = 0
        self._num_again = 0

    @property
    def num_answered(self) -> int:
        return len(self._waited_s)

    def keep_asking(self, is_over: Callable[[], bool]) -> None:
        """Keep ``NUM_OPEN`` requests open until stopped, then wait for those still open."""
        until_s = time.monotonic() + LIMIT_S
        while time.monotonic() < until_s and (self._tried_s or not is_over()):
            while len(self._tried_s) < NUM_OPEN and not is_over():
                name = f"{self._name}-{len(self._first_s)}"
                self._first_s[name] = time.monotonic()
                self._try(name)
            with contextlib.suppress(queue.Empty):
                event = self._peer.events.get(timeout=0.1)
                if isinstance(event, Delivery):
                    self._note(event)
            for name, tried_s in list(self._tried_s.items()):
                if time.monotonic() - tried_s > PATIENCE_S:
                    self._num_again += 1
                    self._try(name)

    def outcome(self, fault: str) -> Outcome:
        """Count."""
        nodes = Counter(node for answers in self._answers.values() for node in answers)
        waited_s = sorted(self._waited_s)
        return Outcome(
            fault=fault,
            asked=len(self._first_s),
            lost=len(self._first_s.keys() - self._answers.keys()),
            refused=self._num_refused,
            asked_again=self._num_again,
            answered_twice=sum(len(answers) > 1 for answers in self._answers.values()),
            median_s=round(waited_s[len(waited_s) // 2], 3),
            longest_s=round(waited_s[-1], 1),
            nodes=dict(sorted(nodes.items())),
        )

    def _try(self, name: str) -> None:
        self._tried_s[name] = time.monotonic()
        request = {"id": name, "prompt": "x", "max_tokens": 32, "response_topic": REPLIES}
        payload = json.dumps(request | {"timeout_ms": 60_000}).encode()
        self._peer.transport.publish(Encoded(REQUEST, payload, WireProperties(message_expiry_s=60)))

    def _note(self, delivery: Delivery) -> None:
        self._peer.transport.acknowledge(delivery)
        reply = json.loads(delivery.payload)
        name = reply["id"]
        if name not in self._first_s:
            return
        if reply["status"] != "ok":
            assert reply["error"]["retryable"], reply
            self._num_refused += 1
            self._try(name)
        elif not reply["duplicate"]:
            self._tried_s.pop(name, None)
            if name not in self._answers:
                self._waited_s.append(time.monotonic() - self._first_s[name])
            self._answers.setdefault(name, []).append(reply["node"])
