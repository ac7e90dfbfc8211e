"""Play an attack of one account on another, and note all that each of the two is sent.

The victim asks the same in every encounter, under new names. What an account is sent must be the
same with and without the other: so an encounter can be played with only one of them.

Rule: knows nothing of edged but ``docs/protocol.md``.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tests.system.hostile.account import Account, Arrived
from tests.system.hostile.crossings import (
    BUSY,
    CORRECTION,
    DENIED,
    FIRST_TURN,
    GROUP,
    INTRUDER,
    LONG,
    NODE,
    NUMBER,
    OK,
    OTHER,
    REQUEST,
    SECOND_TURN,
    THEIRS,
    VICTIM,
    Connect,
    Listen,
    Move,
    Send,
    ask,
    subtree,
)

ADVICE = f"{NODE}/response/"
"""Where everybody is told to use topics of their own."""
PUBLIC = (f"{NODE}/availability", f"{NODE}/info", f"{NODE}/state", "homeassistant/#")
VICTIM_FILTERS = (
    f"edged/+/client/{VICTIM}/response/#",
    f"{THEIRS}/stream/+",
    f"{ADVICE}+",
    *PUBLIC,
)
"""All that the victim may read."""
EVERYTHING = ("#", "$SYS/#")
_BY_LOAD = frozenset(
    {"timing", "retry_after_ms", "predicted_ms", "cached_tokens", "energy_j", "energy_source"}
    | {"count"}  # of corrections: those of all accounts
)
"""Members of a reply that depend on what else the node does, and did."""
_BUSY_CODES = frozenset({OK, "cancelled", "queue_full", "timeout", "memory_pressure"})
LOOSE = "loose-"
"""Begins the names of a request that its own account cancels: only that it ends is known."""
Transcript = Counter[str]


class Party:
    """One account in an encounter: what it sends, and what it is sent.

    Args:
        account: Its connection.
        number: Of the encounter.
        prefix: Of its Correlation Data.
    """

    def __init__(self, account: Account, number: str, prefix: str) -> None:
        self.account, self.advice = account, list[Arrived]()
        self._number, self._prefix = number, prefix
        self._expected: Counter[tuple[bytes, str]] = Counter()

    def publish(self, move: Send, mark: str) -> None:
        """Make a move; ``mark`` stands in its Correlation Data if it has none."""
        payload = move.payload if isinstance(move.payload, bytes) else _json(move.payload)
        correlation = self._named(move.correlation or f"{self._prefix}-{NUMBER}-{mark}".encode())
        asked = move.response_topic
        is_taken = self.account.publish(
            self._named(move.topic.encode()).decode(),
            self._named(payload),
            response_topic=None if asked is None else self._named(asked.encode()).decode(),
            correlation=correlation,
            retain=move.retain,
        )
        assert is_taken == (move.outcome != DENIED), f"the broker took it: {is_taken}"
        if move.is_answered:
            self._expected[correlation, move.outcome] += 1

    @property
    def num_outstanding(self) -> int:
        """How many replies are missing."""
        arrived = list(self.account.arrived)
        return self._expected.total() - sum(_is_reply(each) for each in arrived)

    def settle(self) -> None:
        """Wait for the replies to all that was sent so far, each as it is expected."""
        numbers: Counter[bytes] = Counter()
        for (correlation, _), count in self._expected.items():
            numbers[correlation] += count

        def is_complete(arrived: Sequence[Arrived]) -> bool:
            found = Counter(each.correlation for each in arrived if _is_reply(each))
            return all(found[correlation] >= count for correlation, count in numbers.items())

        assert self.account.wait_for(is_complete), self.account.arrived
        replies = [each for each in self.account.arrived if _is_reply(each)]
        found = Counter((each.correlation or b"", self._outcome(each)) for each in replies)
        assert found == self._expected, (
            f"{self.account.name}: not expected: {sorted(found - self._expected)}\n"
            f"missing: {sorted(self._expected - found)}\n"
            f"refused: {[each for each in replies if self._outcome(each) != OK]}"
        )

    def _outcome(self, reply: Arrived) -> str:
        code = str(reply.members.get("error", {}).get("code", OK))
        may_be_busy = self._expected[reply.correlation or b"", BUSY] > 0
        return BUSY if may_be_busy and code in _BUSY_CODES else code

    def finish(self) -> Transcript:
        """Have one last reply, behind all others; return all that the account was sent."""
        if self.account.name not in {VICTIM, INTRUDER, OTHER}:  # perhaps without topics
            return self.heard()
        topic = f"{subtree(self.account.name)}/request/cancel"
        self.publish(Send(f"nobody-{NUMBER}".encode(), topic=topic), "last")
        self.settle()
        return self._transcript()

    def heard(self) -> Transcript:
        """Return all that was sent so far."""
        self.account.subscribe("nothing")  # the broker's reply to that comes behind it
        return self._transcript()

    def _named(self, value: bytes) -> bytes:
        return value.replace(NUMBER.encode(), self._number.encode())

    def _transcript(self) -> Transcript:
        """Return what has arrived, without the encounter's number and what the load changes."""
        lines, fragments = list[str](), dict[str, list[dict[str, Any]]]()
        for each in self.account.take():
            if each.topic.startswith(ADVICE):
                self.advice.append(each)
            elif each.is_retained:  # at each connection, whatever has happened
                assert each.topic.startswith((*PUBLIC[:3], "homeassistant/"))
            elif each.topic == f"{NODE}/state":
                assert each.members["state"] == "ready"
            elif (each.correlation or b"").startswith(LOOSE.encode()):
                lines.append(f"{each.topic} {each.correlation!r}")
            elif "/stream/" in each.topic:
                fragments.setdefault(each.topic, []).append(each.members)
            else:
                what = repr(_without_load(each.members) if _is_reply(each) else each.payload)
                lines.append(f"{each.topic} {each.correlation!r} {what}")
        for topic, parts in fragments.items():
            # How an answer is cut into fragments depends on the time.
            numbers, ends = [part["seq"] for part in parts], [part["done"] for part in parts]
            is_whole = numbers == list(range(len(parts))) and ends.index(True) == len(parts) - 1
            lines.append(f"{topic} {is_whole} {''.join(part['delta'] for part in parts)!r}")
        return Counter(line.replace(self._number, NUMBER) for line in lines)


