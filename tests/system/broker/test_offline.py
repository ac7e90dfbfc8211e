"""The daemon in its own network namespace, traced: it communicates with the broker only."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edged.commands.local_broker import mosquitto
from tests.requirements import require
from tests.system.broker.conftest import require_mosquitto
from tests.tiny_model import write_tiny_bundle

SCRIPT = Path(__file__).with_name("isolated.sh")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder with the traces of the run, and the broker's port."""
    require_mosquitto()
    require(os.geteuid() == 0, "not root (a network of its own)")
    for program, package in (("strace", "strace"), ("ip", "iproute2"), ("unshare", "util-linux")):
        require(shutil.which(program), f"{program} is not installed (apt-get install {package})")
    folder = tmp_path_factory.mktemp("isolated")
    broker = mosquitto(folder)
    bundle = write_tiny_bundle(folder / "bundle")
    words = [str(SCRIPT), str(folder), str(broker.port), str(bundle), sys.executable]
    path = f"{os.environ['PATH']}:/usr/sbin"
    result = subprocess.run(
        ["unshare", "--net", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        # Coverage of the test runner would write to the same file as the daemon's.
        env=os.environ | {"PATH": path},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return folder, broker.port


def test_it_answers_while_it_is_traced(seen: tuple[Path, int]) -> None:
    assert (seen[0] / "answer").read_text("utf-8").strip()


def test_every_connection_is_to_the_broker(seen: tuple[Path, int]) -> None:
    folder, port = seen
    trace = (folder / "trace").read_text("utf-8")
    v4 = re.findall(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)', trace)
    v6 = re.findall(r'sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"', trace)
    connects = [line for line in trace.splitlines() if re.search(r"\bconnect\(.*AF_INET", line)]
    assert any(f"htons({port})" in line for line in connects), "the trace shows nothing"
    # Port 0: a name lookup, or the local end of the socket.
    peers = {address for number, address in v4 + v6 if number == str(port)}
    others = {address for number, address in v4 + v6 if number != str(port)}
    assert peers <= {"127.0.0.1", "::1"}
    assert others <= {"127.0.0.1", "::1", "0.0.0.0", "::"}  # noqa: S104 - nobody binds to it here


def test_there_is_no_listening_socket_and_no_dns_query(seen: tuple[Path, int]) -> None:
    trace = (seen[0] / "trace").read_text("utf-8")
    assert not re.findall(r"\blisten\(.*", trace)
    assert not re.findall(r".*htons\(53\).*", trace)


def test_no_packet_left_the_machine(seen: tuple[Path, int]) -> None:
    def counted(when: str) -> int:
        return int((seen[0] / f"packets-{when}").read_text("utf-8"))

    assert counted("after") == counted("before")
    assert counted("of-a-stranger") > counted("after"), "the counter counts nothing"


def test_the_doctor_confirms_it_for_the_running_daemon(seen: tuple[Path, int]) -> None:
    document = json.loads((seen[0] / "doctor.json").read_text("utf-8"))
    assert document["ok"] is True
    checks = {finding["check"] for finding in document["findings"]}
    assert {"listening", "connections", "datagrams", "telemetry"} <= checks
