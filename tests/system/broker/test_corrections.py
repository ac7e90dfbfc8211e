"""Corrections over the wire: on the disk before the reply, and there once after a crash."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.commands.local_broker import Broker
from tests.system.broker.configured import configured
from tests.system.broker.daemons import Daemon, daemon
from tests.system.broker.peer import Peer, peer
from tests.system.broker.with_specialist import PROGRAM

CORRECT, REPLIES = "edged/kitchen/request/correct", "edged/kitchen/response/correct"
CORRECTION = {"specialist": "six", "prompt": "It is dark", "answer": "label 1"}


@pytest.fixture
def served(broker: Broker, bundle: Path, tmp_path: Path) -> Iterator[tuple[Daemon, Peer, Path]]:
    """A daemon that keeps three corrections, a client, and the state folder."""
    folder = tmp_path / "state"
    folder.mkdir()
    state = {"folder": str(folder), "corrections": 3}
    arguments = configured(tmp_path, bundle, broker, state=state)
    with (
        daemon(tmp_path, *arguments, program=PROGRAM) as process,
        peer(broker.port, broker.protocol, REPLIES) as client,
    ):
        process.until("STATUS=serving")
        yield process, client, folder


def kept(folder: Path) -> list[dict[str, Any]]:
    """The corrections on the disk."""
    text = (folder / "corrections.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_correction_is_on_the_disk_when_it_is_answered(
    served: tuple[Daemon, Peer, Path],
) -> None:
    process, client, folder = served
    client.publish(CORRECT, CORRECTION | {"id": "c1"})
    reply = client.reply_to("c1")
    assert (reply["status"], reply["data"]) == ("ok", {"kept": True, "count": 1})
    (row,) = kept(folder)
    assert {key: row[key] for key in CORRECTION} == CORRECTION
    client.publish(CORRECT, CORRECTION | {"id": "c1"})
    assert client.reply_to("c1")["duplicate"]
    assert len(kept(folder)) == 1
    for number in range(2, 6):
        client.publish(CORRECT, CORRECTION | {"id": f"c{number}", "prompt": f"prompt {number}"})
        assert client.reply_to(f"c{number}")["data"]["count"] == min(number, 3)
    assert [row["prompt"] for row in kept(folder)] == ["prompt 3", "prompt 4", "prompt 5"]
    assert process.stop() == 0
    assert "It is dark" not in process.log
    assert "label 1" not in process.log


def test_what_cannot_be_kept_is_refused_with_the_reason(
    served: tuple[Daemon, Peer, Path],
) -> None:
    _, client, folder = served
    for wrong, problem in (
        ({"answer": "label 9"}, 'answer: "label 9" is not a label of six'),
        ({"specialist": "lamp"}, "specialist: lamp is not installed"),
        ({"prompt": "x" * 5000}, "prompt: 5000 characters"),
    ):
        client.publish(CORRECT, CORRECTION | wrong | {"id": "wrong"})
        error = client.reply_to("wrong")["error"]
        assert error["code"] == "bad_request"
        assert error["message"].startswith(problem)
        client.publish(CORRECT, {"id": "other"})  # the next reply is not of this one again
        assert client.reply_to("other")["error"]["message"].startswith("specialist: must name")
    assert list(folder.glob("corrections*")) == []


def test_after_a_crash_the_same_correction_is_not_kept_twice(
    broker: Broker, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    state = {"folder": str(folder), "corrections": 10}
    arguments = configured(tmp_path, bundle, broker, state=state)
    with peer(broker.port, broker.protocol, REPLIES) as client:
        for request_id in ("before", "after"):
            with daemon(tmp_path, *arguments, program=PROGRAM) as process:
                process.until("STATUS=serving")
                client.publish(CORRECT, CORRECTION | {"id": request_id})
                assert client.reply_to(request_id)["data"] == {"kept": True, "count": 1}
                assert process.stop(signal.SIGKILL) == -signal.SIGKILL
    assert len(kept(folder)) == 1
