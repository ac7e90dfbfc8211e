"""Both ends of an MQTT connection: a transport with blocking waits, and a node without a model."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Self, TypeVar

from edged.commands.local_broker import Broker
from edged.config.broker_url import BrokerAddress
from edged.protocol.decode import decode
from edged.protocol.encode import encode_fragment, encode_reply
from edged.protocol.request import (
    Answer,
    CancelOutcome,
    CancelRequest,
    FinishReason,
    Rejected,
    Reply,
    Request,
)
from edged.protocol.wire import Delivery, Refusal, RequestDefaults, Topics
from edged.transport.events import Connected, Published, TransportEvent
from edged.transport.network import Transport
from edged.transport.settings import BrokerSettings, Will

WAIT_S = 60.0
"""For a machine that is busy with something else; what is right takes a fraction of it."""
Event = TypeVar("Event", bound=TransportEvent)


def settings(broker: Broker, client_id: str, **changes: object) -> BrokerSettings:
    """Return settings for ``broker`` that reconnect quickly."""
    terms: dict[str, object] = {
        "client_id": client_id,
        "protocol": broker.protocol,
        "retry_min_s": 0.05,
        "retry_max_s": 0.2,
    }
    place: dict[str, object] = {"host": broker.host, "port": broker.port}
    keys = [item.name for item in fields(BrokerAddress) if item.name in changes]
    place |= {key: changes.pop(key) for key in keys}
    address = BrokerAddress(**place)  # type: ignore[arg-type]
    return BrokerSettings(address, **(terms | changes))  # type: ignore[arg-type]


class Peer:
    """A transport whose events a test takes one at a time, in order."""

    def __init__(
        self,
        terms: BrokerSettings,
        *filters: str,
        will: Will | None = None,
        is_started: bool = True,
    ) -> None:
        self.events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self.seen: list[TransportEvent] = []
        self.transport = Transport(terms, subscriptions=filters, will=will, emit=self.events.put)
        if is_started:
            self.transport.start()

    def expect(self, kind: type[Event], matches: Callable[[Event], bool] = lambda _: True) -> Event:
        """Take events until one of the kind matches; fail after ``WAIT_S``."""
        over_s = time.monotonic() + WAIT_S
        while True:
            try:
                event = self.events.get(timeout=max(0.0, over_s - time.monotonic()))
            except queue.Empty:
                message = f"no {kind.__name__}, only {self.seen}"
                raise AssertionError(message) from None
            self.seen.append(event)
            if isinstance(event, kind) and matches(event):
                return event

    def stop(self, farewell: Sequence[Will] = ()) -> None:
        self.transport.stop(farewell, timeout_s=5.0)


@contextlib.contextmanager
def connected(terms: BrokerSettings, *filters: str, will: Will | None = None) -> Iterator[Peer]:
    """Yield a peer that is connected and subscribed."""
    peer = Peer(terms, *filters, will=will)
    try:
        peer.expect(Connected)
        yield peer
    finally:
        peer.stop()


class FakeNode:
    """A node that echoes the prompt; each request is acknowledged after its reply.

    It refuses the prompt ``refuse CODE`` and holds the prompt ``wait`` until it is cancelled."""

    def __init__(
        self, broker: Broker, node: str = "kitchen", *, is_identity_required: bool = False
    ) -> None:
        self.topics = Topics("edged", node)
        self.refusals: dict[str, Rejected] = {}
        self.answers: dict[str, Answer] = {}
        self.requests: list[Request] = []
        self.is_asked = threading.Event()
        self._defaults = RequestDefaults(self.topics, is_identity_required=is_identity_required)
        self._owed: dict[int, Delivery] = {}
        self._kept: dict[str | None, tuple[Request, Delivery]] = {}
        self._is_online = threading.Event()
        self._transport = Transport(
            settings(broker, f"edged-{node}"),
            subscriptions=self.topics.request_filters,
            will=Will(self.topics.availability, b"offline"),
            emit=self._take,
        )

    def __enter__(self) -> Self:
        self._transport.start()
        assert self._is_online.wait(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.stop([Will(self.topics.availability, b"offline")])

    def _take(self, event: TransportEvent) -> None:
        if isinstance(event, Connected):
            message = encode_fragment(self.topics, "x", 0, "")
            online = message._replace(topic=self.topics.availability, payload=b"online")
            self._online = self._transport.publish(online, retain=True)
        elif isinstance(event, Published) and event.handle == self._online:
            self._is_online.set()
        elif isinstance(event, Published) and event.handle in self._owed:
            self._transport.acknowledge(self._owed.pop(event.handle))
        elif isinstance(event, Delivery):
            self._answer(event)

    def _answer(self, delivery: Delivery) -> None:
        decoded = decode(delivery, self._defaults, time.monotonic())
        if isinstance(decoded, Refusal):
            self._reply(delivery, Reply(decoded.reply_to, decoded.rejected))
        elif isinstance(decoded, CancelRequest):
            kept = self._kept.pop(decoded.reply_to.request_id, None)
            self._reply(delivery, Reply(decoded.reply_to, CancelOutcome(kept is not None)))
            if kept is not None:
                outcome = Answer("so far", FinishReason.CANCELLED)
                self._reply(kept[1], Reply(kept[0].reply_to, outcome))
        elif isinstance(decoded, Request):
            self.requests.append(decoded)
            self._generate(delivery, decoded)
            self.is_asked.set()

    def _generate(self, delivery: Delivery, request: Request) -> None:
        prompt = request.messages[-1].content
        if prompt == "wait":
            self._kept[request.reply_to.request_id] = (request, delivery)
            return
        if request.is_stream:
            for i, word in enumerate(prompt.split()[:-1]):  # the last word comes with the reply
                name = request.reply_to.request_id or ""
                topics = self.topics.client(request.reply_to.user)
                self._transport.publish(encode_fragment(topics, name, i, f"{word} "), qos=0)
        answer = self.answers.get(prompt, Answer(prompt, FinishReason.STOP))
        outcome = self.refusals.get(prompt, answer)
        self._reply(delivery, Reply(request.reply_to, outcome))

    def _reply(self, delivery: Delivery, reply: Reply) -> None:
        message = encode_reply(reply, node=self.topics.node, model_id="fake", seconds_left=5.0)
        self._owed[self._transport.publish(message)] = delivery
