"""Whole sequences of several accounts that use the same names, generated, against a running daemon.

    python -m tests.system.hostile.sequences --steps 10000

An account asks, with a dialogue, a stream or by the group, repeats itself, cancels, takes what
another has sent as its own, publishes where it may not, and reconnects; all of them at the same
time. Then each account does the same once more, alone. Whatever the others do, it must have been
sent the same: exactly one reply to each request, with the same text, turns and marks, and nothing
else. Needs Mosquitto; starts a broker and a daemon with a tiny model of its own on loopback.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.system.hostile.accounts_site import AccountsSite
from tests.system.hostile.crossings import (
    BAD,
    BUSY,
    DENIED,
    GROUP,
    INTRUDER,
    NODE,
    NUMBER,
    OK,
    OTHER,
    SECRET,
    TOLD,
    VICTIM,
    Send,
    subtree,
)
from tests.system.hostile.encounter import EVERYTHING, LOOSE, VICTIM_FILTERS, Party
from tests.tiny_model import write_tiny_bundle

NAMES = (VICTIM, INTRUDER, OTHER)
NUM_STEPS = 50
"""Of one sequence, at most."""
_MAX_OUTSTANDING = 8
_NUM_REMEMBERED = 8
"""Messages that an account may send again: a node keeps more replies than that of each account."""
_PROMPTS = ("Hello", f"The {SECRET} sings.", "Is it warm?", "What did I say?")
_CHOICE = {"type": "choice", "choices": [f"{SECRET} sings", f"{SECRET} sleeps"]}
_LIMIT = {"timeout_ms": 120_000}

# Few names, so that they meet: of accounts with each other, and of requests of one account.
ASKED = st.fixed_dictionaries(
    {"prompt": st.sampled_from(_PROMPTS), "max_tokens": st.integers(1, 6)},
    optional={
        "id": st.sampled_from([f"i1-{NUMBER}", f"i2-{NUMBER}"]),
        "format": st.just(_CHOICE),
        "session": st.sampled_from([f"s1-{NUMBER}", f"s2-{NUMBER}"]),
        "system": st.just("Be short."),
    },
)
CORRELATION = st.none() | st.sampled_from([f"c1-{NUMBER}".encode(), f"c2-{NUMBER}".encode()])
ROOTS = st.sampled_from([NODE, NODE, NODE, GROUP])
USERS = st.sampled_from(NAMES)


@dataclass(frozen=True)
class Step:
    """What one account does; it can be done again under another number."""

    move: Send | None
    """None reconnects."""
    waits: bool = False
    """Whether the account waits for all its replies before it."""


@dataclass
class Player:
    """An account with what it did."""

    party: Party
    site: AccountsSite
    steps: list[Step] = field(default_factory=list)

    def do(self, step: Step) -> None:
        """Do a step, and note it."""
        if step.waits or step.move is None or self.party.num_outstanding >= _MAX_OUTSTANDING:
            self.party.settle()
        self.steps.append(step)
        if step.move is None:
            self.party.account = self.site.reconnect(self.party.account)
        else:
            self.party.publish(step.move, str(len(self.steps)))


class Sequences(RuleBasedStateMachine):
    """Three accounts at the same time, and then each of them alone."""

    site: ClassVar[AccountsSite]
    counts: ClassVar[Counter[str]] = Counter()
    failures: ClassVar[list[AssertionError]] = []
    """What went wrong, first; played again, it may not: it may depend on the time."""

    def __init__(self) -> None:
        super().__init__()
        number = self.site.next_number()
        self.players = {name: self._player(name, number) for name in NAMES}

    @rule(user=USERS, root=ROOTS, asked=ASKED, correlation=CORRELATION, is_stream=st.booleans())
    def ask(
        self,
        user: str,
        root: str,
        asked: dict[str, Any],
        correlation: bytes | None,
        is_stream: bool,
    ) -> None:
        """Ask something."""
        members = _LIMIT | asked
        if "format" in asked:
            members["max_tokens"] = 32
        if is_stream:  # of each stream of one account another name, so that its parts are known
            members |= {"id": f"t{len(self.players[user].steps)}-{NUMBER}", "stream": True}
        topic = f"{subtree(user, root)}/request/generate"
        self._do(user, "ask", Send(members, topic=topic, correlation=correlation, who=user))

    @rule(user=USERS, number=st.integers(1, 2))
    def ask_at_length(self, user: str, number: int) -> None:
        """Ask for a long answer, which others may try to cancel."""
        members = _LIMIT | {"id": f"i{number}-{NUMBER}", "prompt": "Go on.", "max_tokens": 40}
        topic = f"{subtree(user)}/request/generate"
        move = Send(members, topic=topic, correlation=f"c{number}-{NUMBER}".encode(), who=user)
        self._do(user, "ask at length", move, waits=False)

    @rule(user=USERS, back=st.integers(0, _NUM_REMEMBERED))
    def repeat(self, user: str, back: int) -> None:
        """Send one's own message again."""
        self._send_again(user, user, back, "repeat")

    @rule(user=USERS, other=USERS, back=st.integers(0, _NUM_REMEMBERED))
    def copy(self, user: str, other: str, back: int) -> None:
        """Send another's message as one's own, with its id, Correlation Data and bytes."""
        self._send_again(user, other, back, "copy")

    @rule(user=USERS, number=st.integers(1, 2), is_by_id=st.booleans())
    def cancel(self, user: str, number: int, is_by_id: bool) -> None:
        """Cancel what has these names: one's own is over, others' may not be."""
        correlation = f"c{number}-{NUMBER}".encode()
        payload: dict[str, Any] = {"id": f"i{number}-{NUMBER}"} if is_by_id else {}
        topic = f"{subtree(user)}/request/cancel"
        move = Send(payload, topic=topic, correlation=None if is_by_id else correlation, who=user)
        self._do(user, "cancel", move, waits=True)

    @rule(user=USERS)
    def ask_and_cancel(self, user: str) -> None:
        """Cancel one's own: how far it gets depends on the time."""
        mark = f"{LOOSE}{len(self.players[user].steps)}-{NUMBER}"
        asked = _LIMIT | {"id": mark, "prompt": "Go on.", "max_tokens": 40}
        for operation, members in (("generate", asked), ("cancel", {"id": mark})):
            topic = f"{subtree(user)}/request/{operation}"
            move = Send(members, BUSY, topic, correlation=mark.encode(), who=user)
            self._do(user, "cancel one's own", move, waits=False)

    @rule(user=USERS, other=USERS, asked=ASKED, is_property=st.booleans())
    def misdirect(self, user: str, other: str, asked: dict[str, Any], is_property: bool) -> None:
        """Ask for the reply at a topic of another; of the group, or of the node."""
        theirs = f"{subtree(other, GROUP if other == user else NODE)}/response/generate"
        members = _LIMIT | asked | ({} if is_property else {"response_topic": theirs})
        topic = f"{subtree(user)}/request/generate"
        move = Send(members, BAD, topic, theirs if is_property else None, who=user)
        self._do(user, "misdirect", move)

    @rule(user=USERS, other=USERS, asked=ASKED, end=st.sampled_from(["request", "response"]))
    def impersonate(self, user: str, other: str, asked: dict[str, Any], end: str) -> None:
        """Publish at another's topics; or, as if without an account, at those of 0.1.0."""
        topic, outcome = f"{subtree(other)}/{end}/generate", DENIED
        if user == other:
            topic, outcome = f"{NODE}/request/generate", TOLD
        self._do(user, "impersonate", Send(_LIMIT | asked, outcome, topic, who=user))

    @rule(user=USERS)
    def reconnect(self, user: str) -> None:
        """Disconnect, and connect anew."""
        self._do(user, "reconnect", None)

    def teardown(self) -> None:
        """Compare what each was sent with what it is sent alone."""
        with self._noted():
            self._compare()

    def _compare(self) -> None:
        together = {name: player.party.finish() for name, player in self.players.items()}
        for name, player in self.players.items():
            alone = self._player(name, self.site.next_number())
            for step in player.steps:
                alone.do(step)
            found = alone.party.finish()
            assert found == together[name], (
                f"{name}, among others: {sorted(together[name] - found)}\n"
                f"alone: {sorted(found - together[name])}"
            )

    def _player(self, name: str, number: str) -> Player:
        filters = VICTIM_FILTERS if name == VICTIM else EVERYTHING
        return Player(Party(self.site.connect(name, filters), number, name), self.site)

    def _do(self, user: str, what: str, move: Send | None, *, waits: bool | None = None) -> None:
        self.counts[what] += 1
        if waits is None:  # a turn of a dialogue must see the one before it
            waits = move is not None and "session" in move.payload
        with self._noted():
            self.players[user].do(Step(move, waits))

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            self.failures.append(error)
            raise

    def _send_again(self, user: str, other: str, back: int, what: str) -> None:
        moves = [step.move for step in self.players[other].steps[-_NUM_REMEMBERED:]]
        # Whether there was something to cancel depends on when it is asked.
        sent = [move for move in moves if move is not None and move.outcome == OK]
        sent = [move for move in sent if not move.topic.endswith("/cancel")]
        if not sent:
            return
        move = sent[back % len(sent)]
        topic = move.topic.replace(subtree(other, ""), subtree(user, ""))
        self._do(user, what, replace(move, topic=topic, who=user), waits=True)


