"""The Debian package for arm64 on emulated processors: a prompt over MQTT, the tokens of x86-64."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edged.bundle import Bundle
from edged.local_broker import Broker, mosquitto, running
from tests.boot.machine import missing
from tests.broker.conftest import require_mosquitto
from tests.broker.daemons import daemon, serve_arguments
from tests.requirements import require
from tests.tiny_model import write_tiny_bundle

ROOT = Path(__file__).resolve().parent.parent.parent
ENTER = Path(__file__).with_name("enter.sh")
PROGRAM, PYTHON = "/usr/lib/edged/bin/edged", "/usr/lib/edged/bin/python"
QUESTION = "What is the capital of France? Answer in one sentence."
# Raspberry Pi 4 and 5: without and with int8 dot products.
PROCESSORS = {"cortex-a72": ["asimd"], "cortex-a76": ["asimddp", "asimd"]}
START_S = 240.0


@dataclass(frozen=True)
class Emulated:
    """An arm64 system with the package in it."""

    layers: str
    """Folders that stay as they are, the uppermost first."""
    work: Path
    processor: str

    def command(self, model: Path, *words: str) -> list[str]:
        enter = ["unshare", "--mount", str(ENTER), self.layers, str(self.work), str(model)]
        # The emulator is told which name the program sees: Python finds its packages by it.
        emulator = [] if os.uname().machine == "aarch64" else ["/qemu-aarch64", "-0", PYTHON]
        return [*enter, *emulator, PYTHON, PROGRAM, *words]

    def run(self, model: Path, *words: str) -> str:
        command = self.command(model, *words)
        result = subprocess.run(
            command,
            env=os.environ | {"QEMU_CPU": self.processor},
            capture_output=True,
            text=True,
            check=False,
            timeout=START_S,
        )
        return result.stdout

    @contextmanager
    def serving(self, folder: Path, model: Path, broker: Broker) -> Iterator[None]:
        """Run the daemon until it says that it serves."""
        name = f"edged-emulated-{os.getpid()}"
        words = serve_arguments(Path("/model"), broker.url)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
            (folder / "daemon.log").open("wb") as log,
        ):
            told.bind(f"\0{name}")
            told.settimeout(START_S)
            process = subprocess.Popen(
                self.command(model, "run", *words),
                env=os.environ | {"QEMU_CPU": self.processor, "NOTIFY_SOCKET": f"@{name}"},
                stderr=log,
            )
            try:
                while b"STATUS=serving" not in told.recv(4096):
                    assert process.poll() is None, (folder / "daemon.log").read_text("utf-8")
                yield
            finally:
                process.terminate()
                process.wait(60)


@pytest.fixture(scope="session")
def layers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The prepared system, below a layer with the arm64 package unpacked."""
    require_mosquitto()
    require((reason := missing()) is None, f"nothing can be mounted here: {reason}")
    command = [str(ROOT / "scripts" / "arm64-root"), "--print"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    require(Path(said, ".ready").exists(), "no arm64 system (as root: scripts/arm64-root)")
    folder = tmp_path_factory.mktemp("arm64")
    build = [str(ROOT / "scripts" / "build-deb"), "arm64", "--compression", "none"]
    result = subprocess.run(
        [*build, "--output", str(folder)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    unpacked = folder / "upper"
    deb = result.stdout.splitlines()[-1]
    subprocess.run(["dpkg-deb", "--extract", deb, str(unpacked)], check=True)
    return f"{unpacked}:{said}"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running(mosquitto(tmp_path)) as started:
        yield started


def answer(broker: Broker) -> dict[str, Any]:
    """Ask and return the reply, without what depends on the time."""
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


def expected(folder: Path, model: Path, broker: Broker) -> dict[str, Any]:
    """The answer of this machine's own processor."""
    with daemon(folder, *serve_arguments(model, broker.url)) as process:
        process.until("STATUS=serving")
        said = answer(broker)
        assert process.stop() == 0
    return said


def test_a_prompt_over_mqtt_has_the_answer_of_x86(
    layers: str, broker: Broker, tmp_path: Path
) -> None:
    model = write_tiny_bundle(tmp_path / "tiny")
    wanted = expected(tmp_path, model, broker)
    with Emulated(layers, tmp_path / "pi", "cortex-a72").serving(tmp_path, model, broker):
        assert answer(broker) == wanted


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_doctor_knows_the_processor_and_its_kernels(
    layers: str, processor: str, tmp_path: Path
) -> None:
    model = write_tiny_bundle(tmp_path / "tiny")
    pi = Emulated(layers, tmp_path / "pi", processor)
    said = json.loads(pi.run(model, "doctor", "--model", "/model", "--node", "x", "--json"))
    found = {finding["check"]: finding for finding in said["findings"]}
    assert found["cpu"]["figures"]["cpu_flags"] == PROCESSORS[processor]
    assert found["attention"]["level"] == "ok"


def test_the_real_model_says_on_a_raspberry_pi_5_what_it_says_here(
    layers: str, real_bundle: Bundle, broker: Broker, tmp_path: Path
) -> None:
    wanted = expected(tmp_path, real_bundle.folder, broker)
    pi = Emulated(layers, tmp_path / "pi", "cortex-a76")
    with pi.serving(tmp_path, real_bundle.folder, broker):
        said = answer(broker)
    assert said == wanted
    assert "Paris" in said["data"]["text"]
