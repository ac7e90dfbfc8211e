"""A storm of mixed requests: each gets its one reply, and memory stays inside the budget."""

import contextlib
import json
import queue
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from edged.local_broker import Broker
from tests.broker.configured import configured
from tests.broker.daemons import Daemon, daemon
from tests.broker.peer import Peer, peer
from tests.tiny_model import write_tiny_bundle

REQUEST = "edged/kitchen/request/generate"
TOPICS = ("edged/kitchen/response/#", "edged/kitchen/state")
WAVES, WAVE = 20, 100
MIB = 1024**2
HEADROOM = 1.10


def mixed(rng: random.Random, number: int) -> dict[str, Any]:
    """One request of a storm; ten in a hundred are wrong in some way."""
    base: dict[str, Any] = {"id": f"r{number}", "max_tokens": rng.choice((1, 2, 8))}
    base["timeout_ms"] = rng.choice((200, 2_000, 20_000))
    base["priority"] = rng.choice(("interactive", "normal", "background"))
    base["response_topic"] = f"edged/kitchen/response/generate/c{rng.randrange(8)}"
    kinds: list[dict[str, Any]] = [
        {"prompt": "x" * rng.randrange(1, 400)},
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


def planned_bytes(client: Peer) -> int:
    """Read from the first state what the node has reserved for good."""
    while True:
        message = client.message()
        if message.topic.endswith("/state"):
            ledger = Peer.parsed(message)["ledger"]
            return int(sum(size for name, size in ledger.items() if name != "requests"))


def weather(client: Peer, process: psutil.Process, rng: random.Random) -> tuple[Counter[str], int]:
    """Send wave after wave; return the replies by id, and the largest resident memory seen."""
    replies: Counter[str] = Counter()
    peak_bytes = 0
    for wave in range(WAVES):
        for number in range(wave * WAVE, (wave + 1) * WAVE):
            client._client.publish(REQUEST, json.dumps(mixed(rng, number)), qos=1)
        while replies.total() < (wave + 1) * WAVE:
            message = client.message()
            peak_bytes = max(peak_bytes, process.memory_info().rss)
            if "/response/" in message.topic:
                replies[Peer.parsed(message)["id"]] += 1
    return replies, peak_bytes


def test_two_thousand_mixed_requests_get_one_reply_each_inside_the_budget(
    mosquitto: Broker, tmp_path: Path
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    with peer(mosquitto.port, "5", *TOPICS) as client:
        with started(tmp_path, bundle, mosquitto, budget={"memory": "2G"}) as first:
            budget_bytes = int(HEADROOM * planned_bytes(client))
            assert first.stop() == 0
        budget: dict[str, object] = {"memory": budget_bytes, "min_available": 0}
        with started(tmp_path, bundle, mosquitto, budget=budget) as node:
            process = psutil.Process(node.process.pid)
            replies, peak_bytes = weather(client, process, random.Random(1))
            assert replies == Counter(f"r{number}" for number in range(WAVES * WAVE))
            assert peak_bytes <= budget_bytes, f"{peak_bytes // MIB} MiB"
            assert node.stop() == 0
        figures = (tmp_path / "edged.prom").read_text()
        assert "edged_budget_bytes" in figures
        assert 'edged_refused_total{code="prompt_too_long"}' in figures
        left = []
        while True:
            try:
                left.append(client._messages.get_nowait().topic)
            except queue.Empty:
                break
        assert not [topic for topic in left if "/response/" in topic]


@contextlib.contextmanager
def started(
    folder: Path, bundle: Path, broker: Broker, budget: dict[str, object]
) -> Iterator[Daemon]:
    """Start a daemon with this budget, and wait until it serves."""
    metrics = {"prometheus_file": str(folder / "edged.prom")}
    arguments = configured(
        folder, bundle, broker, queue={"size": 16}, budget=budget, metrics=metrics
    )
    with daemon(folder, *arguments) as node:
        node.until("STATUS=serving")
        yield node
