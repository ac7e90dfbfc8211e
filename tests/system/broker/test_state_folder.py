"""Whatever is in the state folder, a node starts and answers, and says what it could not read."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from edged.commands.local_broker import Broker
from edged.daemon.measurements import COST_FILE
from tests.damages import CONTENTS, DAMAGES, OTHERS
from tests.system.broker.configured import configured
from tests.system.broker.daemons import daemon
from tests.system.broker.peer import WAIT_S, new_id, peer

ANSWERS = "edged/kitchen/response/#"


def serve(folder: Path, broker: Broker, bundle: Path) -> str:
    """Start a node, let it answer, and stop it; return the log of this process."""
    arguments = configured(
        folder,
        bundle,
        broker,
        state={"folder": str(folder / "state"), "corrections": 10},
        request={"system_prompt": "be brief"},
    )
    with daemon(folder, *arguments) as process, peer(broker.port, "5", ANSWERS) as client:
        begin, name = len(process.log), new_id()
        process.until("STATUS=serving")
        client.publish("edged/kitchen/request/generate", {"id": name, "prompt": "a"})
        assert client.reply_to(name)["status"] == "ok"
        assert process.stop() == 0
        return process.log[begin:]


def kept(folder: Path) -> list[Path]:
    """Return the files that a start reads."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} > {"attempts.json", "cost.json"}
    assert len(list((folder / "prefixes").iterdir())) == 1
    return files


@pytest.mark.parametrize("damage", ["garbage", "deep JSON", "huge", *OTHERS])
def test_a_node_starts_whatever_is_in_the_place_of_its_files(
    mosquitto: Broker, bundle: Path, tmp_path: Path, damage: str
) -> None:
    (tmp_path / "state").mkdir()
    serve(tmp_path, mosquitto, bundle)
    files = kept(tmp_path / "state")
    for path in files:
        DAMAGES[damage](path)
        DAMAGES["a pipe"](path.with_name(f"{path.name}.new"))
    log = serve(tmp_path, mosquitto, bundle)
    for path in files:
        lines = [line for line in log.splitlines() if str(path) in line]
        said = [line for line in lines if "cannot be read" in line or "damaged" in line]
        assert len(said) <= 1
        # An empty journal is a new one; what is no journal is said without the file's name.
        assert said or path.name == "attempts.json"
    again = serve(tmp_path, mosquitto, bundle)
    if damage in CONTENTS:
        assert "cannot be read" not in again
        assert "damaged" not in again


def test_a_node_that_was_measured_too_slow_finds_out_and_answers(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    serve(tmp_path, mosquitto, bundle)
    path = tmp_path / "state" / COST_FILE
    members = json.loads(path.read_text())
    members["cost"]["decode_token_s"] = 1.0
    path.write_text(json.dumps(members))
    ask = {"prompt": "a", "max_tokens": 50, "timeout_ms": 20_000}
    arguments = configured(tmp_path, bundle, mosquitto, state={"folder": str(tmp_path / "state")})
    with daemon(tmp_path, *arguments) as process, peer(mosquitto.port, "5", ANSWERS) as client:
        process.until("STATUS=serving")
        replies: list[dict[str, Any]] = []
        until_s = time.monotonic() + WAIT_S
        while not replies or (replies[-1]["status"] != "ok" and time.monotonic() < until_s):
            name = new_id()
            client.publish("edged/kitchen/request/generate", ask | {"id": name})
            replies.append(client.reply_to(name))
        assert process.stop() == 0
    assert replies[0]["error"]["code"] == "timeout"
    assert replies[-1]["status"] == "ok"
