"""Hostile messages at a constant rate along with an honest client, and the measured effects.

Everything runs on this machine: a Mosquitto and a daemon on loopback.
"""

import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from edged.commands.local_broker import mosquitto, running
from tests.system.broker.configured import configured
from tests.system.hostile.account import PASSWORD
from tests.system.hostile.attacker import BUSY, Attacker, attacker
from tests.system.hostile.attacks import OK, Message
from tests.system.hostile.generated import hostile
from tests.system.hostile.supervisor import Supervisor, Terms, supervised
from tests.system.shipped_broker import install_access_list

MB = 1_000_000
LOOK_S = 0.5
NUM_PROBES = 7
HONEST, FLOOD, SERVICE = "ha", "mallory", "edged"
"""Accounts."""
_HONEST_TOKENS = 16
_FLOOD_TOKENS = 96
HONEST_PERIOD = 4
"""Times an answer's own, beside a flood: half of its share of the device."""
_DEFAULT_TOKENS = 4
"""Of a request that names no number: what is damaged must not ask for a long answer."""


@dataclass(frozen=True)
class Load:
    """Parameters of a load.

    Args:
        bundle: The model.
        per_s: Hostile messages a second.
        seconds: How long.
        warm_up_s: Time at the beginning in which memory may grow.
        seed: For the choice of messages.
        is_flood: Whether they are good requests instead, from one account that wants it all.
    """

    bundle: Path
    per_s: float
    seconds: float
    warm_up_s: float
    seed: int = 1
    is_flood: bool = False


@dataclass
class Samples:
    """Samples of the process."""

    at_s: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)

    def growth_bytes(self, since_s: float) -> int:
        """Growth after the warm-up."""
        later = [
            rss for at_s, rss in zip(self.at_s, self.rss_bytes, strict=True) if at_s >= since_s
        ]
        return max(later) - later[0] if later else 0


@dataclass(frozen=True)
class Outcome:
    """Results of a load; times are of this machine's clock, which all clients share."""

    per_s: float
    seconds: float
    num_hostile: int
    num_restarts: int
    num_late: int
    """Answers after the deadline of their request."""
    num_honest: int
    num_honest_ok: int
    num_honest_wrong: int
    """Neither answered nor refused with a code that allows to ask again."""
    is_flood: bool
    honest_answer_s: float
    """One honest answer without other load."""
    honest_period_s: float
    """How often it asks."""
    decision_p50_s: float
    decision_p99_s: float
    """From the publication of what is refused to the refusal at the sender, broker and both
    clients included."""
    num_decisions: int
    ping_late_s: float
    """How much later than due the watchdog was fed at most."""
    rss_growth_bytes: int
    log_lines_per_s: float
    codes: dict[str, int]
    problems: dict[str, str]
    """Messages without exactly the reply that they should have had."""
    late: list[str]
    slowest: list[str]
    """The refusals that took longest."""
    exit_status: int | None

    def as_json(self) -> dict[str, Any]:
        """Return everything, for programs."""
        return asdict(self)


def play(load: Load, folder: Path, note: Callable[[str], None] = lambda _: None) -> Outcome:
    """Start a broker and a daemon in ``folder``, run a load and stop them; blocks."""
    (folder / "mosquitto").mkdir(parents=True)
    settings: dict[str, Any] = {
        "state": {"folder": str(folder / "state")},
        "request": {"max_tokens": _DEFAULT_TOKENS},
        "budget": {"memory": int(Terms.of_unit().memory_bytes * 0.9)},
    }
    passwords, rules = dict[str, str](), list[str]()
    if load.is_flood:  # shares are divided among accounts; what is hostile is played without
        passwords = {HONEST: PASSWORD, FLOOD: PASSWORD, SERVICE: SERVICE}
        rules = [f"acl_file {install_access_list(folder)}"]
        settings["security"] = {"identity": "required"}
    honest, flood, service = passwords or (None, None, None)
    terms = mosquitto(folder / "mosquitto", is_persistent=True, users=passwords, extra=rules)
    with running(terms) as broker:
        arguments = configured(folder, load.bundle, broker, user=service, **settings)
        (folder / "state").mkdir()
        with (
            supervised(folder, *arguments, is_grouped=True) as process,
            attacker(broker.port, "h", is_busy_allowed=True, user=flood) as enemy,
            attacker(broker.port, "g", is_busy_allowed=True, user=honest) as friend,
        ):
            process.until_serving()
            return _Run(load, process, enemy, friend, note).outcome()


