"""A node as a teacher, asked over MQTT: it chooses one of some options, or writes an answer.

Rule: it knows nothing of a node but ``docs/protocol.md``; every wait is bounded.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from edged.commands.broker_options import BrokerOptions
from edged.commands.received import ReceivedReply, decode_reply
from edged.errors import UnavailableError, UsageError
from edged.protocol.keys import MAX_CHOICE_LENGTH, MAX_CHOICES
from edged.protocol.wire import Delivery, Encoded, WireProperties
from edged.specialists.examples import Example
from edged.specialists.teacher import Doubles, instruction
from edged.transport.events import Connected, ConnectFailed, Published, TransportEvent

CONNECT_TIMEOUT_S = 10.0
TIMEOUT_S = 120
"""Deadline of one prompt: a larger model takes its time."""
MARGIN_S = 5.0
MAX_TRIES = 6
MAX_PAUSE_S = 60.0
_PAUSE_S = 1.0


class AskedNode:
    """A node to be asked, one prompt after the other; connects on entering the context."""

    def __init__(self, target: BrokerOptions) -> None:
        self._target = target
        self._client_id = f"teach-{secrets.token_hex(8)}"
        self._reply_topic = target.reply_topic(self._client_id)
        self._topic = target.client_topics.request("generate")
        self._availability = target.topics.availability
        self._client = target.client(self._client_id, [self._reply_topic, self._availability])
        self._num_asked = 0

    def __enter__(self) -> Self:
        self._client.__enter__()
        reason = "does not answer"
        for event in self._client.events(CONNECT_TIMEOUT_S):
            if isinstance(event, Connected):
                return self
            if isinstance(event, ConnectFailed):
                reason = event.reason
                break
        self._client.__exit__()
        raise UnavailableError(f"--teacher: {self._target.address.url}: {reason}")

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    def reply(self, members: Mapping[str, Any], place: str) -> ReceivedReply:
        """Return the answer to a request.

        A node that has too much to do is asked again after the time that it names.

        Args:
            members: of the request, without its id and address.
            place: what the request is about, for messages.

        Raises:
            UsageError: the node refuses the prompt.
            UnavailableError: the node gives no reply, or has too much to do for long.
        """
        for _ in range(MAX_TRIES):
            reply = self._exchange(members)
            if reply.is_ok:
                return reply
            refusal = f"{place}: node {self._target.node}: {reply.code}: {reply.message}"
            if not reply.is_retryable:
                raise UsageError(refusal)
            pause_s = _PAUSE_S if reply.retry_after_s is None else reply.retry_after_s
            for _ in self._client.events(min(max(pause_s, 0.0), MAX_PAUSE_S)):
                pass
        raise UnavailableError(f"{refusal}, {MAX_TRIES} times; try later")

    def _exchange(self, members: Mapping[str, Any]) -> ReceivedReply:
        self._num_asked += 1
        # Another one for each try: a node repeats its answer to an id that it knows.
        request_id = f"{self._client_id}-{self._num_asked}"
        message = self._message(request_id, members)
        self._client.publish(message)
        for event in self._client.events(TIMEOUT_S + MARGIN_S):
            if (silence := self._silence(event)) is not None:
                raise self._silent(silence)
            if isinstance(event, Delivery):
                reply = decode_reply(event.payload)
                if reply is not None and reply.request_id == request_id:
                    return reply
            elif isinstance(event, Connected):
                # The connection broke; the node answers the same id with the same answer.
                self._client.publish(message)
        raise self._silent(f"gave no reply within {TIMEOUT_S} s")

    def _silence(self, event: TransportEvent) -> str | None:
        """Return why no reply will come, if an event says so."""
        match event:
            case Delivery(payload=b"offline") if event.topic == self._availability:
                return "is offline"
            case Published(has_subscribers=False):
                return "does not listen"
            case Published(failure=str()):
                return f"cannot be asked: {event.failure}"
        return None

    def _silent(self, reason: str) -> UnavailableError:
        node, url = self._target.node, self._target.address.url
        return UnavailableError(f"--teacher: node {node} at {url} {reason}")

    def _message(self, request_id: str, members: Mapping[str, Any]) -> Encoded:
        own = {
            "id": request_id,
            "response_topic": self._reply_topic,  # for MQTT 3.1.1, which has no properties
            "timeout_ms": TIMEOUT_S * 1000,
        }
        properties = WireProperties(
            response_topic=self._reply_topic,
            correlation_data=request_id.encode(),
            content_type="application/json",
            payload_format=1,
            message_expiry_s=TIMEOUT_S,
        )
        return Encoded(self._topic, json.dumps({**own, **members}).encode(), properties)


class NodeTeacher:
    """A node that chooses one of some options.

    Raises:
        UsageError: there are more options than a node takes, or longer ones.
    """

    def __init__(self, target: BrokerOptions, options: Sequence[str]) -> None:
        longest = max(options, key=len)
        if len(options) > MAX_CHOICES or len(longest) > MAX_CHOICE_LENGTH:
            raise UsageError(
                f"{len(options)} labels of up to {len(longest)} characters: a node takes "
                f"{MAX_CHOICES} of {MAX_CHOICE_LENGTH}; use fewer, or a bundle as the teacher"
            )
        self._node, self._options = AskedNode(target), tuple(options)
        self._system = instruction(options)

    def __enter__(self) -> Self:
        self._node.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._node.__exit__()

    def ask(self, example: Example) -> Doubles | None:
        """Return the probability of each option ``[options]``; None when the answer was cut off.

        Raises:
            UsageError: the node refuses the prompt.
            UnavailableError: the node gives no reply, or has too much to do for long.
        """
        members = {
            "system": self._system,
            "prompt": example.prompt,
            "temperature": 0,
            "format": {"type": "choice", "choices": self._options, "probabilities": True},
        }
        reply = self._node.reply(members, example.place)
        return _probabilities(reply.members.get("data"), len(self._options))


def _probabilities(data: Any, count: int) -> Doubles | None:  # noqa: ANN401 - a node's JSON
    """Return what a reply says of ``count`` options; of older nodes its choice alone."""
    values = data.get("probabilities") if isinstance(data, dict) else None
    if isinstance(values, list) and len(values) == count and all(map(_is_share, values)):
        shares = np.array(values, np.float64)
        if shares.sum() > 0:
            return np.asarray(shares / shares.sum())
    choice = data.get("choice") if isinstance(data, dict) else None
    if isinstance(choice, int) and not isinstance(choice, bool) and 0 <= choice < count:
        return np.asarray(np.eye(count)[choice])
    return None


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
