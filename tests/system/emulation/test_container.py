"""The container image: small, locked down, and with the same answers on emulated Arm as here."""

import json
import os
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from edged.bundle.folder import Bundle
from edged.commands.features import FeatureReader
from edged.commands.local_broker import Broker, mosquitto, running
from edged.specialists.decision import Decision, decide
from edged.specialists.folder import BaseModel, read_specialist
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import peer
from tests.system.emulation.containers import (
    allowances,
    build,
    documented_options,
    files,
    inspect,
    podman,
)
from tests.tiny_model import write_tiny_bundle

QUESTION = "What is the capital of France? Answer in one sentence."
LAMP = {
    "on": (
        "switch on the light",
        "turn the lamp on",
        "lights on please",
        "make it bright in here",
        "illuminate the hall",
        "turn on the bedroom lamp",
    ),
    "off": (
        "switch off the light",
        "turn the lamp off",
        "lights out please",
        "make it dark in here",
        "turn everything off in the hall",
        "kill the porch light",
    ),
}
LAMP_PROMPTS = ("please put the lamp on", "the light should go out", "who was Napoleon")
# Raspberry Pi 4 and 5: without and with int8 dot products.
PROCESSORS = {"cortex-a72": ["asimd"], "cortex-a76": ["asimddp", "asimd"]}
SITE = "opt/edged/lib/python3.13/site-packages"
MAX_IMAGE_BYTES = 250_000_000
START_S = 300.0
# Little to prepare and to measure, in emulation.
SHORT = {"max_model_len": 256, "num_slots": 1, "prefill_chunk_tokens": 32}
# The very first build compiles every package in emulation.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="session")
def arm64() -> str:
    return build("arm64")


@pytest.fixture(scope="session")
def amd64() -> str:
    return build("amd64")


@pytest.fixture(params=["arm64", "amd64"])
def image(request: pytest.FixtureRequest) -> str:
    """The image, for each architecture."""
    name: str = request.getfixturevalue(request.param)
    return name


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    require_mosquitto()
    with running(mosquitto(tmp_path)) as started:
        yield started


def readable(model: Path) -> Path:
    """Make a bundle readable for the user of the container, as a built one is."""
    for file in model.iterdir():
        file.chmod(0o644)
    return model


@contextmanager
def serving(image: str, model: Path, broker: Broker, folder: Path, cpu: str) -> Iterator[str]:
    """Run the image as deploy/README.md says; yield its name when ready. It must stop cleanly.

    The specialists in ``folder/etc`` are served.
    """
    specialists = [path.parent.name for path in (folder / "etc").glob("*/specialist.json")]
    config = {
        "node": "kitchen",
        "specialists": specialists,
        "model": {"path": "/var/lib/edged-models"} | SHORT,
        "broker": {"host": broker.host, "port": broker.port},
        "state": {"file": "/run/edged/state.json"},
    }
    (folder / "etc").mkdir(exist_ok=True)
    (folder / "etc" / "edged.yaml").write_text(yaml.safe_dump(config), "utf-8")
    name = f"edged-test-{os.getpid()}-{cpu}"
    options = documented_options({"/etc/edged": folder / "etc", "/var/lib/edged-models": model})
    options += [*allowances(), "--env", f"QEMU_CPU={cpu}", "--name", name]
    podman("run", "--detach", "--pull=never", *options, image)
    try:
        with peer(broker.port, "5", "edged/kitchen/state") as operator:
            until_s = time.monotonic() + START_S
            told: dict[str, Any] = {}
            while told.get("state") != "ready":
                assert time.monotonic() < until_s, podman("logs", name)
                try:
                    told = operator.reply()
                except queue.Empty:
                    running_now = podman("inspect", "--format", "{{.State.Running}}", name)
                    assert running_now.strip() == "true", podman("logs", name)
        yield name
        podman("stop", "--time", "60", name)
        assert podman("inspect", "--format", "{{.State.ExitCode}}", name).strip() == "0"
    finally:
        podman("rm", "--force", name)


