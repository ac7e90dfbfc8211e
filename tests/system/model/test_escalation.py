"""What a specialist is unsure of, over the wire: another node is asked, here played by a client."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edged.bundle.folder import Bundle
from edged.commands.local_broker import Broker
from edged.specialists.folder import DESCRIPTION
from tests.system.broker.accounts import REQUIRED, broker_with_accounts
from tests.system.broker.configured import configured
from tests.system.broker.daemons import daemon
from tests.system.broker.peer import Peer, peer

ASK, CORRECT = (f"edged/kitchen/request/{operation}" for operation in ("generate", "correct"))
NEVER, ALWAYS = 2.0, 0.0
OTHER, REPLIES = "edged/attic/request/generate", "reply/me"
EXAMPLES = {
    "on": ("turn on the lamp", "switch the light on", "light please", "lamp on", "make it bright"),
    "off": ("turn off the lamp", "switch the light off", "lights out", "lamp off", "make it dark"),
}


@pytest.fixture(scope="module")
def lamp(real_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A specialist that tells on from off."""
    rows = [{"prompt": one, "answer": label} for label, all_ in EXAMPLES.items() for one in all_]
    folder = tmp_path_factory.mktemp("lamp")
    examples = folder / "examples.jsonl"
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["teach", str(examples), "--model", str(real_bundle.folder)]
    command = [sys.executable, "-m", "edged", *words, "--output", str(folder / "lamp")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "lamp"


def sure_from(lamp: Path, folder: Path, unsure_below: float) -> Path:
    """Copy a specialist, and have it be sure from this confidence on."""
    copy = folder / lamp.name
    shutil.copytree(lamp, copy)
    path = copy / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unsure_below": unsure_below}))
    return copy


def passed_on(client: Peer) -> dict[str, Any]:
    message = client.message()
    assert message.topic == OTHER
    return client.parsed(message)


def test_what_is_unsure_is_asked_of_the_other_node_and_can_be_corrected(
    real_bundle: Bundle, tuned: Path, lamp: Path, mosquitto: Broker, tmp_path: Path
) -> None:
    state = shutil.copytree(tuned, tmp_path / "state")
    arguments = configured(
        tmp_path,
        real_bundle.folder,
        mosquitto,
        specialists=[str(sure_from(lamp, tmp_path, NEVER))],
        request={"escalate_to": "attic"},
        state={"folder": str(state), "corrections": 10},
    )
    asked = {"specialist": "lamp", "prompt": "lamp on", "response_topic": REPLIES}
    with daemon(tmp_path, *arguments) as process, peer(mosquitto.port, "5", OTHER, REPLIES) as me:
        process.until("STATUS=serving")
        me.publish(ASK, asked | {"id": "sure"})
        request = passed_on(me)
        assert request["messages"] == [{"role": "user", "content": "lamp on"}]
        assert (request["specialist"], request["escalate"]) == ("lamp", False)
        data = {"text": "on", "json": None, "choice": 1, "finish_reason": "stop"}
        me.publish(request["response_topic"], {"id": request["id"], "status": "ok", "data": data})
        answer = me.reply_to("sure")["data"]
        assert (answer["text"], answer["choice"], answer["escalated_to"]) == ("on", 1, "attic")

        me.publish(ASK, asked | {"id": "unsure"})
        request = passed_on(me)
        me.publish(request["response_topic"], {"id": request["id"], "status": "error", "data": {}})
        answer = me.reply_to("unsure")["data"]
        assert (answer["finish_reason"], answer["specialist"]) == ("unsure", "lamp")
        assert "escalated_to" not in answer

        me.publish(ASK, asked | {"id": "late", "timeout_ms": 3000})
        passed_on(me)
        assert me.reply_to("late")["data"]["finish_reason"] == "unsure"

        me.publish(ASK, asked | {"id": "mine", "escalate": False})
        assert me.reply_to("mine")["data"]["finish_reason"] == "unsure"

        correction = {"specialist": "lamp", "prompt": "lamp on", "answer": "off"}
        me.publish(CORRECT, correction | {"id": "c1", "response_topic": REPLIES})
        assert me.reply_to("c1")["data"] == {"kept": True, "count": 1}
        (line,) = (state / "corrections.jsonl").read_text().splitlines()
        said = json.loads(line)
        assert said["unsure"]
        assert said["said"] == answer["text"]


@pytest.mark.parametrize("target", ["attic", "group/lab"])
def test_a_node_asks_another_as_an_account_as_any(
    real_bundle: Bundle, lamp: Path, tmp_path: Path, target: str
) -> None:
    nodes: dict[str, tuple[float, dict[str, Any]]] = {
        "attic": (ALWAYS, {"group": {"name": "lab"}}),
        "kitchen": (NEVER, {"request": {"escalate_to": target}}),
    }
    asked = {"id": "a1", "specialist": "lamp", "prompt": "lamp on"}
    own, replies = "edged/kitchen/client/me", "edged/attic/client/node-kitchen/response/#"
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(broker_with_accounts(tmp_path, tuple(nodes)))
        operator = stack.enter_context(peer(broker.port, "5", "edged/attic/event", user="me"))
        for node, (unsure_below, sections) in nodes.items():
            folder = tmp_path / node
            folder.mkdir()
            arguments = configured(
                folder,
                real_bundle.folder,
                broker,
                node=node,
                user=f"node-{node}",
                security=REQUIRED,
                specialists=[str(sure_from(lamp, folder, unsure_below))],
                **sections,
            )
            stack.enter_context(daemon(folder, *arguments)).until("STATUS=serving")
        while operator.reply()["event"] != "group_joined":
            pass
        witness = stack.enter_context(peer(broker.port, "5", replies, user="node-kitchen"))
        me = stack.enter_context(peer(broker.port, "5", f"{own}/response/#", user="me"))
        me.publish(f"{own}/request/generate", asked)
        data = me.reply_to("a1")["data"]
        assert (data["text"], data["finish_reason"]) == ("on", "stop")
        assert (data["specialist"], data["escalated_to"]) == ("lamp", target)
        topic = witness.message().topic
    assert topic == "edged/attic/client/node-kitchen/response/escalation/kitchen"
