"""Whatever is in the state folder, a node starts and answers, and says what it could not read."""

from pathlib import Path

import pytest

from edged.commands.local_broker import Broker
from tests.damages import CONTENTS, DAMAGES, OTHERS
from tests.system.broker.configured import configured
from tests.system.broker.daemons import daemon
from tests.system.broker.peer import new_id, peer

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
