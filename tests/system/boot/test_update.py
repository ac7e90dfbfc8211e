"""Signed updates of a device that is asked all the while: accepted, refused or taken back."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edged.bundle.folder import open_bundle
from edged.bundle.manifest import TOKENIZER
from edged.bundle.version import VERSION, version_bytes
from tests.paths import ROOT
from tests.requirements import require
from tests.signing import PrivateKey, private_key, public_pem, sign
from tests.system.boot.conftest import booted, show, succeed, wait_for
from tests.system.boot.machine import Machine
from tests.tiny_graphs import TinyConfig
from tests.tiny_model import write_tiny_bundle, write_tiny_tokenizer

MAKER, STRANGER = private_key(), private_key()
DEEP = replace(TinyConfig(), num_layers=16 * TinyConfig().num_layers)
LISTED = "edged model list"

# The first bytes of most emoji are one token.
FATAL = "Hello \N{GRINNING FACE}"
# Asks all the while, and the model in its argument what ends it, as the third prompt. When it is
# told to stop, it prints the replies to each of its requests.
ASKER = """\
import json, pathlib, sys, threading, time
import paho.mqtt.client as mqtt
stop, replies, told = pathlib.Path("/tmp/stop"), {}, threading.Event()
models = [None]
def hear(client, _, message):
    reply = json.loads(message.payload)
    models.append(reply.get("model"))
    replies.setdefault(reply["id"], []).append([reply["status"], models[-1]])
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "asker", clean_session=False)
client.on_message = hear
client.on_subscribe = lambda *_: told.set()
client.connect("localhost")
client.loop_start()
client.subscribe("edged/kitchen/response/generate/asker", 1)
assert told.wait(20)
sent = []
while not stop.exists():
    if len(sent) - len(replies) >= 8:  # as many as the queue has room for
        time.sleep(0.1)
        continue
    sent.append(f"r-{len(sent)}")
    is_third = models[-1] == sys.argv[1] and models.count(sys.argv[1]) >= 2
    request = {"id": sent[-1], "prompt": FATAL if is_third else "Hello", "temperature": 0,
               "max_tokens": 4, "timeout_ms": 120000,
               "response_topic": "edged/kitchen/response/generate/asker"}
    client.publish("edged/kitchen/request/generate", json.dumps(request), 1).wait_for_publish(60)
    time.sleep(0.3)
for _ in range(600):
    if len(replies) == len(sent):
        break
    time.sleep(0.1)
time.sleep(2)  # for a second reply, which must not come
print(json.dumps({"sent": sent, "replies": replies}))
"""


def bundle(
    folder: Path,
    version: int,
    key: PrivateKey = MAKER,
    config: TinyConfig = TinyConfig(),  # noqa: B008 - frozen
) -> Path:
    """Write a signed bundle."""
    write_tiny_bundle(folder, seed=version, config=config)
    (folder / VERSION).write_bytes(version_bytes(version))
    sign(folder, key)
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is installed on the device, by name."""
    require(os.uname().machine == "x86_64", "where the crashing model divides, only x86-64 crashes")
    folder = tmp_path_factory.mktemp("updates")
    write_tiny_tokenizer(folder / TOKENIZER)
    tokens = Tokenizer.from_file(str(folder / TOKENIZER)).encode(FATAL)
    fatal = replace(TinyConfig(), fatal_token=max(tokens.ids))
    found = [
        bundle(folder / "better", 2),
        bundle(folder / "deep", 3, config=DEEP),
        bundle(folder / "damaged", 4),
        bundle(folder / "stranger", 5, STRANGER),
        bundle(folder / "crashing", 6, config=fatal),
        bundle(folder / "last", 7),
    ]
    weights = folder / "damaged" / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    return {path.name: path for path in found}


@pytest.fixture(scope="module")
def device(
    with_edged: Path, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A machine with edged installed by the documented commands, and with the maker's key."""
    folder = tmp_path_factory.mktemp("files")
    hooks = [ROOT / "deploy" / "updates" / f"edged-drop.{kind}" for kind in ("path", "service")]
    key, asker = folder / "maker.pem", folder / "asker.py"
    key.write_bytes(public_pem(MAKER))
    asker.write_text(ASKER.replace("FATAL", ascii(FATAL)), "utf-8")
    files = (key, asker, *hooks, *bundles.values())
    with booted(tmp_path_factory.mktemp("machine"), *files, below=with_edged) as machine:
        succeed(machine, "edged key add maker.pem && systemctl reload edged")
        yield machine


def refused(machine: Machine, name: str) -> str:
    """Try to install what is refused; return the message."""
    before = succeed(machine, LISTED)
    result = machine.run(f"edged model install {name}", timeout_s=240)
    assert result.returncode != 0, result.stdout
    assert succeed(machine, LISTED) == before
    return result.stderr


def serving(machine: Machine) -> str:
    """Return the line of what serves."""
    (line,) = [line for line in succeed(machine, LISTED).splitlines() if "current" in line]
    return line


def test_updates_of_a_device_that_is_asked_all_the_while(
    device: Machine, bundles: dict[str, Path]
) -> None:
    better, crashing, last = (
        open_bundle(bundles[name]).model_id for name in ("better", "crashing", "last")
    )
    ask = f"/usr/lib/edged/bin/python asker.py {crashing} >/tmp/asked 2>/tmp/asked.errors"
    succeed(device, f"({ask}; touch /tmp/asked.done) > /dev/null 2>&1 &")

    said = succeed(device, "edged model install --wait better", timeout_s=300)
    assert "did well on trial, and is accepted" in said
    assert "version 2  current" in serving(device)
    assert "as fast as" in refused(device, "deep")
    assert "model.onnx.data" in refused(device, "damaged")
    assert "signed by the unknown key" in refused(device, "stranger")

    succeed(device, "edged model install crashing", timeout_s=240)
    wait_for(device, f'{LISTED} | grep --quiet "version 2  current$"')
    wait_for(device, "grep --quiet failed /run/edged/state.json")
    state = json.loads(succeed(device, "cat /run/edged/state.json"))["trial"]
    assert state["status"] == "failed"
    assert state["models"][0].startswith("tiny-")
    assert "the service ended with" in state["reason"]

    drop = "/var/lib/edged-models/drop"
    succeed(device, f"install -d -m 0700 {drop} && cp edged-drop.* /etc/systemd/system")
    succeed(device, "systemctl daemon-reload && systemctl enable --now edged-drop.path")
    for name in ("stranger", "last"):
        succeed(device, f"cp -r {name} {drop}/{name} && mv {drop}/{name} {drop}/{name}.ready")
    wait_for(device, f'{LISTED} | grep --quiet "version 7  current$"')
    wait_for(device, f"[ -d {drop}/stranger.refused -a ! -e {drop}/last.ready ]")

    succeed(device, "touch /tmp/stop")
    wait_for(device, "[ -e /tmp/asked.done ]")
    assert succeed(device, "cat /tmp/asked.errors") == ""
    asked = json.loads(succeed(device, "cat /tmp/asked"))
    assert sorted(asked["replies"]) == sorted(asked["sent"])
    assert [said for said in asked["replies"].values() if len(said) != 1] == []
    assert {status for [[status, _]] in asked["replies"].values()} == {"ok"}
    models = [model for [[_, model]] in asked["replies"].values()]
    assert {better, last} <= set(models)
    assert models.count(crashing) >= 2, "it crashed before the third prompt"
    assert show(device, "ActiveState") == {"ActiveState": "active"}
