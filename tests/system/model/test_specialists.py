"""Specialists taught to the real model, asked over a broker; exchanged while it serves."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edged.bundle.folder import Bundle
from edged.commands.local_broker import Broker, running
from edged.commands.local_broker import mosquitto as configure_mosquitto
from edged.specialists.folder import ARRAYS
from tests.system.broker.configured import configured
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import Daemon, daemon
from tests.system.broker.peer import Peer, new_id, peer

HOME = {
    "light": (
        "turn on the lamp",
        "switch the hall light off",
        "it is too dark in the kitchen",
        "dim the lights in the bedroom",
        "I want the lamp on",
        "put out the light in the garage",
    ),
    "heating": (
        "I am cold",
        "set the thermostat to 21 degrees",
        "make it warmer in the living room",
        "turn the heating down",
        "it is freezing in here",
        "raise the temperature a little",
    ),
    "music": (
        "play some jazz",
        "stop the music",
        "the next song please",
        "put on my favourite album",
        "turn the volume up",
        "I want to hear the radio",
    ),
}
SHOP = {
    "refund": (
        "I want my money back",
        "please refund my last order",
        "when will I get my refund",
        "the shoes do not fit, I want to return them",
        "how do I send the jacket back",
        "my refund has not arrived yet",
        "cancel the order and pay me back",
        "I was charged twice, give me my money back",
    ),
    "delivery": (
        "where is my parcel",
        "when will my order arrive",
        "my package is late",
        "has my order been shipped",
        "the courier did not come today",
        "track my delivery",
        "how long does shipping take",
        "can you deliver to my office",
    ),
}
# Without any rule, so this one is never sure.
QUIZ = {
    "easy": (
        "What is the capital of Italy?",
        "Who painted the Mona Lisa?",
        "What is the longest river in Africa?",
        "Which planet is the largest?",
        "How many continents are there?",
        "In which year did the war end?",
    ),
    "hard": (
        "What is the capital of Spain?",
        "Who painted the Night Watch?",
        "What is the longest river in Asia?",
        "Which planet is the smallest?",
        "How many oceans are there?",
        "In which year did the war begin?",
    ),
}
CAPITAL = "What is the capital of France? Answer in one sentence."


@pytest.fixture(scope="module")
def folders(real_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """What `edged teach` makes of these examples; the quiz passes on to the plain model."""
    root = tmp_path_factory.mktemp("specialists")
    for name, examples in (("home", HOME), ("shop", SHOP), ("quiz", QUIZ)):
        path = root / f"{name}.jsonl"
        lines = [
            json.dumps({"prompt": prompt, "answer": answer})
            for answer, prompts in examples.items()
            for prompt in prompts
        ]
        path.write_text("\n".join(lines), "utf-8")
        command = [sys.executable, "-m", "edged", "teach", str(path)]
        command += ["--model", str(real_bundle.folder), "--output", str(root / name)]
        command += ["--escalate", "model"] if name == "quiz" else []
        subprocess.run(command, check=True, capture_output=True)
    return {name: root / name for name in ("home", "shop", "quiz")}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    require_mosquitto()
    with running(configure_mosquitto(tmp_path_factory.mktemp("broker"))) as started:
        yield started


@pytest.fixture(scope="module")
def node(
    broker: Broker,
    real_bundle: Bundle,
    folders: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Peer]:
    """A client of a node with all of them."""
    folder = tmp_path_factory.mktemp("node")
    paths = [str(path) for path in folders.values()]
    arguments = configured(folder, real_bundle.folder, broker, specialists=paths)
    with (
        daemon(folder, *arguments) as process,
        peer(broker.port, "5", "edged/kitchen/response/#") as client,
    ):
        process.until("STATUS=serving")
        yield client
        assert process.stop() == 0


def asked(client: Peer, prompt: str, **members: object) -> dict[str, Any]:
    """Return the reply to a request."""
    request = {"id": new_id(), "prompt": prompt, "max_tokens": 16} | members
    client.publish("edged/kitchen/request/generate", request)
    return client.reply_to(str(request["id"]))


def test_a_specialist_decides_without_a_token(node: Peer) -> None:
    reply = asked(node, "please turn on the light in the hall", specialist="home")
    data = reply["data"]
    assert (data["specialist"], data["text"], data["choice"]) == ("home", "light", 1)
    assert data["finish_reason"] == "stop"
    assert sum(data["probabilities"]) == pytest.approx(1.0, abs=0.001)
    assert data["confidence"] == pytest.approx(data["probabilities"][1])
    assert reply["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize(
    ("prompt", "name", "answer"),
    [
        ("please turn on the light in the hall", "home", "light"),
        ("it is cold in the bathroom", "home", "heating"),
        ("my parcel has still not arrived", "shop", "delivery"),
        ("I would like my money back for this order", "shop", "refund"),
    ],
)
def test_the_gate_finds_the_specialist_for_a_prompt(
    node: Peer, prompt: str, name: str, answer: str
) -> None:
    data = asked(node, prompt, specialist="auto")["data"]
    assert (data["specialist"], data["text"]) == (name, answer)
    assert max(data["specialists"], key=data["specialists"].get) == name
    assert sum(data["specialists"].values()) == pytest.approx(1.0, abs=0.001)


def test_the_gate_says_that_nothing_fits(node: Peer) -> None:
    data = asked(node, "My dog has a fever and does not eat.", specialist="auto")["data"]
    assert (data["specialist"], data["finish_reason"], data["text"]) == (None, "unsure", "")
    assert data["specialists"].keys() == {"home", "shop", "quiz"}


def test_a_name_that_is_not_installed_is_refused(node: Peer) -> None:
    reply = asked(node, "hello", specialist="oven")
    assert reply["error"]["code"] == "bad_request"
    assert "oven is not installed on this node; it has home, quiz" in reply["error"]["message"]


@pytest.mark.parametrize("name", ["quiz", "auto"])
def test_the_plain_model_answers_what_a_specialist_is_unsure_of(node: Peer, name: str) -> None:
    reply = asked(node, CAPITAL, specialist=name)
    assert "Paris" in reply["data"]["text"]
    assert reply["data"]["finish_reason"] in {"stop", "length"}
    assert reply["data"]["specialist"] is None
    assert reply["data"]["escalated_from"] == "quiz"
    assert reply["usage"]["completion_tokens"] > 0


def test_what_the_client_keeps_from_being_passed_on_stays_unsure(node: Peer) -> None:
    reply = asked(node, CAPITAL, specialist="quiz", escalate=False)
    assert reply["data"]["finish_reason"] == "unsure"
    assert reply["data"]["specialist"] == "quiz"
    assert {guess["text"] for guess in reply["data"]["guesses"]} == {"easy", "hard"}
    assert reply["usage"]["completion_tokens"] == 0


def named(info: dict[str, Any]) -> dict[str, str | None]:
    """Return what ``info`` says of specialists: why each does not serve, or None."""
    return {one["name"]: one.get("error") for one in info["specialists"]}


def reloaded(process: Daemon, client: Peer) -> dict[str, Any]:
    """Have the daemon read its configuration again, and return the ``info`` that follows."""
    process.process.send_signal(signal.SIGHUP)
    process.until("RELOADING=1")
    process.until("READY=1")
    return client.reply()


def test_a_reload_exchanges_specialists_and_keeps_the_model(
    broker: Broker, real_bundle: Bundle, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "door"
    damaged.mkdir()
    for path in folders["shop"].iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / ARRAYS).write_bytes(b"not what was taught")

    def configure(*paths: Path) -> list[str]:
        return configured(
            tmp_path,
            real_bundle.folder,
            broker,
            node="hall",
            specialists=[str(path) for path in paths],
        )

    def ask(prompt: str, name: str) -> dict[str, Any]:
        request = {"id": new_id(), "prompt": prompt, "specialist": name}
        client.publish("edged/hall/request/generate", request)
        return client.reply_to(str(request["id"]))

    with (
        peer(broker.port, "5", "edged/hall/info") as informed,
        peer(broker.port, "5", "edged/hall/response/#") as client,
        daemon(tmp_path, *configure(folders["home"], damaged)) as process,
    ):
        process.until("STATUS=serving")
        found = named(informed.reply())
        assert found["home"] is None
        assert "is not what specialist.json says" in str(found["door"])
        assert ask("where is my parcel now", "shop")["error"]["code"] == "bad_request"
        assert ask("turn the lamp on", "home")["data"]["text"] == "light"

        configure(folders["home"], folders["shop"])
        assert named(reloaded(process, informed)) == {"home": None, "shop": None}
        assert ask("where is my parcel now", "shop")["data"]["text"] == "delivery"
        configure(folders["shop"])
        assert named(reloaded(process, informed)) == {"shop": None}
        assert ask("turn the lamp on", "home")["error"]["code"] == "bad_request"
        assert ask("where is my parcel now", "auto")["data"]["specialist"] == "shop"
        # Neither the model was loaded again, nor was the process replaced.
        assert process.log.count("ready after") == 1
        assert process.stop() == 0
