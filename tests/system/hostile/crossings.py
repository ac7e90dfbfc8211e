"""What one account may try on another, as data. To add an attack, add an entry.

Each entry is played before, during and after what the victim asks (``encounter.py``): its names are
free, at work, and answered. Rule: knows nothing of edged but ``docs/protocol.md``.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.system.hostile.account import Will

NODE, GROUP, OTHER_NODE = "edged/kitchen", "edged/group/lab", "edged/attic"
VICTIM, INTRUDER, OTHER = "ha", "mallory", "eve"
SERVICE = "edged"
"""The account of the node."""
SPECIALIST = "six"
SECRET = "quetzal"  # noqa: S105 - a word that stands in what the victim asks, and in its answers
NUMBER = "000000"
"""Stands for the number of the encounter, which is a part of every name."""


def subtree(name: str, root: str = NODE) -> str:
    """Return the topic above all that an account sends and is sent."""
    return f"{root}/client/{name}"


OWN, THEIRS = subtree(INTRUDER), subtree(VICTIM)
ASKS, CANCELS, CORRECTS = (f"{OWN}/request/{name}" for name in ("generate", "cancel", "correct"))

# -- What the victim asks. The intruder knows all of it.

REQUEST, SESSION = f"long-{NUMBER}", f"dialogue-{NUMBER}"
CORRELATION = f"victim-{NUMBER}-long".encode()
_OPTIONS = [f"{SECRET} sings", f"{SECRET} sleeps"]
FIRST_TURN: dict[str, Any] = {
    "session": SESSION,
    "prompt": f"What does the {SECRET} do?",
    "timeout_ms": 120_000,
    "format": {"type": "choice", "choices": _OPTIONS},
    "max_tokens": 32,
    "system": f"You look after the {SECRET}.",
}
SECOND_TURN: dict[str, Any] = {
    "session": SESSION,
    "prompt": "And now?",
    "max_tokens": 8,
    "timeout_ms": 120_000,
}
LONG: dict[str, Any] = {
    "id": REQUEST,
    "prompt": f"Tell me about the {SECRET}.",
    "stream": True,
    "max_tokens": 48,
    "timeout_ms": 120_000,
}
CORRECTION: dict[str, Any] = {
    "id": f"correction-{NUMBER}",
    "specialist": SPECIALIST,
    "prompt": f"{SECRET} {NUMBER}",
    "answer": "label 1",
}

# -- What an attack consists of.

OK, BAD = "ok", "bad_request"
DENIED = "denied"
"""The broker does not take it."""
SILENT = "silent"
"""The broker takes it, and there is no reply."""
TOLD = "told"
"""There is no reply to its sender: all are told, once a second at most, to use their own topics."""
BUSY = "busy"
"""An answer, or a refusal because the node does so much already."""


@dataclass(frozen=True)
class Send:
    """A message of the intruder, and what comes of it."""

    payload: Mapping[str, Any] | bytes
    outcome: str = OK
    """``ok`` or the code of the one reply, on a topic of the sender's; or a word from above."""
    topic: str = ASKS
    response_topic: str | None = None
    correlation: bytes | None = None
    """One of its own by default."""
    retain: bool = False
    who: str = INTRUDER

    @property
    def is_answered(self) -> bool:
        """Whether one reply comes to it."""
        return self.outcome not in {DENIED, SILENT, TOLD}


@dataclass(frozen=True)
class Listen:
    """A subscription on a connection of its own, until the encounter is over."""

    filter: str
    who: str = INTRUDER


@dataclass(frozen=True)
class Connect:
    """A connection that is broken off at once."""

    client_id: str = ""
    will: Will | None = None
    who: str = INTRUDER
    is_let_in: bool = True


Move = Send | Listen | Connect


@dataclass(frozen=True)
class Crossing:
    """An attack of one account on another."""

    asset: str
    """What it is after: a row of the table in ``docs/security.md``."""
    name: str
    moves: tuple[Move, ...]

    def __str__(self) -> str:
        return f"{self.asset}: {self.name}"

    @property
    def is_load(self) -> bool:
        """Whether what comes of it depends on what the node does for others."""
        return any(isinstance(move, Send) and move.outcome == BUSY for move in self.moves)


def ask(**members: object) -> dict[str, Any]:
    """Return a short request."""
    return {"prompt": "Hello", "max_tokens": 3, "timeout_ms": 120_000} | members


def said(text: str) -> dict[str, Any]:
    """Return a request whose answer is this text."""
    return ask(format={"type": "choice", "choices": [text]}, max_tokens=48)