def run(site: AccountsSite, num_steps: int, first_seed: int) -> Counter[str]:
    """Play at least so many steps; return how many of each kind were played.

    Raises:
        AssertionError: An account was sent something else than alone.
    """
    Sequences.site, Sequences.counts, Sequences.failures = site, Counter(), []
    round_number = 0
    while Sequences.counts.total() < num_steps:
        left = num_steps - Sequences.counts.total()
        terms = settings(
            max_examples=max(1, left // NUM_STEPS),
            stateful_step_count=NUM_STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        machine = seed(first_seed + round_number)(Sequences)
        try:
            run_state_machine_as_test(machine, settings=terms)
        except Exception as error:
            raise Sequences.failures[0] from error
        round_number += 1
    return Sequences.counts


def main(words: Sequence[str]) -> int:
    """Play what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the time by default")
    options = parser.parse_args(words)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="edged-sequences-") as name:
        bundle = write_tiny_bundle(Path(name) / "bundle")
        site = AccountsSite(Path(name) / "site", bundle, NAMES)
        begun_s = time.monotonic()
        try:
            counts = run(site, options.steps, options.seed)
        finally:
            site.close()
        took_s = time.monotonic() - begun_s
    for what, count in counts.most_common():
        print(f"{count:7,} {what}")
    print(f"{counts.total():7,} steps in {took_s:.0f} s, {counts.total() / took_s:.0f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