class Victim(Party):
    """Asks in a dialogue, at length, and the same again; corrects, and cancels what is over."""

    def __init__(self, account: Account, number: str) -> None:
        super().__init__(account, number, "victim")

    def begin(self) -> None:
        """Begin a dialogue, and correct a specialist."""
        self._ask(FIRST_TURN, "first")
        self._ask(CORRECTION, "correction", "correct")

    def ask_at_length(self) -> None:
        """Send a long request, and do not wait."""
        self._send(LONG, "long")

    def go_on(self) -> None:
        """Wait for the long answer, and go on with the dialogue."""
        self.settle()
        self._ask(SECOND_TURN, "second")
        self._ask(LONG, "long")
        self._ask(CORRECTION, "correction", "correct")
        self._ask({"id": REQUEST}, "cancel", "cancel")
        self._ask(ask(prompt="Is it warm?"), "group", root=GROUP)
        self._ask(ask(prompt="Is it cold?", max_tokens=8), "plain")

    def _send(
        self, members: dict[str, Any], mark: str, name: str = "generate", root: str = NODE
    ) -> None:
        self.publish(Send(members, topic=f"{subtree(VICTIM, root)}/request/{name}"), mark)

    def _ask(
        self, members: dict[str, Any], mark: str, name: str = "generate", root: str = NODE
    ) -> None:
        self._send(members, mark, name, root)
        self.settle()


class Intruder:
    """Makes the moves of an attack, from any of its accounts.

    Args:
        connect: Returns a connection of an account that subscribes to some filters; the one that
            subscribes to everything outlives the encounter.
        number: Of the encounter.
    """

    def __init__(self, connect: Callable[..., Account], number: str) -> None:
        self._connect, self._number = connect, number
        self._parties: dict[str, Party] = {}
        self._listeners: list[Party] = []
        self._num_sent = 0
        self._party(INTRUDER)

    def make(self, moves: Iterable[Move]) -> None:
        """Make each move, and do not wait for replies."""
        for move in moves:
            if isinstance(move, Send):
                self._num_sent += 1
                self._party(move.who).publish(move, str(self._num_sent))
            elif isinstance(move, Listen):
                if all(one.account.filters != [move.filter] for one in self._listeners):
                    account = self._connect(move.who, [move.filter])
                    self._listeners.append(Party(account, self._number, "listener"))
            else:
                self._knock(move)

    def settle(self) -> None:
        """Wait for the replies to all moves so far."""
        for party in self._parties.values():
            party.settle()

    def finish(self) -> Transcript:
        """Return all that the accounts were sent, on all connections."""
        found = Transcript()
        for party in self._parties.values():
            found += party.finish()
        for listener in self._listeners:
            found += listener.heard()
            listener.account.close()
        return found

    @property
    def advice(self) -> list[Arrived]:
        """What all are told who use the topics of 0.1.0."""
        return [each for party in self._parties.values() for each in party.advice]

    def _party(self, name: str) -> Party:
        if name not in self._parties:
            account = self._connect(name, EVERYTHING)
            self._parties[name] = Party(account, self._number, f"intruder {len(self._parties)}")
        return self._parties[name]

    def _knock(self, move: Connect) -> None:
        account = self._connect(move.who, (), client_id=move.client_id, will=move.will)
        assert account.is_connected == move.is_let_in, account.refusal
        account.break_off()


def _json(members: object) -> bytes:
    return json.dumps(members).encode()


def _is_reply(message: Arrived) -> bool:
    return "/client/" in message.topic and "/response/" in message.topic


def _without_load(members: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_load(value) if isinstance(value, dict) else value
        for name, value in sorted(members.items())
        if name not in _BY_LOAD
    }
