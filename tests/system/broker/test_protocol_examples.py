"""The commands in ``docs/protocol.md`` work as they stand, with Debian's MQTT clients."""

import json
import re
import shutil
import subprocess

import pytest

from edged.commands.local_broker import Broker
from tests.paths import ROOT
from tests.requirements import require
from tests.system.broker.wire_ends import FakeNode

DOCUMENT = ROOT / "docs" / "protocol.md"
EXAMPLES = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split()[-1][:20])
def test_each_command_in_the_protocol_gets_its_reply(mosquitto: Broker, example: str) -> None:
    require(shutil.which("mosquitto_rr"), "mosquitto_rr is not installed (apt: mosquitto-clients)")
    script = example.replace("-h localhost", f"-h {mosquitto.host} -p {mosquitto.port}")
    script = script.replace("-W 10 ", "-W 3 ")  # this one listens until its timeout
    with FakeNode(mosquitto):
        done = subprocess.run(
            ["bash", "-euc", script], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout.splitlines()[-1])
    assert (reply["v"], reply["status"], reply["node"]) == (1, "ok", "kitchen")


def test_the_protocol_contains_commands() -> None:
    assert len(EXAMPLES) >= 5


def test_every_json_block_in_the_protocol_is_valid() -> None:
    documents = re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(documents) >= 4
    for document in documents:
        json.loads(document)
