"""A client that sends hostile messages and accounts for the replies to each of them.

Rule: knows nothing of edged but ``docs/protocol.md``, and publishes on loopback only.
"""

import contextlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.system.broker.peer import stop, without_delay
from tests.system.hostile.account import PASSWORD
from tests.system.hostile.attacks import GENERATE, HONEST, Message
from tests.system.hostile.wire import Publisher, correlation_data, expiry, response_topic

WAIT_S = 60.0
"""For a machine that is busy with something else; what is right takes a fraction of it."""
ROOT = "edged/kitchen"
REPLIES = "reply/hostile"
BUSY = frozenset({"queue_full", "timeout", "memory_pressure", "cancelled"})
"""Refusals for which the request is not at fault."""
TRANSFER_S = 0.25
"""What the way there and back may take of a busy machine."""


@dataclass(frozen=True)
class Reply:
    """What came back."""

    at_s: float
    """When, on the clock of this machine."""
    members: dict[str, Any]
    topic: str = ""

    @property
    def code(self) -> str:
        """``ok`` or the code of the error."""
        return str(self.members.get("error", {}).get("code", "ok"))

    @property
    def is_decision(self) -> bool:
        """Whether it is a refusal sent at once, without waiting in the queue."""
        error = self.members.get("error", {})
        has_waited = self.code == "timeout" and "predicted_ms" not in error
        return self.code not in ("ok", "cancelled") and not has_waited


@dataclass
class Sent:
    """One message and its replies."""

    message: Message
    at_s: float
    is_busy_allowed: bool = False
    """Whether it may be refused because others ask, too."""
    was_taken: bool = True
    """Whether the broker took it."""
    replies: list[Reply] = field(default_factory=list)

    @property
    def is_due(self) -> bool:
        """Whether it must be replied to."""
        return self.was_taken and bool(self.message.codes) and not self.message.is_silence_allowed

    @property
    def late_s(self) -> float:
        """How long after its deadline it was answered; 0 if in time or not at all."""
        limit_s = self.message.deadline_s
        answered_s = [reply.at_s for reply in self.replies if reply.code == "ok"]
        if limit_s is None or not answered_s or self.message.topic != GENERATE:
            return 0.0
        return max(0.0, answered_s[0] - self.at_s - limit_s - TRANSFER_S)

    @property
    def problem(self) -> str | None:
        """Return what is wrong with the replies so far; None if nothing."""
        codes = [reply.code for reply in self.replies]
        if not self.was_taken:
            return None if self.message.may_be_broken_off and not codes else f"broken off: {codes}"
        if not codes:
            return "no reply" if self.is_due else None
        if len(codes) > 1:
            return f"{len(codes)} replies: {codes}"
        return self._problem_of(self.replies[0])

    def _problem_of(self, reply: Reply) -> str | None:
        if self.is_busy_allowed and reply.code in BUSY and self.message.codes:
            return None
        if reply.code not in self.message.codes:
            return f"the reply is {reply.members}"
        said = "" if reply.code == "ok" else reply.members["error"]["message"]
        is_named = reply.code == "ok" or self.message.says in said
        return None if is_named else f"it does not name the reason: {said}"