class _Run:
    """One load on a serving daemon."""

    def __init__(
        self,
        load: Load,
        process: Supervisor,
        enemy: Attacker,
        friend: Attacker,
        note: Callable[[str], None],
    ) -> None:
        self._load, self._process = load, process
        self._enemy, self._friend, self._note = enemy, friend, note
        self._samples = Samples()
        self._is_over = threading.Event()
        self._honest = _honest()

    def outcome(self) -> Outcome:
        """Run the load and count; blocks."""
        probes_s = [self._probe_s() for _ in range(NUM_PROBES)]
        answer_s = statistics.median(probes_s[2:])  # the first ones include lazy loading
        self._note(f"one honest answer takes {answer_s * 1000:.0f} ms")
        num_lines, begun_s = self._process.log.count("\n"), time.monotonic()
        for client in (self._enemy, self._friend):
            client.sent.clear()
        threads = [
            threading.Thread(target=self._look),
            threading.Thread(target=self._send_honest, args=(begun_s, self._period_s(answer_s))),
        ]
        for thread in threads:
            thread.start()
        self._send_hostile(begun_s)
        self._is_over.set()
        for thread in threads:
            thread.join()
        ended_s = time.monotonic()
        num_lines = self._process.log.count("\n") - num_lines
        for client in (self._enemy, self._friend):
            client.settle(*[name for name, sent in client.sent.items() if sent.is_due])
        return self._counted(answer_s, begun_s, ended_s, num_lines)

    def _probe_s(self) -> float:
        name = self._friend.send(next(self._honest))
        assert self._friend.settle(name), "an honest request is not answered even without load"
        sent = self._friend.sent[name]
        return sent.replies[0].at_s - sent.at_s

    def _period_s(self, answer_s: float) -> float:
        """Return how often the honest client asks: for less than its share, beside a flood."""
        return answer_s * (HONEST_PERIOD if self._load.is_flood else 2)

    def _send_hostile(self, begun_s: float) -> None:
        messages = _flood() if self._load.is_flood else hostile(self._load.seed)
        for number in range(round(self._load.seconds * self._load.per_s)):
            _wait_until(begun_s + number / self._load.per_s)
            self._enemy.send(next(messages))
            if number % 100 == 0:
                self._note(f"{number} hostile messages, {len(self._friend.sent)} honest ones")

    def _send_honest(self, begun_s: float, period_s: float) -> None:
        number = 0
        while not self._is_over.is_set():
            self._friend.send(next(self._honest))
            number += 1
            self._is_over.wait(max(0.0, begun_s + number * period_s - time.monotonic()))

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_S):
            with suppress(psutil.Error):
                rss = psutil.Process(self._process.process.pid).memory_info().rss
                self._samples.at_s.append(time.monotonic())
                self._samples.rss_bytes.append(rss)

    def _counted(self, answer_s: float, begun_s: float, ended_s: float, num_lines: int) -> Outcome:
        enemy, friend = self._enemy, self._friend
        every = [*enemy.sent.values(), *friend.sent.values()]
        decisions = sorted(
            (sent.replies[0].at_s - sent.at_s, sent.replies[0].code, repr(sent.message.payload))
            for sent in every
            if sent.replies and sent.replies[0].is_decision
        )
        decided_s = [took_s for took_s, _, _ in decisions]
        honest = Counter(s.replies[0].code if s.replies else "none" for s in friend.sent.values())
        return Outcome(
            per_s=self._load.per_s,
            seconds=ended_s - begun_s,
            num_hostile=len(enemy.sent),
            num_restarts=self._process.num_restarts,
            num_late=sum(sent.late_s > 0 for sent in every),
            num_honest=len(friend.sent),
            num_honest_ok=honest["ok"],
            num_honest_wrong=sum(honest[code] for code in honest.keys() - BUSY - OK),
            is_flood=self._load.is_flood,
            honest_answer_s=answer_s,
            honest_period_s=self._period_s(answer_s),
            decision_p50_s=_percentile(decided_s, 0.50),
            decision_p99_s=_percentile(decided_s, 0.99),
            num_decisions=len(decided_s),
            ping_late_s=self._ping_late_s(begun_s, ended_s),
            rss_growth_bytes=self._samples.growth_bytes(begun_s + self._load.warm_up_s),
            log_lines_per_s=num_lines / (ended_s - begun_s),
            codes=dict(enemy.codes),
            problems=enemy.problems | friend.problems,
            late=[
                f"{sent.late_s * 1000:.0f} ms: {sent.message!r:.200}"
                for sent in every
                if sent.late_s > 0
            ],
            slowest=[
                f"{s * 1000:.0f} ms: {code}: {what[:150]}" for s, code, what in decisions[-8:]
            ],
            exit_status=self._process.close(),
        )

    def _ping_late_s(self, begun_s: float, ended_s: float) -> float:
        due_s = self._process.terms.watchdog_s / 3
        times_s = [at_s for at_s in self._process.pings_s() if at_s <= ended_s] + [ended_s]
        gaps_s = [
            after_s - before_s for before_s, after_s in pairwise(times_s) if after_s >= begun_s
        ]
        return max(0.0, max(gaps_s, default=ended_s - begun_s) - due_s)


def _honest() -> Iterator[Message]:
    number = 0
    while True:
        number += 1
        prompt = f"Reading {number}: the boiler shows E4. What does that mean?"
        members = {"prompt": prompt, "max_tokens": _HONEST_TOKENS, "timeout_ms": 30_000}
        yield Message(members, OK)


def _flood() -> Iterator[Message]:
    for number in itertools.count():
        prompt = f"Line {number}: tell me all that you know about pumps and valves."
        members = {"prompt": prompt, "max_tokens": _FLOOD_TOKENS, "timeout_ms": 30_000}
        yield Message(members, OK)


def _wait_until(at_s: float) -> None:
    threading.Event().wait(max(0.0, at_s - time.monotonic()))


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
