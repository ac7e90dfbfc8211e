"""Kill the daemon at work, again and again, and account for every request."""

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edged.commands.local_broker import Broker
from tests.system.faults.site import Crowd, crowd, serving


@dataclass(frozen=True)
class Plan:
    """How many kills, over how many requests."""

    kills: int
    prompts: int
    seed: int = 1


@dataclass(frozen=True)
class Tally:
    """What became of the requests."""

    num_asked: int
    num_kills: int
    num_lost: int
    num_executed_again: int
    """Answers beyond the first of each request."""
    num_unmarked: int
    """Of these, the ones that do not say so."""
    num_copies: int
    """Messages that MQTT itself brought twice."""
    codes: frozenset[str]

    @classmethod
    def of(cls, clients: Crowd, num_kills: int) -> "Tally":
        """Count."""
        return cls(
            len(clients.asked),
            num_kills,
            len(clients.lost),
            clients.num_executed_again,
            clients.num_unmarked,
            clients.num_copies,
            frozenset(clients.codes),
        )


def kill_again_and_again(
    folder: Path,
    bundle: Path,
    broker: Broker,
    plan: Plan,
    note: Callable[[str], None] = lambda _: None,
) -> Tally:
    """Spread the requests over the processes, each killed after some of its replies; blocks."""
    chance = random.Random(plan.seed)
    share = plan.prompts // plan.kills
    with crowd(broker) as clients:
        for number in range(plan.kills):
            with serving(folder, bundle, broker.port) as process:
                clients.ask(share, max_tokens=chance.choice((8, 40, 150)))
                clients.take(chance.randrange(1, 2 * share))
                process.stop(signal.SIGKILL)
            note(f"kill {number + 1}: {len(clients.replies)} of {len(clients.asked)} answered")
        with serving(folder, bundle, broker.port) as process:
            clients.ask(plan.prompts - share * plan.kills)
            clients.settle()
            process.stop()
        return Tally.of(clients, plan.kills)
