"""``python -m tests.exchanges`` prints ``docs/exchanges.md``: one exchange for each topic and code.

Each is played against the daemon's own service, with a model that says what stands here; a test
compares the page with what comes of it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast
from unittest.mock import patch

import numpy as np

import edged
from edged.daemon.group import Group
from edged.daemon.homeassistant import (
    MAX_DELAY_S,
    STATUS_ONLINE,
    Announcement,
    Discovery,
    status_topic,
)
from edged.daemon.reporting import OFFLINE, ONLINE
from edged.errors import ErrorCode
from edged.node.events import CorrectionKept
from edged.node.generation import Finished, Fragment
from edged.protocol.encode import encode_event
from edged.protocol.event import (
    BrokerSessionLost,
    BrokerSessionTakenOver,
    Event,
    EventsSuppressed,
    GroupJoined,
    GroupRefused,
    MemoryRecovered,
    MemoryShort,
    MemoryUnplanned,
    NodeStalled,
    NodeStarted,
    NodeStopping,
    NodeWaiting,
    PressureChanged,
    ReplyUndelivered,
    TrialFailed,
    TrialPassed,
)
from edged.protocol.request import Answer, ChatMessage, FinishReason, Rejected, Request
from edged.protocol.wire import Encoded, RequestDefaults, Topics, WireProperties
from edged.scheduling.latency_model import CostEstimate
from edged.specialists.asked import answer_of
from edged.specialists.decider import Decider, Read, Run
from edged.specialists.decision import Decision
from edged.specialists.installed import Installed, PromptWriter
from edged.specialists.scoring import OptionScorer, OptionScoring
from edged.transport.events import Connected
from tests.fakes import LIMITS, MIB, Bench, CharacterStream, ran, tokens

if TYPE_CHECKING:
    from edged.specialists.folder import Specialist
    from edged.transport.network import Transport

EncodeChat = Callable[[Sequence[ChatMessage]], list[int]]
MODEL = "smollm2-135m-instruct-int8-w8a8@1fbea1"
DEFAULTS = RequestDefaults(Topics("edged", "kitchen", "heating"))
NODE_LIMITS = replace(LIMITS, model_id=MODEL, max_model_len=2048, max_waiting=8, defaults=DEFAULTS)
NONE = WireProperties()
HEAD = """\
# Exchanges