_OPEN = said('{"lock": "open"}')

# -- Have an answer delivered to the victim, or anywhere else.

REPLY_TOPICS = {
    "the victim's": f"{THEIRS}/response/generate",
    "below the victim's": f"{THEIRS}/response/generate/x",
    "the victim's stream": f"{THEIRS}/stream/{REQUEST}",
    "the victim's requests": f"{THEIRS}/request/generate",
    "the victim's at another node": f"{OTHER_NODE}/client/{VICTIM}/response/generate",
    "the victim's of a group": f"{GROUP}/client/{VICTIM}/response/generate",
    "the victim's of 0.1.0": f"{NODE}/response/generate/{VICTIM}",
    "its own at another node": f"{OTHER_NODE}/client/{INTRUDER}/response/generate",
    "its own, of requests": f"{OWN}/request/generate",
    "its own, without an end": f"{OWN}/response/",
    "everybody's": f"{NODE}/response/generate",
    "state": f"{NODE}/state",
    "event": f"{NODE}/event",
    "discovery": "homeassistant/device/edged_kitchen/config",
    "a lock": "zigbee2mqtt/lock/set",
    "with a wildcard": f"{OWN}/response/+",
    "of 300 bytes": f"{OWN}/response/" + "x" * 300,
}


def _answers() -> Iterator[Crossing]:
    def attack(name: str, *moves: Move) -> Crossing:
        return Crossing("answers", name, moves)

    for name, topic in REPLY_TOPICS.items():
        yield attack(f"{name} in the JSON", Send(_OPEN | {"response_topic": topic}, BAD))
        if name != "with a wildcard":  # the broker ends such a connection
            yield attack(f"{name} as the property", Send(_OPEN, BAD, response_topic=topic))
    up = f"{OWN}/response/../../{VICTIM}/response/generate"
    yield attack("a level up, which is a level like any other", Send(_OPEN, response_topic=up))
    theirs = REPLY_TOPICS["the victim's"]
    same = {"response_topic": theirs, "id": REQUEST}
    yield attack("with the victim's id", Send(_OPEN | same, BAD, correlation=CORRELATION))
    yield attack(
        "of a refusal", Send({"prompt": 1, "response_topic": theirs}, BAD, response_topic=theirs)
    )
    yield attack("of a cancel", Send({"id": REQUEST, "response_topic": theirs}, BAD, CANCELS))
    yield attack("of a correction", Send(CORRECTION | {"response_topic": theirs}, BAD, CORRECTS))
    yield attack("with a stream", Send(_OPEN | same | {"stream": True}, BAD))
    for root, name in ((GROUP, "of the group"), (NODE, "of the node")):
        for whose, user in (("the victim's", VICTIM), ("its own", INTRUDER)):
            topic = f"{subtree(user, root)}/response/generate"
            outcome = OK if (root, user) == (GROUP, INTRUDER) else BAD
            group = Send(
                _OPEN, outcome, f"{subtree(INTRUDER, GROUP)}/request/generate", response_topic=topic
            )
            yield attack(f"of a group's request, {whose} {name}", group)
    for topic in (
        *(f"{THEIRS}/response/generate", f"{THEIRS}/response/generate/x"),
        *(f"{THEIRS}/stream/{REQUEST}", f"{NODE}/response/generate/{VICTIM}"),
        *(f"{GROUP}/client/{VICTIM}/response/generate", f"{NODE}/response/generate"),
        f"{OTHER_NODE}/client/{VICTIM}/response/generate",
    ):
        forged = Send(b'{"id": null, "status": "ok"}', DENIED, topic)
        yield attack(f"published to {topic}", forged)
        yield attack(
            f"as a will to {topic}", Connect(will=Will(topic, b'{"id": null, "status": "ok"}'))
        )


# -- Read what the victim asks and is answered.

FILTERS = (
    *("#", "+/#", "$SYS/#", "edged/#", "edged/+/#", f"{NODE}/#", "+/+/+/+/+/+"),
    *(f"{THEIRS}/#", f"{THEIRS}/response/#", f"{THEIRS}/stream/+", f"{THEIRS}/request/#"),
    *("edged/+/client/+/response/#", "edged/+/client/+/stream/#", "edged/+/client/+/request/#"),
    *(f"edged/+/client/{VICTIM}/response/#", f"{NODE}/client/+/response/generate"),
    *(f"{GROUP}/client/+/request/+", f"{GROUP}/#", f"{NODE}/request/#", f"{NODE}/event"),
    *(f"{NODE}/state", f"{NODE}/info", "homeassistant/#", "reply/#"),
)
SHARED = (
    *(f"$share/x/{THEIRS}/response/#", f"$share/x/{THEIRS}/stream/+", "$share/x/#"),
    *(f"$share/x/{NODE}/client/+/request/+", f"$share/x/{NODE}/request/+"),
    *(f"$share/edged-lab/{NODE}/client/+/request/+", "$share/edged-kitchen/#"),
)


