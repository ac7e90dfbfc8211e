"""A process that stood still: what is late says so."""

import contextlib
import queue
import signal
import threading
from pathlib import Path
from typing import Any

from edged.commands.local_broker import Broker
from tests.system.broker.peer import Peer, new_id, peer
from tests.system.faults.site import REPLIES, REQUEST, serving, state
from tests.system.slow_model import LONGEST

ROUNDS = 4
TIMEOUT_S = 1.0
# Longer than the deadline by more than the second to which the expiry of a reply is rounded up: one
# that waits for its socket while the process stands still is not sent any more.
PAUSE_S = 2.5
LONG = LONGEST | {"temperature": 1, "timeout_ms": int(TIMEOUT_S * 1000)}


def arrived(client: Peer) -> dict[str, dict[str, Any]]:
    """Return what has arrived so far, by id."""
    replies = {}
    with contextlib.suppress(queue.Empty):
        while True:
            reply = client.parsed(client.message(0.0))
            replies[reply["id"]] = reply
    return replies


def test_a_reply_after_its_deadline_says_so(
    mosquitto: Broker, slow_bundle: Path, tmp_path: Path
) -> None:
    """Each round stops the process while several requests run and others wait."""
    num_late = num_gone = 0
    with (
        serving(tmp_path, slow_bundle, mosquitto.port, keepalive="60s") as process,
        peer(mosquitto.port, "5", REPLIES) as client,
    ):
        for _ in range(ROUNDS):
            asked = {new_id() for _ in range(12)}
            for name in asked:
                client.publish(REQUEST, LONG | {"id": name})
            client.publish(REQUEST, {"id": "all", "prompt": 1})
            # Its refusal says that the node has all before it.
            while (reply := client.reply())["id"] != "all":
                asked.discard(reply["id"])
            process.process.send_signal(signal.SIGSTOP)
            threading.Event().wait(PAUSE_S)
            asked -= arrived(client).keys()
            process.process.send_signal(signal.SIGCONT)
            while asked:
                with contextlib.suppress(queue.Empty):
                    reply = client.parsed(client.message(1.0))
                    asked.remove(reply["id"])
                    is_answer = reply["status"] == "ok"
                    if is_answer and reply["timing"]["total_ms"] <= TIMEOUT_S * 1000:
                        continue  # published in time, and on its way when the process was stopped
                    num_late += 1
                    ended = reply["data"]["finish_reason"] if is_answer else reply["error"]["code"]
                    assert ended == ("deadline" if is_answer else "timeout"), reply
                    continue
                if state(tmp_path)["undelivered"] - num_gone >= len(asked):
                    num_gone += len(asked)
                    break
        assert num_late > 0
        assert process.stop() == 0
