"""edged installed as deploy/README.md says, on a Debian booted with systemd: no part is a fake."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot.machine import Machine, missing
from tests.requirements import require
from tests.tiny_model import write_tiny_bundle

ROOT = Path(__file__).resolve().parent.parent.parent
ASK = "/opt/edged/bin/edged ask --node kitchen --json --max-tokens 8 Hello"


def prepared_system() -> Path:
    """The folder that scripts/boot-root made, if it did."""
    command = [str(ROOT / "scripts" / "boot-root"), "--print"]
    folder = Path(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    )
    require((folder / ".ready").exists(), "no system to boot (as root: scripts/boot-root)")
    return folder


def readme_commands() -> list[str]:
    """Read the numbered steps of deploy/README.md: one script for each."""
    text = (ROOT / "deploy" / "README.md").read_text("utf-8")
    steps = re.findall(r"(?ms)^   ```sh\n(.*?)^   ```", text)
    assert len(steps) == 5
    return [re.sub(r"\\\n\s*", "", step) for step in steps]


def show(machine: Machine, *properties: str) -> dict[str, str]:
    """Read properties of the unit."""
    output = machine.run(f"systemctl show edged --property {','.join(properties)}").stdout
    return dict(line.split("=", 1) for line in output.splitlines())


def wait_for(machine: Machine, condition: str) -> None:
    """Wait until a shell condition holds in the machine, a minute at most."""
    script = f"for try in $(seq 300); do if {condition}; then exit 0; fi; sleep 0.1; done; exit 1"
    result = machine.run(f"timeout 60 sh -c '{script}'", timeout_s=90)
    assert result.returncode == 0, f"never became true: {condition}"


def serve_again(machine: Machine) -> None:
    """Start the unit anew and wait until it answers: ready comes a moment before connected."""
    assert machine.run("systemctl reset-failed edged; systemctl restart edged").returncode == 0
    wait_for(machine, ASK)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted Debian with Mosquitto running, and the checkout's files in /src."""
    require((reason := missing()) is None, f"a machine cannot be booted here: {reason}")
    machine = Machine(prepared_system(), tmp_path_factory.mktemp("machine"))
    machine.file("/etc/hostname").write_text("kitchen\n", "utf-8")
    machine.file("/etc/hosts").write_text("127.0.0.1 localhost kitchen\n", "utf-8")
    source = machine.file("/src/here").parent
    for name in ("systemd", "deploy"):
        shutil.copytree(ROOT / name, source / name)
    write_tiny_bundle(source / "models" / "smollm2-135m-instruct")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*command, str(source)], cwd=ROOT, check=True, capture_output=True)
    try:
        machine.boot()
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Machine:
    """The machine with edged installed by the README's own commands, started and ready."""
    _program, model, broker, service, _ask = readme_commands()
    # Step 1 fetches packages; the machine has them, except edged itself.
    program = "/opt/edged/bin/python -m pip install --no-index --no-deps --quiet *.whl"
    for step in (program, model, broker, service):
        result = machine.run(step, timeout_s=120)
        log = machine.run("journalctl --no-pager --unit edged --lines 30").stdout
        assert result.returncode == 0, f"{step}\n{result.stderr}\n{log}"
    wait_for(machine, ASK)
    assert show(machine, "NRestarts") == {"NRestarts": "0"}
    return machine


def test_the_unit_is_ready_when_it_has_started(installed: Machine) -> None:
    state = show(installed, "ActiveState", "SubState", "StatusText")
    assert (state["ActiveState"], state["SubState"]) == ("active", "running")
    assert state["StatusText"]


def test_it_answers_the_readmes_question(installed: Machine) -> None:
    result = installed.run(readme_commands()[4])
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_it_answers_a_client_that_knows_only_the_protocol(installed: Machine) -> None:
    result = installed.run(
        "mosquitto_rr -V 5 -W 20 -t edged/kitchen/request/generate"
        ' -e edged/kitchen/response/generate/rr -m \'{"prompt": "Hello", "max_tokens": 4}\''
    )
    reply = json.loads(result.stdout)
    assert (reply["node"], reply["status"]) == ("kitchen", "ok")