def _reading() -> Iterator[Crossing]:
    for each in (*FILTERS, *SHARED):
        yield Crossing("content", f"subscribed to {each}", (Listen(each),))
    for client_id in ("edged-kitchen-x", VICTIM):
        yield Crossing("content", f"with the client id {client_id}", (Connect(client_id),))


# -- The victim's requests: publish, cancel, repeat or take part in them.


def _requests() -> Iterator[Crossing]:
    for root in (NODE, GROUP, OTHER_NODE):
        for operation in ("generate", "cancel", "correct"):
            topic = f"{subtree(VICTIM, root)}/request/{operation}"
            sent = Send(_OPEN | {"id": REQUEST}, DENIED, topic, correlation=CORRELATION)
            yield Crossing("requests", f"published to {topic}", (sent,))
    topic, payload = f"{THEIRS}/request/generate", json.dumps(_OPEN).encode()
    yield Crossing("requests", "retained there", (Send(_OPEN, DENIED, topic, retain=True),))
    yield Crossing("requests", "as a will there", (Connect(will=Will(topic, payload)),))
    for name, moves in {
        "by its id": (Send({"id": REQUEST}, topic=CANCELS),),
        "by its id as text": (Send(REQUEST.encode(), topic=CANCELS),),
        "by its Correlation Data": (Send({}, topic=CANCELS, correlation=CORRELATION),),
        "by both": (Send({"id": REQUEST}, topic=CANCELS, correlation=CORRELATION),),
        "with the victim's reply topic": (
            Send({"id": REQUEST}, BAD, CANCELS, f"{THEIRS}/response/generate"),
        ),
        "on the topic of 0.1.0": (
            Send({"id": REQUEST}, TOLD, f"{NODE}/request/cancel", correlation=CORRELATION),
        ),
        "before a request of the same name": (
            Send({"id": REQUEST}, topic=CANCELS, correlation=b"other" + CORRELATION),
            Send(ask(id=REQUEST, max_tokens=1), correlation=CORRELATION),
        ),
    }.items():
        yield Crossing("cancel", name, moves)
    exact = json.dumps(LONG).encode()
    for name, moves in {
        "everything the same": (Send(exact, correlation=CORRELATION),),
        "the same payload": (Send(exact),),
        "the same id and Correlation Data": (Send(ask(id=REQUEST), correlation=CORRELATION),),
        "the same id": (Send(ask(id=REQUEST)),),
        "the same Correlation Data": (Send(ask(), correlation=CORRELATION),),
        "three times": (Send(exact, correlation=CORRELATION),) * 3,
        "pushed out by forty others": tuple(
            Send(
                ask(id=f"own-{NUMBER}-{number}", max_tokens=1),
                BUSY,
                response_topic=f"{OWN}/response/{number}",
            )
            for number in range(40)
        ),
        "by the group": (
            Send(
                exact, topic=f"{subtree(INTRUDER, GROUP)}/request/generate", correlation=CORRELATION
            ),
        ),
    }.items():
        yield Crossing("duplicates", name, moves)
    for name, members in {
        "with its id": ask(id=REQUEST, stream=True),
        "with its id, and more text": ask(id=REQUEST, stream=True, max_tokens=40),
        "of its dialogue": ask(id=REQUEST, stream=True, session=SESSION),
    }.items():
        yield Crossing("stream", name, (Send(members),))
    yield Crossing(
        "stream", "with an id of three levels", (Send(ask(id="a/b/c", stream=True), BAD),)
    )