class Attacker:
    """Send messages under names of its own and note the replies to each.

    Args:
        port: Of the broker, on loopback.
        prefix: Of the names, so that several attackers can run at the same time.
        is_busy_allowed: Whether its messages may be refused because the node is busy.
        user: The account, where the broker has some; its requests go to topics of its own.
    """

    def __init__(
        self,
        port: int,
        prefix: str = "h",
        *,
        is_busy_allowed: bool = False,
        user: str | None = None,
    ) -> None:
        self._port, self._prefix, self._is_busy_allowed = port, prefix, is_busy_allowed
        self._account = None if user is None else (user, PASSWORD)
        self._root = ROOT if user is None else f"{ROOT}/client/{user}"
        self._replies = REPLIES if user is None else f"{self._root}/response"
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._publishers = {each: Publisher(port, each, self._account) for each in ("5", "3.1.1")}
        self.sent: dict[str, Sent] = {}
        self.unexpected: list[str] = []
        """Replies that belong to no message of this client, by code."""
        self.state: dict[str, Any] = {}
        """The latest ``state`` of the node."""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        ready = threading.Event()
        if self._account is not None:
            self._client.username_pw_set(*self._account)
        listens = [f"{self._root}/response/#", "reply/#", f"{ROOT}/state"]
        self._client.on_connect = lambda client, *_: client.subscribe([(t, 1) for t in listens])
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_socket_open = without_delay
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(WAIT_S)

    def close(self) -> None:
        """Disconnect."""
        for publisher in self._publishers.values():
            publisher.close()
        stop(self._client)

    def send(self, message: Message) -> str:
        """Publish a message; return its name when the broker has accepted it or disconnected."""
        name = f"{self._prefix}{next(self._numbers)}."
        properties = list(message.properties)
        if message.is_marked:
            properties.append(correlation_data(name.encode()))
        if message.expiry_s is not None:
            properties.append(expiry(message.expiry_s))
        if message.is_addressed:
            properties.append(response_topic(f"{self._replies}/{self._prefix}"))
        sent = Sent(message, time.monotonic(), self._is_busy_allowed)
        self.sent[name] = sent
        publisher = self._publishers[message.version]
        payload = message.payload_for(name)
        topic = message.topic.replace(f"{ROOT}/request", f"{self._root}/request")
        sent.was_taken = publisher.publish(topic, payload, properties, retain=message.retain)
        if not sent.was_taken:
            publisher.close()
            renewed = Publisher(self._port, message.version, self._account)
            self._publishers[message.version] = renewed
        return name

    def settle(self, *names: str, wait_s: float = WAIT_S) -> bool:
        """Wait until each of these messages has a reply; return whether it has."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(self.sent[name].replies for name in names), wait_s
            )

    def ask_honestly(self, **members: object) -> Sent:
        """Send a valid request and return it with its reply."""
        name = self.send(Message(HONEST | members, codes=frozenset({"ok"})))
        self.settle(name)
        return self.sent[name]

    def next_state(self) -> dict[str, Any]:
        """Wait for the next ``state``; the current one may be a second old."""
        with self._changed:
            for _ in range(2):  # the first may have been in flight
                self.state = {}
                assert self._changed.wait_for(lambda: self.state, WAIT_S), "no state came"
            return self.state

    def wait_for_state(self, member: str, value: object) -> None:
        """Wait until the ``state`` satisfies a condition."""
        with self._changed:
            has_come = self._changed.wait_for(lambda: self.state.get(member) == value, WAIT_S)
        assert has_come, f"{member} is {self.state.get(member)} instead of {value}"

    @property
    def problems(self) -> dict[str, str]:
        """Problems by message: its name and first bytes."""
        found = ((name, sent, sent.problem) for name, sent in self.sent.items())
        return {
            f"{name} {sent.message.payload_for(name)[:60]!r}": problem
            for name, sent, problem in found
            if problem is not None
        }

    @property
    def codes(self) -> Counter[str]:
        """How messages ended."""
        return Counter(reply.code for sent in self.sent.values() for reply in sent.replies)

    def _take(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        at_s = time.monotonic()
        members = json.loads(message.payload)
        with self._changed:
            if message.topic.endswith("/state"):
                self.state = members
            else:
                self._note(Reply(at_s, members, message.topic), message)
            self._changed.notify_all()

    def _note(self, reply: Reply, message: mqtt.MQTTMessage) -> None:
        marked = getattr(message.properties, "CorrelationData", b"").partition(b".")[0] + b"."
        name = marked.decode(errors="replace")
        if name not in self.sent:
            name = reply.members.get("id") or ""
        if name in self.sent:
            self.sent[name].replies.append(reply)
        elif not name or name.startswith(self._prefix):
            self.unexpected.append(reply.code)


@contextlib.contextmanager
def attacker(
    port: int, prefix: str = "h", *, is_busy_allowed: bool = False, user: str | None = None
) -> Iterator[Attacker]:
    """Connect, and disconnect at the end."""
    client = Attacker(port, prefix, is_busy_allowed=is_busy_allowed, user=user)
    try:
        yield client
    finally:
        client.close()