def test_the_sandbox_is_in_force(installed: Machine) -> None:
    pid = show(installed, "MainPID")["MainPID"]
    status = dict(
        line.split(":\t", 1)
        for line in installed.run(f"cat /proc/{pid}/status").stdout.splitlines()
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["Uid"].split()[0] != "0"


def test_the_state_file_says_that_it_is_well(installed: Machine) -> None:
    result = installed.run("/opt/edged/bin/edged health")
    assert result.returncode == 0, result.stderr
    assert installed.run("stat -c %a /run/edged/state.json").stdout.strip() == "600"


def test_it_comes_back_after_kill_9_and_answers(installed: Machine) -> None:
    before = show(installed, "MainPID", "NRestarts")
    installed.run("systemctl kill --signal KILL edged")
    wait_for(installed, f"[ $(systemctl show -P NRestarts edged) -gt {before['NRestarts']} ]")
    wait_for(installed, "systemctl is-active --quiet edged")
    assert show(installed, "MainPID") != {"MainPID": before["MainPID"]}
    wait_for(installed, ASK)


def test_the_watchdog_replaces_a_process_that_hangs(installed: Machine) -> None:
    installed.run(
        "mkdir -p /run/systemd/system/edged.service.d && cd /run/systemd/system/edged.service.d"
        " && printf '[Service]\\nWatchdogSec=2s\\n' > quick.conf"
        " && systemctl daemon-reload && systemctl restart edged"
    )
    try:
        before = show(installed, "NRestarts", "WatchdogUSec")
        assert before["WatchdogUSec"] == "2s"
        installed.run("systemctl kill --signal STOP edged")
        wait_for(installed, f"[ $(systemctl show -P NRestarts edged) -gt {before['NRestarts']} ]")
        wait_for(installed, "systemctl is-active --quiet edged")
        wait_for(installed, ASK)
    finally:
        installed.run("rm -r /run/systemd/system/edged.service.d; systemctl daemon-reload")
        serve_again(installed)


def test_it_waits_for_a_broker_that_restarts(installed: Machine) -> None:
    before = show(installed, "MainPID", "NRestarts")
    installed.run("systemctl restart mosquitto")
    wait_for(installed, ASK)
    assert show(installed, "MainPID", "NRestarts") == before


def test_it_answers_after_a_hangup_signal(installed: Machine) -> None:
    # systemd takes death by SIGHUP for a clean end, after which "on-failure" would not restart.
    installed.run("systemctl kill --signal HUP edged")
    wait_for(installed, ASK)


def test_it_stops_cleanly_and_says_so_on_mqtt(installed: Machine) -> None:
    assert installed.run("systemctl stop edged", timeout_s=30).returncode == 0
    assert show(installed, "Result", "ExecMainStatus") == {
        "Result": "success",
        "ExecMainStatus": "0",
    }
    said = installed.run("mosquitto_sub -C 1 -W 10 -t edged/kitchen/availability").stdout
    assert said.strip() == "offline"
    serve_again(installed)


def test_a_wrong_configuration_ends_it_for_good(installed: Machine) -> None:
    installed.run("systemctl stop edged; echo 'nonsense: 1' >> /etc/edged/edged.yaml")
    try:
        assert installed.run("systemctl start edged").returncode != 0
        wait_for(installed, "systemctl is-failed --quiet edged")
        assert show(installed, "ExecMainStatus", "NRestarts")["ExecMainStatus"] == "78"
        assert "nonsense" in installed.run("journalctl --no-pager --unit edged --lines 5").stdout
    finally:
        installed.run("install -m 0644 deploy/edged.yaml /etc/edged/edged.yaml")
        serve_again(installed)
