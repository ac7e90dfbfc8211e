"""A node as a teacher: what it is asked, how its replies are read, and what ends the asking."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Self, cast

import numpy as np
import pytest

from edged.commands.broker_options import BrokerOptions
from edged.commands.node_teacher import MAX_PAUSE_S, MAX_TRIES, NodeTeacher
from edged.commands.sync_client import SyncClient
from edged.config.broker_url import BrokerAddress
from edged.errors import UnavailableError, UsageError
from edged.protocol.wire import Delivery, Encoded
from edged.specialists.examples import Example
from edged.transport.events import Connected, ConnectFailed, Published, TransportEvent

ONLINE = Connected(1, is_session_present=False, protocol_version="5")
LABELS = ["off", "on"]
EXAMPLE = Example("dim the hall", None, 3, "line 3", is_open=True, file="prompts.jsonl")
OVERLOAD = {"code": "queue_full", "message": "is full", "retryable": True}

Answering = Callable[[dict[str, Any]], dict[str, Any] | TransportEvent]


class FakeClient:
    """Answers each request at once; remembers how long it was waited for."""

    def __init__(self, answer: Answering, first: TransportEvent | None = ONLINE) -> None:
        self._answer = answer
        self._events: list[TransportEvent] = [] if first is None else [first]
        self.requests: list[dict[str, Any]] = []
        self.waits_s: list[float] = []
        self.states: list[str] = []

    def __enter__(self) -> Self:
        self.states.append("open")
        return self

    def __exit__(self, *_: object) -> None:
        self.states.append("closed")

    def publish(self, message: Encoded) -> int:
        request = json.loads(message.payload)
        self.requests.append(request)
        answer = self._answer(request)
        if isinstance(answer, dict):
            other = {"id": "another", "status": "ok", "data": {"choice": 0}}
            members = {"id": request["id"], **answer}
            topic = request["response_topic"]
            for reply in (other, members):
                self._events.append(Delivery(topic, json.dumps(reply).encode()))
        else:
            self._events.append(answer)
        return 1

    def events(self, timeout_s: float) -> Iterator[TransportEvent]:
        self.waits_s.append(timeout_s)
        while self._events:
            yield self._events.pop(0)


class FakeTarget(BrokerOptions):
    """A node behind a ``FakeClient``."""

    __slots__ = ()
    fake: FakeClient

    def client(self, *_: object, **__: object) -> SyncClient:
        return cast("SyncClient", self.fake)


def teacher(client: FakeClient, labels: list[str] = LABELS) -> NodeTeacher:
    FakeTarget.fake = client
    return NodeTeacher(FakeTarget(BrokerAddress("broker", 1883), "attic"), labels)


def ask(answer: Answering) -> np.ndarray | None:
    with teacher(FakeClient(answer)) as node:
        return node.ask(EXAMPLE)


def ok(**data: object) -> dict[str, Any]:
    return {"status": "ok", "data": data}


def test_it_asks_for_a_choice_with_probabilities() -> None:
    client = FakeClient(lambda _: ok(choice=1, probabilities=[0.25, 0.75]))
    with teacher(client) as node:
        first, second = node.ask(EXAMPLE), node.ask(EXAMPLE)
        assert client.states == ["open"]
    assert client.states == ["open", "closed"]
    np.testing.assert_allclose(cast("Any", [first, second]), [[0.25, 0.75]] * 2)
    request, other = client.requests
    assert request["prompt"] == "dim the hall"
    assert "Labels: off, on" in request["system"]
    assert request["format"] == {"type": "choice", "choices": LABELS, "probabilities": True}
    assert request["response_topic"].startswith("edged/attic/response/generate/teach-")
    assert request["id"] != other["id"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"choice": 0, "probabilities": [2e-1, 6e-1]}, [0.25, 0.75]),
        ({"choice": 1}, [0.0, 1.0]),
        ({"choice": 1, "probabilities": [1.0]}, [0.0, 1.0]),
        ({"choice": 1, "probabilities": [0.0, 0.0]}, [0.0, 1.0]),
        ({"choice": 0, "probabilities": [True, 0.5]}, [1.0, 0.0]),
        ({"choice": 0, "probabilities": [-0.5, 0.5]}, [1.0, 0.0]),
        ({"choice": 0, "probabilities": [float("nan"), 0.5]}, [1.0, 0.0]),
        ({"choice": None, "finish_reason": "length"}, None),
        ({"choice": 2}, None),
        ({"choice": True}, None),
        ({}, None),
    ],
)
def test_probabilities_are_read_where_there_are_some_and_else_the_choice(
    data: dict[str, object], expected: list[float] | None
) -> None:
    found = ask(lambda _: ok(**data))
    assert (found if found is None else found.tolist()) == (
        expected if expected is None else pytest.approx(expected)
    )


def test_an_overloaded_node_is_asked_again_after_the_time_it_names() -> None:
    replies = [
        {"status": "error", "error": OVERLOAD | {"retry_after_ms": 2400}},
        {"status": "error", "error": OVERLOAD | {"retry_after_ms": 9e9}},
        {"status": "error", "error": OVERLOAD},
        ok(choice=0),
    ]
    client = FakeClient(lambda _: replies.pop(0))
    with teacher(client) as node:
        assert node.ask(EXAMPLE) is not None
    assert client.waits_s[2::2] == [2.4, MAX_PAUSE_S, 1.0]
    assert len({request["id"] for request in client.requests}) == 4


def test_a_node_that_stays_overloaded_ends_it() -> None:
    client = FakeClient(lambda _: {"status": "error", "error": OVERLOAD})
    with teacher(client) as node, pytest.raises(UnavailableError) as caught:
        node.ask(EXAMPLE)
    assert len(client.requests) == MAX_TRIES
    assert str(caught.value).startswith("prompts.jsonl:3: node attic: queue_full: is full, 6 times")


@pytest.mark.parametrize(
    ("answer", "error", "problem"),
    [
        (
            {"status": "error", "error": {"code": "prompt_too_long", "message": "9 tokens"}},
            UsageError,
            "prompts.jsonl:3: node attic: prompt_too_long: 9 tokens",
        ),
        (Delivery("edged/attic/availability", b"offline"), UnavailableError, "is offline"),
        (Published(1, has_subscribers=False), UnavailableError, "does not listen"),
        (Published(1, failure="too large"), UnavailableError, "cannot be asked: too large"),
        (Delivery("edged/attic/availability", b"online"), UnavailableError, "no reply within"),
    ],
)
def test_what_cannot_be_answered_ends_it_with_the_reason(
    answer: dict[str, Any] | TransportEvent, error: type[Exception], problem: str
) -> None:
    with pytest.raises(error, match=problem):
        ask(lambda _: answer)


def test_after_a_broken_connection_the_same_request_is_sent_again() -> None:
    answers: list[dict[str, Any] | TransportEvent] = [ONLINE, ok(choice=1)]
    client = FakeClient(lambda _: answers.pop(0))
    with teacher(client) as node:
        node.ask(EXAMPLE)
    first, second = client.requests
    assert first == second


@pytest.mark.parametrize("first", [None, ConnectFailed("refused", 1.0)])
def test_a_broker_that_does_not_answer_ends_it(first: TransportEvent | None) -> None:
    client = FakeClient(lambda _: ok(), first)
    with (
        pytest.raises(UnavailableError, match=r"mqtt://broker:1883: (does not answer|refused)"),
        teacher(client),
    ):
        pass
    assert client.states == ["open", "closed"]


def test_more_labels_than_a_node_takes_are_refused() -> None:
    for labels in ([str(index) for index in range(65)], ["x" * 257, "y"]):
        with pytest.raises(UsageError, match="a node takes 64 of 256"):
            teacher(FakeClient(lambda _: ok()), labels)