def answer(broker: Broker) -> dict[str, Any]:
    """Ask and return the reply without its timing."""
    words = ["--broker", broker.url, "--node", "kitchen", "--json", "--timeout", str(START_S)]
    result = subprocess.run(
        [sys.executable, "-m", "edged", "ask", *words, "--max-tokens", "12", QUESTION],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    reply = json.loads(result.stdout)
    return {"data": reply["data"], "tokens": reply["usage"]["completion_tokens"]}


def decision(broker: Broker, prompt: str) -> dict[str, Any]:
    """Ask the specialist ``lamp`` and return what it says."""
    with peer(broker.port, "5", "edged/kitchen/response/generate/test") as client:
        asked = {"prompt": prompt, "specialist": "lamp", "timeout_ms": round(START_S * 1000)}
        topic = "edged/kitchen/request/generate"
        client.publish(topic, asked, ResponseTopic="edged/kitchen/response/generate/test")
        data: dict[str, Any] = client.reply()["data"]
        return data


def expected(folder: Path, model: Path, broker: Broker) -> dict[str, Any]:
    """Return the answer on this machine's processor."""
    with daemon(folder, *serve_arguments(model, broker.url)) as process:
        process.until("STATUS=serving")
        said = answer(broker)
        assert process.stop() == 0
    return said


def test_the_image_is_small_runs_as_nobody_and_has_a_health_check(image: str) -> None:
    said = inspect(image)
    assert said["Size"] <= MAX_IMAGE_BYTES
    assert said["Config"]["User"] == "65532:65532"
    assert said["Healthcheck"]["Test"][:3] == ["CMD", "/opt/edged/bin/edged", "health"]
    assert said["Architecture"] == image.rpartition(":")[2]


def test_nothing_can_be_installed_or_written_in_the_image(image: str) -> None:
    with files(image) as root:
        programs = {path.name for path in (root / "usr/bin").iterdir()}
        programs |= {path.name for path in (root / "usr/sbin").iterdir()}
        packages = {path.name for path in (root / SITE).iterdir()}
        real = [path for path in root.rglob("*") if not path.is_symlink()]
        writable = {
            str(path.relative_to(root))
            for path in real
            if path.stat().st_uid == 65532 or path.stat().st_mode & 0o002
        }
    assert programs == {"python3", "python3.13", "py3clean", "py3compile", "py3versions"}
    assert {"edged", "onnxruntime", "numpy"} <= packages
    assert not packages & {"pip", "setuptools", "torch", "transformers", "onnx"}
    assert writable == {"run/edged", "tmp", "var/lib/edged", "var/tmp"}


def test_the_image_for_this_machine_is_built_from_the_same_stages_and_answers(
    amd64: str, broker: Broker, tmp_path: Path
) -> None:
    model = readable(write_tiny_bundle(tmp_path / "tiny"))
    wanted = expected(tmp_path, model, broker)
    with serving(amd64, model, broker, tmp_path, "native") as container:
        assert answer(broker) == wanted
        podman("healthcheck", "run", container)


@dataclass(frozen=True)
class Here:
    """What the real model says on this machine's processor."""

    answer: dict[str, Any]
    lamp: Path
    """A specialist that was taught here."""
    decisions: list[Decision]


@pytest.fixture(scope="module")
def here(real_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Here:
    require_mosquitto()
    folder, model = tmp_path_factory.mktemp("here"), real_bundle.folder
    examples, lamp = folder / "lamp.jsonl", folder / "lamp"
    rows = ({"prompt": p, "answer": a} for a, prompts in LAMP.items() for p in prompts)
    examples.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    words = ["teach", str(examples), "--model", str(model), "--output", str(lamp)]
    subprocess.run([sys.executable, "-m", "edged", *words], check=True)
    specialist = read_specialist(lamp, BaseModel.of(real_bundle.manifest))
    reader = FeatureReader(model)
    decisions = [decide(specialist, reader.one(prompt)) for prompt in LAMP_PROMPTS]
    with running(mosquitto(folder)) as broker:
        return Here(expected(folder, model, broker), lamp, decisions)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_real_model_answers_on_an_emulated_raspberry_pi_as_on_this_machine(
    arm64: str, processor: str, real_bundle: Bundle, here: Here, broker: Broker, tmp_path: Path
) -> None:
    shutil.copytree(here.lamp, tmp_path / "etc" / "lamp")
    with serving(arm64, real_bundle.folder, broker, tmp_path, processor) as container:
        said = answer(broker)
        decisions = [decision(broker, prompt) for prompt in LAMP_PROMPTS]
        # Not by the engine, which allows 10 s: an emulated program may take longer.
        health = ["edged", "health", "--state-file", "/run/edged/state.json"]
        podman("exec", container, *health)
    assert said == here.answer
    assert "Paris" in said["data"]["text"]
    # What was taught on this processor holds on that one.
    for found, wanted in zip(decisions, here.decisions, strict=True):
        assert (found["text"], found["choice"]) == (wanted.text, wanted.choice)
        assert found["probabilities"] == pytest.approx(wanted.probabilities, abs=0.1)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_doctor_knows_the_processor_and_its_kernels(
    arm64: str, processor: str, tmp_path: Path
) -> None:
    model = readable(write_tiny_bundle(tmp_path / "tiny"))
    options = ["--rm", "--read-only", *allowances(), "--env", f"QEMU_CPU={processor}"]
    program = ["--volume", f"{model}:/model:ro", "--entrypoint", "/opt/edged/bin/edged", arm64]
    # The exit status is 1, and not podman's: there is no broker.
    script = ["doctor", "--model", "/model", "--node", "x", "--json"]
    said = json.loads(podman("run", *options, *program, *script, status=1))
    found = {finding["check"]: finding for finding in said["findings"]}
    assert found["cpu"]["figures"]["cpu_flags"] == PROCESSORS[processor]
    assert found["attention"]["level"] == "ok"