One for each topic, error code and event of [the protocol](protocol.md), as a node answers; made
by `python -m tests.exchanges`, and played again by the tests. `→` is published by a client, `←` by
the node. What MQTT 5 carries beside the payload stands in brackets; over 3.1.1 it is absent. Each
begins with a node that has nothing to do. `info` and `state` stand
[in the protocol](protocol.md#status-topics).
"""


class _Reading:
    """The run of a decision, as far as a node looks at it; ``Talk.end`` says what comes of it."""

    runs = (Run([1] * 83),)
    num_needed = 1

    def proceed(self, readers: Sequence[Read], *, may_go_on: bool) -> Run | Answer:
        return self.runs[0]


class _Specialists(Installed):
    """Those of a node that has one."""

    def decider(
        self,
        request: Request,
        encode_chat: EncodeChat,
        prompt_writer: PromptWriter | None = None,
    ) -> Decider | None:
        is_scripted = request.specialist == NAME
        return _Reading() if is_scripted else super().decider(request, encode_chat, prompt_writer)


NAME = "washing-machine"


def _bench(folder: Path | None = None) -> Bench:
    cost = CostEstimate(prefill_token_s=0.002, decode_token_s=0.012)
    limits = replace(NODE_LIMITS, kv_bytes_per_token=1024)
    specialists = {NAME: cast("Specialist", None)}
    installed = _Specialists(specialists=specialists, scoring=OptionScoring(tokens))
    return Bench(limits, folder=folder, cost=cost, installed=installed)


@dataclass
class Talk:
    """What goes to and fro between a client and one node."""

    bench: Bench = field(default_factory=_bench)
    lines: list[str] = field(default_factory=list)
    _num_shown: int = 0

    def ask(
        self,
        payload: object,
        operation: str = "generate",
        properties: WireProperties = NONE,
        *,
        shown: str | None = None,
        **more: object,
    ) -> None:
        """Send a request; ``shown`` stands for a payload that is too long to print."""
        delivery = self.bench.delivery(payload, operation, properties=properties, **more)
        text = delivery.payload.decode() if shown is None else shown
        flags = ["retained"] if delivery.retain else []
        self.lines.append(_line("→", delivery.topic, text, [*flags, *_words(properties)]))
        self.bench.take(delivery)

    def fill(self, count: int) -> None:
        """Let other clients ask so much, unseen."""
        for number in range(count):
            self.bench.deliver({"prompt": "x", "response_topic": f"reply/other-{number}"})
        self._num_shown = len(self.bench.transport.sent)

    def finish(self, text: str) -> None:
        """Let the model say something."""
        self.bench.finish(text, seconds=0.5)

    def end(self, outcome: Answer | Rejected, num_tokens: int = 0) -> None:
        """Let the run end in another way."""
        job, started_s = self.bench.worker.jobs[-1], self.bench.clock()
        self.bench.clock.advance(0.5)
        first_s = started_s + 0.25 if num_tokens else None
        ran(job, started_s, first_s, num_output_tokens=num_tokens)
        self.bench.take(Finished(job, outcome, self.bench.clock()))

    def decide(self, answer: Answer) -> None:
        """Let all options be scored, and this come of it."""
        job = self.bench.worker.jobs[-1]
        job.start(CharacterStream(), self.bench.clock())
        self.bench.clock.advance(0.125)
        while isinstance(scorer := job.reader, OptionScorer):
            scorer.add(np.zeros((1, 256), np.float32))
            while (step := scorer.next_pass) is not None:
                scorer.add(np.zeros((len(step[1]), 256), np.float32))
            job.end_run(self.bench.clock())
        self.bench.take(Finished(job, answer, self.bench.clock()))

    def stream(self, *deltas: str) -> None:
        """Let the model say something in pieces."""
        key = self.bench.worker.jobs[-1].key
        for number, delta in enumerate(deltas):
            is_done = number == len(deltas) - 1
            self.bench.take(Fragment(key, number, delta, is_done))
        self.finish("".join(deltas))

    def show(self) -> None:
        """Print what the node has sent since the last time."""
        sent = self.bench.transport.sent
        for message in (it.message for it in sent[self._num_shown :]):
            self.tell(message)
        self._num_shown = len(sent)

    def tell(self, message: Encoded) -> None:
        """Print a message of the node."""
        text = message.payload.decode()
        if text.startswith("{"):
            text = json.dumps(json.loads(text), ensure_ascii=False)
        self.lines.append(_line("←", message.topic, text, _words(message.properties)))


def _line(arrow: str, topic: str, text: str, words: list[str]) -> str:
    return "\n    ".join([f"{arrow} {topic}", *([f"[{', '.join(words)}]"] if words else []), text])


def _words(properties: WireProperties) -> list[str]:
    """Name the properties, but for those that every message of a node has."""
    found = {
        "Response Topic": properties.response_topic,
        "Correlation Data": properties.correlation_data and properties.correlation_data.decode(),
        "Content Type": None if properties.payload_format else properties.content_type,
        "Message Expiry": properties.message_expiry_s,
    }
    words = [f"{name}: {value}" for name, value in found.items() if value is not None]
    return [*words, *(f"{name}: {value}" for name, value in properties.user_properties)]


def _text(talk: Talk) -> None:
    talk.ask(b"Is 62 degrees ok for a boiler?")
    talk.finish("Yes.")


def _properties(talk: Talk) -> None:
    request = {"prompt": "Is the window open? 'kitchen: contact off'", "max_tokens": 8}
    wire = WireProperties("reply/me", b"q-17", "application/json", message_expiry_s=8)
    talk.ask(request, properties=wire)
    talk.finish("Yes.")


def _keys(talk: Talk) -> None:
    topic = "edged/kitchen/response/generate/panel"
    request = {"id": "a1", "prompt": "Is it on?", "response_topic": topic, "timeout_ms": 8000}
    talk.ask(request)
    talk.finish("Yes.")


def _choice(talk: Talk) -> None:
    options = ["open", "open only if nobody is home"]
    asked = {"prompt": "What about the window?", "format": {"type": "choice", "choices": options}}
    talk.ask({"id": "a1"} | asked)
    talk.end(Answer(options[1], FinishReason.STOP, is_choice=True, choice=1), num_tokens=7)
    talk.show()
    talk.ask({"id": "a2", "max_tokens": 1} | asked)
    talk.end(Answer("", FinishReason.LENGTH, is_choice=True), num_tokens=1)


def _scored(talk: Talk) -> None:
    held = {"type": "choice", "choices": ["open", "close", "leave"], "probabilities": True}
    talk.ask({"id": "a1", "prompt": "It is stuffy in here.", "format": held})
    talk.decide(_share("open", 0, [0.8127, 0.0551, 0.1322]))


def _share(text: str, choice: int, shares: list[float]) -> Answer:
    detail = {"probabilities": shares, "confidence": max(shares), "calibrated": False}
    return Answer(text, FinishReason.STOP, is_choice=True, choice=choice, detail=detail)


def _questions(talk: Talk) -> None:
    asked = {
        "window": {"choices": ["open", "close"], "ask": "What about the window?"},
        "urgent": {"choices": ["yes", "no"], "ask": "Is it urgent?"},
    }
    talk.ask({"id": "a1", "prompt": "It is stuffy in here.", "questions": asked})
    window, urgent = _share("open", 0, [0.9012, 0.0988]), _share("no", 1, [0.3301, 0.6699])
    answers = {
        name: {"text": one.text, "choice": one.choice, **one.detail, "finish_reason": "stop"}
        for name, one in (("window", window), ("urgent", urgent))
    }
    values = {"window": "open", "urgent": "no"}
    talk.decide(Answer(json.dumps(values), FinishReason.STOP, values, detail={"answers": answers}))


def _decided(talk: Talk) -> None:
    asked = {"id": "a1", "prompt": "There is a puddle under it.", "specialist": NAME}
    shares = [0.0004, 0.9964, 0.0011, 0.0009, 0.0003, 0.0009]
    talk.ask(asked)
    talk.end(
        answer_of(Decision("leak", 1, None, shares, 0.9964, 0.98, False), {"specialist": NAME})
    )
    talk.show()
    shares = [0.5102, 0.1213, 0.0721, 0.2864, 0.01, 0.0]
    guesses = (("door", 0.5102), ("noise", 0.2864), ("leak", 0.1213))
    decision = Decision("door", 0, None, shares, 0.5102, 0.6, is_unsure=True, guesses=guesses)
    talk.ask(asked | {"id": "a2", "prompt": "It is broken."})
    talk.end(answer_of(decision, {"specialist": NAME}))
    talk.show()
    talk.ask(asked | {"id": "a3", "specialist": "boiler"})


def _again(talk: Talk) -> None:
    for _ in range(2):
        talk.ask({"id": "a1", "prompt": "Is it on?"})
        if talk.bench.node.scheduler.running:
            talk.finish("Yes.")
        talk.show()


def _streamed(talk: Talk) -> None:
    talk.ask({"id": "s1", "prompt": "Count to three", "stream": True})
    talk.stream("One, ", "two, three.")


def _dialogue(talk: Talk) -> None:
    for prompt, answer in (("It shows E4.", "The pressure is low."), ("What now?", "Fill it.")):
        talk.ask({"session": "me-7f3a", "prompt": prompt})
        talk.finish(answer)
        talk.show()


def _own(talk: Talk) -> None:
    talk.ask({"id": "s1", "prompt": "Is it on?", "stream": True}, topic=_topic("me"))
    talk.stream("Yes", ".")
    talk.show()
    panel = {
        "prompt": "Is it on?",
        "response_topic": "edged/kitchen/client/me/response/generate/panel",
    }
    talk.ask(panel, topic=_topic("me"))
    talk.finish("Yes.")
    talk.show()
    talk.ask({"id": "s1"}, topic=_topic("me", "cancel"))
    talk.show()
    correction = {"id": "c1", "specialist": "lamp", "prompt": "It is dark", "answer": "on"}
    talk.ask(correction, topic=_topic("me", "correct"))


def _anothers(talk: Talk) -> None:
    talk.ask({"id": "a1", "prompt": "Is it on?"}, topic=_topic("me"))
    talk.ask({"id": "a1"}, topic=_topic("other", "cancel"))
    talk.show()
    talk.finish("Yes.")


def _topic(user: str, operation: str = "generate") -> str:
    return DEFAULTS.topics.client(user).request(operation)


def _shared(talk: Talk) -> None:
    group = "edged/group/heating/client/me"
    talk.ask(
        {"id": "g1", "prompt": "Is it on?", "response_topic": f"{group}/response/generate/panel"},
        topic=f"{group}/request/generate",
    )
    talk.finish("Yes.")


def _shared_by_all(talk: Talk) -> None:
    topic = "edged/group/heating/request/generate"
    talk.ask({"id": "g1", "prompt": "Is it on?", "response_topic": "reply/me"}, topic=topic)
    talk.finish("Yes.")


def _availability(talk: Talk) -> None:
    for word in (ONLINE, OFFLINE):
        talk.tell(Encoded(DEFAULTS.topics.availability, word, NONE))


def _probed(talk: Talk) -> None:
    bench = talk.bench
    transport, topics = cast("Transport", bench.transport), DEFAULTS.topics
    group = Group(transport, topics, bench.driver)
    with patch("secrets.token_hex", return_value="5d0c2f6a91b7e384"):
        group.take(Connected(1, is_session_present=False, protocol_version="5"))
    probe = bench.transport.sent[-1].message
    group.take(bench.delivery(probe.payload, topic=probe.topic))


def _announced(talk: Talk) -> None:
    bench = talk.bench
    announcement = Announcement(DEFAULTS.topics, "homeassistant", "ha", MODEL, can_ask=True)
    discovery = Discovery(announcement, bench.transport, bench.clock, is_on=True)
    status = bench.delivery(STATUS_ONLINE, topic=status_topic(announcement.prefix))
    talk.lines.append(_line("→", status.topic, status.payload.decode(), []))
    discovery.take(status)
    bench.clock.advance(MAX_DELAY_S)
    discovery.tick()


def _cancelled_running(talk: Talk) -> None:
    talk.ask({"id": "a1", "prompt": "Tell me a story"})
    talk.ask({"id": "a1"}, "cancel")
    talk.end(Answer("Once upon", FinishReason.CANCELLED), num_tokens=2)


def _cancelled_waiting(talk: Talk) -> None:
    talk.fill(1)
    talk.ask({"id": "a1", "prompt": "Is it on?"})
    talk.ask({"id": "a1"}, "cancel")


def _corrected(talk: Talk) -> None:
    keeping = replace(DEFAULTS, keeps_corrections=True)
    talk.bench = Bench(replace(NODE_LIMITS, defaults=keeping))
    talk.ask({"id": "c1", "specialist": "lamp", "prompt": "It is dark", "answer": "on"}, "correct")
    (keep,) = talk.bench.keeper.waiting
    talk.bench.take(CorrectionKept(keep.key, count=12, is_new=True))


def _without_an_account(talk: Talk) -> None:
    required = replace(DEFAULTS, is_identity_required=True)
    talk.bench = Bench(replace(NODE_LIMITS, defaults=required))
    talk.ask({"id": "a1", "prompt": "Is it on?", "response_topic": "reply/me"})
    talk.show()
    talk.ask({"id": "a2", "prompt": "Is it on?"})


def _poison(talk: Talk) -> None:
    request = {"id": "a1", "prompt": "Is it on?"}
    with TemporaryDirectory() as folder:
        for _ in range(2):  # two processes before this one ended while they ran it
            _bench(Path(folder)).deliver(request)
        talk.bench = _bench(Path(folder))
        talk.ask(request)


def _short_of_memory(talk: Talk) -> None:
    talk.bench.memory = replace(talk.bench.memory, rss_bytes=399 * MIB + MIB // 2)
    talk.ask({"id": "a1", "prompt": "Is it on?", "max_tokens": 600, "timeout_ms": 300_000})


def _broken(talk: Talk) -> None:
    talk.ask({"id": "a1", "prompt": "Is it on?"})
    talk.end(Rejected(ErrorCode.INTERNAL, "generation failed; see the node's log"))


def _crowded(talk: Talk) -> None:
    talk.fill(9)
    talk.ask({"id": "a1", "prompt": "Is it on?", "max_tokens": 8, "timeout_ms": 300_000})


def _one(
    payload: object, properties: WireProperties = NONE, **more: object
) -> Callable[[Talk], None]:
    return lambda talk: talk.ask(payload, properties=properties, **more)  # type: ignore[arg-type]


TOPICS: dict[str, Callable[[Talk], None]] = {
    "Plain text": _text,
    "MQTT 5 properties": _properties,
    "The same in the payload": _keys,
    "A choice, and one that max_tokens cuts": _choice,
    "A choice with probabilities": _scored,
    "Questions about one prompt": _questions,
    "A specialist decides, is unsure, and is not there": _decided,
    "Asked again": _again,
    "A stream": _streamed,
    "A session": _dialogue,
    "An account has topics of its own": _own,
    "Another account's request is not there": _anothers,
    "A reply topic that is not the account's own": lambda talk: talk.ask(
        {"id": "a1", "prompt": "Is it on?", "response_topic": "zigbee2mqtt/lock/set"},
        topic=_topic("me"),
    ),
    "A group": _shared,
    "A group, without accounts": _shared_by_all,
    "A cancel of what runs; its answer so far follows": _cancelled_running,
    "A cancel of what is not there": lambda talk: talk.ask({"id": "nobody"}, "cancel"),
    "A correction": _corrected,
    "A correction that this node does not keep": lambda talk: talk.ask(
        {"id": "c1", "specialist": "lamp", "prompt": "It is dark", "answer": "on"}, "correct"
    ),
    "A node comes and goes; both are retained": _availability,
    "A member of a group joins when its probe has come back": _probed,
    "Home Assistant has started, and is told what there is; this is retained": _announced,
}
CODES: dict[str, Callable[[Talk], None]] = {
    "bad_request": _one({"id": "a1", "prompt": "Is it on?", "temperature": "hot"}),
    "identity_required": _without_an_account,
    "timeout": _one({"id": "a1", "prompt": "Is it on?", "timeout_ms": 1000}),
    "payload_too_large": _one(
        {"id": "a1", "prompt": "x" * 17_000},
        shown='{"id": "a1", "prompt": "… 17,000 characters …"}',
    ),
    "unsupported_content_type": _one(b"%PDF-1.7", WireProperties(content_type="application/pdf")),
    "prompt_too_long": _one(
        {"id": "a1", "prompt": "x" * 2100}, shown='{"id": "a1", "prompt": "… 2,100 tokens …"}'
    ),
    "queue_full": _crowded,
    "cancelled": _cancelled_waiting,
    "crashed_before": _poison,
    "internal": _broken,
    "memory_pressure": _short_of_memory,
}
DROPS: dict[str, Callable[[Talk], None]] = {
    "Retained": _one({"id": "a1", "prompt": "Is it on?"}, retain=True),
    "A reply topic that is not allowed": _one(
        {"prompt": "Is it on?", "response_topic": "zigbee2mqtt/lock/set"}
    ),
    "Expired": _one(b"Is it on?", WireProperties(message_expiry_s=0)),
}
EVENTS: tuple[Event, ...] = (
    NodeStarted(edged.__version__, MODEL, 0),
    NodeWaiting(
        "/media/models/smollm2: No such file or directory; give the folder that `edged build` made"
    ),
    NodeStopping("SIGTERM"),
    NodeStalled("the engine took no step for 31 s"),
    MemoryShort(4_194_304),
    MemoryRecovered(),
    PressureChanged("shed_prefix"),
    MemoryUnplanned(33_554_432),
    ReplyUndelivered("refused by the broker: Not authorized"),
    BrokerSessionLost(),
    BrokerSessionTakenOver(60),
    GroupJoined("heating"),
    GroupRefused("heating", "the broker does not deliver shared subscriptions"),
    TrialPassed("smollm2-135m-instruct-ae0976006b65"),
    TrialFailed(
        "smollm2-135m-instruct-ae0976006b65", "the service ended with core-dump (dumped SEGV)"
    ),
    EventsSuppressed(12, {"refused": 12}),
)
"""The others stand with what causes them."""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for title, scenes in (("Topics", TOPICS), ("Codes", CODES), ("No reply", DROPS)):
        parts.append(f"## {title}\n")
        for name, play in scenes.items():
            talk = Talk()
            play(talk)
            talk.show()
            heading = f"`{name}`" if scenes is CODES else name
            parts.append(f"{heading}:\n\n```text\n" + "\n".join(talk.lines) + "\n```\n")
    talk = Talk()
    for event in EVENTS:
        talk.tell(encode_event(DEFAULTS.topics, event.kind, event.members()))
    parts.append("## Events\n\nThose that stand above are not repeated.\n")
    parts.append("```text\n" + "\n".join(talk.lines) + "\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