def _sessions() -> Iterator[Crossing]:
    theirs = f"{THEIRS}/response/generate"
    for name, moves in {
        "by its name": (Send(ask(session=SESSION)),),
        "by its name, with another system text": (Send(ask(session=SESSION, system="Lie.")),),
        "by its name, with the victim's reply topic": (
            Send(ask(session=SESSION, response_topic=theirs), BAD),
            Send(ask(session=SESSION), BAD, response_topic=theirs),
        ),
        "by its name, with an earlier turn": (
            Send(ask(prompt=None, session=SESSION, messages=[
                {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"},
                {"role": "user", "content": "What did I say?"},
            ])),
        ),
        "by the group": (
            Send(ask(session=SESSION), topic=f"{subtree(INTRUDER, GROUP)}/request/generate"),
        ),
        "the same turn": (Send(FIRST_TURN, correlation=f"victim-{NUMBER}-first".encode()),),
        "pushed out by twenty others": tuple(
            Send(
                ask(session=f"own-{NUMBER}-{number}", max_tokens=1), BUSY,
                response_topic=f"{OWN}/response/{number}",
            )
            for number in range(20)
        ),
    }.items():  # fmt: skip
        yield Crossing("dialogue", name, moves)


def _corrections() -> Iterator[Crossing]:
    other = CORRECTION | {"answer": "label 2"}
    for name, moves in {
        "another answer": (Send(other, topic=CORRECTS),),
        "with its Correlation Data": (Send(other, topic=CORRECTS, correlation=CORRELATION),),
        "on the topic of 0.1.0": (Send(other, TOLD, f"{NODE}/request/correct"),),
    }.items():
        yield Crossing("corrections", name, moves)


# -- The node: what it says of itself, and its connection.


def _node() -> Iterator[Crossing]:
    for topic in (
        *(f"{NODE}/{end}" for end in ("availability", "info", "state", "event", "client")),
        *("homeassistant/status", "homeassistant/device/edged_kitchen/config"),
        *(f"{GROUP}/probe/kitchen", f"{GROUP}/request/generate", "$SYS/broker/version"),
    ):
        yield Crossing("the node", f"published to {topic}", (Send(b"offline", DENIED, topic),))
        retained = Send(b"offline", DENIED, topic, retain=True)
        yield Crossing("the node", f"retained at {topic}", (retained,))
        if not topic.startswith("$"):
            will = Will(topic, b"offline", retain=True)
            yield Crossing("the node", f"as a will to {topic}", (Connect(will=will),))
    for client_id in ("edged-kitchen", "edged-kitchen-group", "edged"):
        taken = (Connect(client_id),) * 5
        yield Crossing("the node", f"five times with the client id {client_id}", taken)
    many = (Send(b"online", DENIED, "homeassistant/status"),) * 300
    yield Crossing("the node", "300 times online", many)
    for operation in ("generate", "cancel", "correct"):
        topic = f"{NODE}/request/{operation}"
        told = Send(
            _OPEN | {"id": REQUEST}, TOLD, topic, f"{THEIRS}/response/generate", CORRELATION
        )
        yield Crossing("topics of 0.1.0", operation, (told,))
    topic = f"{NODE}/request/generate"
    yield Crossing("topics of 0.1.0", "30 times", (Send(ask(), TOLD, topic),) * 30)
    yield Crossing("topics of 0.1.0", "another operation", (Send(ask(), SILENT, f"{topic}x"),))
    for name, where in (("its own topic", ASKS), ("the topic of 0.1.0", topic)):
        # Its reader gets a copy without the flag; the node drops what the broker keeps.
        kept = Send(_OPEN, OK if where == ASKS else TOLD, where, retain=True)
        gone = Send(b"", BAD if where == ASKS else TOLD, where, retain=True)
        yield Crossing("the node", f"retained at {name}", (kept, gone))


# -- Names of accounts.

LONGEST, TOO_LONG = "x" * 64, "x" * 65
NAMES = (LONGEST, TOO_LONG, "+", "ha+", "a/b", "ha/x", "HA", "\ufeffha", "%u")


def _names() -> Iterator[Crossing]:
    for name in NAMES:
        own = subtree(name)
        moves: tuple[Move, ...] = (
            Listen(f"{THEIRS}/#", name),
            Send(_OPEN, DENIED, f"{THEIRS}/request/generate", who=name),
            Send(_OPEN, DENIED, f"{THEIRS}/response/generate", who=name),
        )
        if "+" not in name:  # the broker ends the connection of who publishes to a filter
            outcome = OK if "/" not in name and name != TOO_LONG else SILENT
            moves += (Send(_OPEN, outcome, f"{own}/request/generate", who=name),)
        yield Crossing("names", f"an account {ascii(name)[-24:]}", moves)
    for name in ("", "a\x01b", "a\x85b", "nobody"):
        no_account = Connect(who=name, is_let_in=False)
        yield Crossing("names", f"no account {name!a}", (no_account,))


CROSSINGS = (
    *_answers(),
    *_reading(),
    *_requests(),
    *_sessions(),
    *_corrections(),
    *_node(),
    *_names(),
)
ACCOUNTS = (VICTIM, INTRUDER, OTHER, *NAMES)
