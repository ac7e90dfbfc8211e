"""Send the requests of a workload to a real node at their times, and record the outcomes.

Rule: an ordinary client; it uses nothing but ``docs/protocol.md``.
"""

import json
import queue
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.simulate.outcome import End, Outcome
from benchmarks.simulate.trace import Ask
from edged.commands.broker_options import BrokerOptions
from edged.commands.received import ReceivedReply, decode_reply
from edged.errors import EdgedError, ErrorCode, ExitCode
from edged.protocol.wire import Delivery, Encoded, Topics, WireProperties
from edged.transport.events import ConnectFailed, TransportEvent
from edged.transport.network import Transport
from edged.transport.settings import BrokerSettings

WAIT_S = 10.0
"""Timeout for the broker and the retained messages of the node."""
MARGIN_S = 5.0
"""Allowance for the network after a deadline, when waiting for the last replies."""
_TRANSFER_S = 0.25
"""Allowance for the network and a busy machine, for a reply to count as on time."""
_PROBE_WORDS = (3, 33)
_PROBE_S = 60.0


class NodeSilentError(EdgedError):
    """The broker or the node does not answer as expected; the message says which."""

    exit_code = ExitCode.UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Heard:
    """A reply and its time on the clock of the requests."""

    reply: ReceivedReply
    at_s: float


class LiveNode:
    """A connection to one node.

    Args:
        options: Its address; with an account all clients of a workload are one to the node.

    Raises:
        NodeSilentError: The broker does not answer, or knows no such node.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self._options = options
        self._topics = topics = Topics(options.prefix, options.node)
        name = f"simulate-{secrets.token_hex(8)}"
        self._reply_root = options.reply_topic(name)
        self._events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self._retained: dict[str, dict[str, Any]] = {}
        self.states: list[tuple[float, dict[str, Any]]] = []
        """States reported during the workload, with their times."""
        self._heard: dict[str, Heard] = {}
        self._begun_s = time.monotonic()
        address = options.address
        self._transport = Transport(
            BrokerSettings(
                address=address,
                client_id=name,
                ca_file=options.ca_file,
                session_expiry_s=0,
                wants_retained=True,
            ),
            subscriptions=[f"{self._reply_root}/#", topics.state, topics.info],
            will=None,
            emit=self._events.put,
        )
        self._transport.start()
        self._listen(WAIT_S, until=lambda: len(self._retained) > 1)
        if len(self._retained) < 2:  # noqa: PLR2004 - state and info
            self.close()
            raise NodeSilentError(
                f"no node {options.node} at {address.url} within {WAIT_S:.0f} s; check"
                " --broker and --node"
            )

    @property
    def state(self) -> dict[str, Any]:
        """The newest ``state`` of the node."""
        return self._retained[self._topics.state]

    @property
    def info(self) -> dict[str, Any]:
        """The ``info`` of the node."""
        return self._retained[self._topics.info]

    def close(self) -> None:
        """Disconnect from the broker."""
        self._transport.stop([], 1.0)

    def play(self, asks: Sequence[Ask]) -> list[Outcome]:
        """Send every request at its time and wait for the replies; blocks.

        Returns:
            The outcome of each request, in order; its ``ask`` has the prefilled and generated
            tokens where the node reported them.

        Raises:
            NodeSilentError: The first request is not answered.
        """
        per_word, per_prompt = self._tokens_of_words()
        self._heard.clear()
        self.states = [(0.0, self.state)]
        self._begun_s = time.monotonic()
        for number, ask in enumerate(asks):
            self._listen(ask.at_s - self._now_s())
            num_words = max(round((ask.prompt_tokens - per_prompt) / per_word), 1)
            self._ask(number, ask, num_words)
        last_s = max((ask.deadline_s for ask in asks), default=0.0) + MARGIN_S
        self._listen(last_s - self._now_s(), until=lambda: len(self._heard) == len(asks))
        return [_outcome(ask, self._heard.get(str(number))) for number, ask in enumerate(asks)]

    def _tokens_of_words(self) -> tuple[float, float]:
        """Measure the tokens per word, and those of the rest of the prompt.

        Raises:
            NodeSilentError: The node does not answer.
        """
        counts = []
        for num_words in _PROBE_WORDS:
            self._heard.clear()
            self._ask(0, Ask(0.0, max_tokens=1, timeout_s=_PROBE_S), num_words)
            self._listen(_PROBE_S + MARGIN_S, until=lambda: bool(self._heard))
            heard = self._heard.get("0")
            if heard is None or not heard.reply.is_ok:
                reason = "no reply" if heard is None else heard.reply.message
                raise NodeSilentError(f"{self._options.node}: the first request failed: {reason}")
            counts.append(heard.reply.members["usage"]["prompt_tokens"])
        per_word = (counts[1] - counts[0]) / (_PROBE_WORDS[1] - _PROBE_WORDS[0])
        return per_word, counts[0] - per_word * _PROBE_WORDS[0]

    def _ask(self, number: int, ask: Ask, num_words: int) -> None:
        members = {
            "id": str(number),
            "prompt": f"{number}: tell a long story of" + " and a valve" * (num_words // 3),
            "max_tokens": ask.max_tokens,
            "timeout_ms": round(ask.timeout_s * 1000),
            "priority": ask.priority,
            "response_topic": f"{self._reply_root}/{ask.client}",
        }
        payload = json.dumps(members).encode()
        self._transport.publish(
            Encoded(self._options.client_topics.request("generate"), payload, WireProperties())
        )

    def _listen(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        until_s = time.monotonic() + seconds
        while not until() and (remaining_s := until_s - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=remaining_s)
            except queue.Empty:
                return
            if isinstance(event, Delivery):
                self._transport.acknowledge(event)
                self._take(event)
            elif isinstance(event, ConnectFailed):
                self.close()
                raise NodeSilentError(event.reason)

    def _take(self, delivery: Delivery) -> None:
        if delivery.topic in (self._topics.state, self._topics.info):
            self._retained[delivery.topic] = json.loads(delivery.payload)
            if delivery.topic == self._topics.state:
                self.states.append((self._now_s(), self.state))
            return
        reply = decode_reply(delivery.payload)
        if reply is not None and reply.request_id is not None:
            self._heard.setdefault(reply.request_id, Heard(reply, self._now_s()))

    def _now_s(self) -> float:
        return time.monotonic() - self._begun_s


def _outcome(ask: Ask, heard: Heard | None) -> Outcome:
    """Return the outcome of a request; without a reply it is late."""
    if heard is None:
        return Outcome(ask, End.LATE, ask.deadline_s + MARGIN_S)
    reply = heard.reply
    usage, timing = reply.members.get("usage") or {}, reply.members.get("timing") or {}
    if usage.get("completion_tokens"):
        computed = usage["prompt_tokens"] - usage["cached_tokens"]
        ask = replace(ask, prompt_tokens=computed, output_tokens=usage["completion_tokens"])
    ttft_s = timing["ttft_ms"] / 1000 if reply.is_ok else None
    return Outcome(ask, _end(ask, heard), heard.at_s, ttft_s)


def _end(ask: Ask, heard: Heard) -> End:
    reply = heard.reply
    if heard.at_s > ask.deadline_s + _TRANSFER_S:
        return End.LATE
    if reply.is_ok:
        return End.CUT if reply.finish_reason == "deadline" else End.ON_TIME
    is_prediction = "predicted_ms" in (reply.members.get("error") or {})
    is_expired = reply.code == ErrorCode.TIMEOUT and not is_prediction
    return End.EXPIRED if is_expired else End.REFUSED
