"""A load of mixed requests on a daemon whose memory the kernel limits to 1.1 x its plan."""

import contextlib
import json
import queue
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from edged.commands.local_broker import Broker
from tests.system.broker.configured import configured
from tests.system.broker.daemons import Daemon, daemon
from tests.system.broker.peer import Peer, peer
from tests.system.memory_group import memory_group

REQUEST = "edged/kitchen/request/generate"
TOPICS = ("edged/kitchen/response/#", "edged/kitchen/state")
MIB = 1024**2
HEADROOM = 1.10


@dataclass(frozen=True)
class Storm:
    """How many requests, in waves; each wave is answered before the next one."""

    num_waves: int
    wave: int
    timeouts_ms: tuple[int, ...]
    long_prompt: int
    """Characters of a long prompt that still fits into the context."""

    @property
    def num_requests(self) -> int:
        return self.num_waves * self.wave

    def mixed(self, rng: random.Random, number: int) -> dict[str, Any]:
        """Return one request; 10 % are invalid in some way."""
        base: dict[str, Any] = {"id": f"r{number}", "max_tokens": rng.choice((1, 2, 8))}
        base["timeout_ms"] = rng.choice(self.timeouts_ms)
        base["priority"] = rng.choice(("interactive", "normal", "background"))
        base["response_topic"] = f"edged/kitchen/response/generate/c{rng.randrange(8)}"
        kinds: list[dict[str, Any]] = [
            {"prompt": "x" * rng.randrange(1, self.long_prompt)},
            {"prompt": "the very same", "priority": "background", "max_tokens": 8},
            {"prompt": "hello", "session": f"s{rng.randrange(40)}"},
            {"prompt": "x", "on_deadline": "shorten", "max_tokens": 400},
            {"prompt": "x", "temperature": 1.0, "seed": number, "stream": True},
            {"prompt": "on?", "format": {"type": "choice", "choices": ["yes", "no"]}},
            {"prompt": "x" * 15_000},
            {"prompt": 7},
        ]
        weights = (30, 15, 15, 10, 10, 10, 5, 5)
        return base | rng.choices(kinds, weights)[0]

    def blow(self, client: Peer, process: psutil.Process) -> tuple[Counter[str], int]:
        """Return the replies by id, and the largest resident memory seen."""
        rng, replies, peak_bytes = random.Random(1), Counter[str](), 0
        for wave in range(self.num_waves):
            for number in range(wave * self.wave, (wave + 1) * self.wave):
                client._client.publish(REQUEST, json.dumps(self.mixed(rng, number)), qos=1)
            while replies.total() < (wave + 1) * self.wave:
                try:
                    message = client.message()
                except queue.Empty:
                    raise AssertionError(f"wave {wave}: {replies.total()} replies") from None
                peak_bytes = max(peak_bytes, process.memory_info().rss)
                if "/response/" in message.topic:
                    replies[Peer.parsed(message)["id"]] += 1
        return replies, peak_bytes


def weather(storm: Storm, folder: Path, bundle: Path, broker: Broker) -> None:
    """Run a storm: one reply each, the process survives, and memory stays within the budget."""
    with peer(broker.port, "5", *TOPICS) as client:
        with _started(folder, bundle, broker, {"memory": "2G"}) as first:
            budget_bytes = int(HEADROOM * _planned_bytes(_state(client)))
            assert first.stop() == 0
        budget: dict[str, object] = {"memory": budget_bytes, "min_available": 0}
        with (
            memory_group(budget_bytes) as group,
            _started(folder, bundle, broker, budget, group) as node,
        ):
            replies, peak_bytes = storm.blow(client, psutil.Process(node.process.pid))
            assert replies == Counter(f"r{number}" for number in range(storm.num_requests))
            assert peak_bytes <= budget_bytes, f"{peak_bytes // MIB} MiB"
            assert node.stop() == 0
        is_enforced = float(group is not None)
        assert f"edged_budget_enforced {is_enforced}" in (folder / "edged.prom").read_text()
        assert not [topic for topic in _left(client) if "/response/" in topic]


@contextlib.contextmanager
def _started(
    folder: Path,
    bundle: Path,
    broker: Broker,
    budget: dict[str, object],
    group: Path | None = None,
) -> Iterator[Daemon]:
    """Start a daemon with this budget, in a control group, and wait until it serves."""
    metrics = {"prometheus_file": str(folder / "edged.prom")}
    arguments = configured(
        folder, bundle, broker, queue={"size": 16}, budget=budget, metrics=metrics
    )
    with daemon(folder, *arguments) as node:
        if group is not None:
            (group / "cgroup.procs").write_text(str(node.process.pid))
        node.until("STATUS=serving")
        yield node


def _state(client: Peer) -> dict[str, Any]:
    while not (message := client.message()).topic.endswith("/state"):
        pass
    return Peer.parsed(message)


def _planned_bytes(state: dict[str, Any]) -> int:
    """Add up the permanent reservations of the node."""
    return int(sum(size for name, size in state["ledger"].items() if name != "requests"))


def _left(client: Peer) -> list[str]:
    topics = []
    with contextlib.suppress(queue.Empty):
        while True:
            topics.append(client._messages.get_nowait().topic)
    return topics
