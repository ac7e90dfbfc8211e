"""Concurrent requests on a real broker: decoded in one batch, each answered as if it were alone."""

from pathlib import Path
from typing import Any

from edged.commands.local_broker import Broker
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import Peer, peer
from tests.tiny_model import write_tiny_bundle

REQUEST = "edged/kitchen/request/generate"
PROMPTS = {name: {"id": name, "prompt": name * 9, "max_tokens": 200} for name in "abcd"}


def replies(client: Peer, count: int) -> dict[str, dict[str, Any]]:
    found = (client.reply() for _ in range(count))
    return {reply["id"]: reply for reply in found}


def test_concurrent_requests_are_answered_in_one_batch(mosquitto: Broker, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    with (
        daemon(tmp_path, *serve_arguments(bundle, mosquitto.url)) as process,
        peer(mosquitto.port, "5", "edged/kitchen/response/#") as client,
        peer(mosquitto.port, "5", "edged/kitchen/state") as watcher,
    ):
        process.until("STATUS=serving")
        assert watcher.reply()["slots"] == 4
        alone = {}
        for name, request in PROMPTS.items():
            client.publish(REQUEST, request | {"id": f"{name}-alone", "timeout_ms": 60_000})
            alone[name] = client.reply()["data"]
        for request in PROMPTS.values():
            client.publish(REQUEST, request | {"timeout_ms": 60_000})
        together = replies(client, len(PROMPTS))
    assert {name: reply["data"] for name, reply in together.items()} == alone
    # Sequentially, each would have waited for those before it.
    timings = {name: reply["timing"] for name, reply in together.items()}
    slowest_ms = max(timing["total_ms"] for timing in timings.values())
    assert all(timing["queued_ms"] < slowest_ms / 2 for timing in timings.values()), timings
