"""Concurrent requests on a real broker: decoded in one batch, each answered as if it were alone."""

import signal
from pathlib import Path
from typing import Any

from edged.commands.local_broker import Broker
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import peer

REQUEST = "edged/kitchen/request/generate"
PROMPTS = {name: {"id": name, "prompt": name * 9, "max_tokens": 200} for name in "abcd"}


def test_concurrent_requests_are_answered_in_one_batch(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    with (
        daemon(tmp_path, *serve_arguments(bundle, mosquitto.url)) as process,
        peer(mosquitto.port, "5", "edged/kitchen/response/#", "edged/kitchen/stream/+") as client,
        peer(mosquitto.port, "5", "edged/kitchen/state") as watcher,
    ):
        process.until("STATUS=serving")
        assert watcher.reply()["slots"] == 4
        alone = {}
        for name, request in PROMPTS.items():
            client.publish(REQUEST, request | {"id": f"{name}-alone", "timeout_ms": 60_000})
            alone[name] = client.reply()["data"]
        process.process.send_signal(signal.SIGSTOP)  # so that it finds all of them at once
        for request in PROMPTS.values():
            client.publish(REQUEST, request | {"timeout_ms": 60_000, "stream": True})
        process.process.send_signal(signal.SIGCONT)
        begun, together = set[str](), dict[str, Any]()
        while len(together) < len(PROMPTS):
            message = client.reply()
            if "delta" in message:
                begun.add(message["id"])
                continue
            # One after the other, the last would not have begun yet.
            assert begun == PROMPTS.keys()
            together[message["id"]] = message["data"]
    assert together == alone
