"""edged, installed as docs/install.md says on a Debian booted with systemd; nothing is faked."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.system.boot.conftest import ASK, DROP_INS, show, succeed, wait_for
from tests.system.boot.machine import Machine

REQUEST = "edged/kitchen/request/generate"
REPLIES = "edged/kitchen/response/generate"


@contextmanager
def awaited(machine: Machine, name: str) -> Iterator[None]:
    """Wait at the end of the block for the reply to a prompt published in it."""
    heard = f"/tmp/{name}"  # noqa: S108 - in the machine
    # -d: prints when it is subscribed.
    listen = f"stdbuf -oL mosquitto_sub -d -C 1 -W 110 -q 1 -t {REPLIES}"
    succeed(machine, f"({listen} > {heard}; touch {heard}.done) > /dev/null 2>&1 &")
    wait_for(machine, f"grep --quiet Subscribed {heard}")
    yield
    wait_for(machine, f"[ -e {heard}.done ]")
    line = succeed(machine, f"grep ^{{ {heard}; rm {heard} {heard}.done")
    reply = json.loads(line)
    assert (reply["id"], reply["status"]) == (name, "ok")


def publish(name: str) -> str:
    """Return the command that publishes a request with this id and does not wait."""
    request = json.dumps({"id": name, "prompt": "Hello", "max_tokens": 8, "timeout_ms": 60000})
    return f"mosquitto_pub -q 1 -t {REQUEST} -m '{request}'"


def memory_group(machine: Machine, pid: str) -> str:
    """Find the control group that limits the memory of a process."""
    lines = succeed(machine, f"cat /proc/{pid}/cgroup").splitlines()
    paths = dict(line.split(":", 2)[1:] for line in lines)
    older = paths.get("memory")
    return f"/sys/fs/cgroup{paths['']}" if older is None else f"/sys/fs/cgroup/memory{older}"


def test_the_unit_is_ready_when_it_has_started(installed: Machine) -> None:
    state = show(installed, "ActiveState", "SubState", "StatusText")
    assert (state["ActiveState"], state["SubState"]) == ("active", "running")
    assert state["StatusText"]


def test_it_answers_an_independent_client(installed: Machine) -> None:
    said = succeed(
        installed,
        f"mosquitto_rr -V 5 -W 20 -t {REQUEST}"
        f' -e {REPLIES}/rr -m \'{{"prompt": "Hello", "max_tokens": 4}}\'',
    )
    reply = json.loads(said)
    assert (reply["node"], reply["status"]) == ("kitchen", "ok")


def test_the_sandbox_is_in_force(installed: Machine) -> None:
    pid = show(installed, "MainPID")["MainPID"]
    lines = succeed(installed, f"cat /proc/{pid}/status").splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["Uid"].split()[0] != "0"


@pytest.mark.parametrize("folder", ["/", "/etc", "/usr", "/opt", "/var/lib/edged-models", "/boot"])
def test_the_service_writes_nowhere_but_into_its_own_folders(
    installed: Machine, folder: str
) -> None:
    pid = show(installed, "MainPID")["MainPID"]
    # As root in the mount namespace of the service: that restricts it, not the user.
    inside = f"nsenter --target {pid} --mount"
    refused = installed.run(f"{inside} touch {folder}/written")
    assert (refused.returncode, "Read-only file system" in refused.stderr) == (1, True)
    for own in ("/var/lib/edged", "/run/edged"):
        succeed(installed, f"{inside} sh -c 'touch {own}/written && rm {own}/written'")


def test_the_state_file_reports_ready(installed: Machine) -> None:
    succeed(installed, "edged health")
    assert succeed(installed, "stat -c %a /run/edged/state.json").strip() == "600"


def test_the_doctor_finds_no_problem_and_no_other_connection(installed: Machine) -> None:
    said = json.loads(succeed(installed, "edged doctor --json"))
    assert said["ok"] is True
    found = {finding["check"]: finding for finding in said["findings"]}
    assert found["delay"]["level"] == found["attention"]["level"] == "ok"
    assert found["connections"]["said"].startswith("to the broker only: ")
    assert "cgroup_enable=memory" in str(found["memory-control"]["advice"]) or (
        found["memory-control"]["level"] == "ok"
    )
    succeed(installed, "edged doctor --offline")


def test_a_second_installation_changes_nothing_and_restarts_nothing(installed: Machine) -> None:
    before = show(installed, "MainPID")
    said = succeed(installed, "edged install").splitlines()
    assert [line.split(";")[0] for line in said] == ["installed"]
    assert show(installed, "MainPID") == before


def test_each_prompt_interrupted_by_a_kill_is_answered_after_the_restart(
    machine: Machine,
) -> None:
    for number in range(3):
        before = show(machine, "NRestarts")["NRestarts"]
        with awaited(machine, f"kill-{number}"):
            succeed(
                machine,
                f"systemctl kill --signal STOP edged; {publish(f'kill-{number}')};"
                " systemctl kill --signal KILL edged",
            )
        assert int(show(machine, "NRestarts")["NRestarts"]) == int(before) + 1


def test_the_watchdog_restarts_a_hanging_process_and_its_prompt_is_answered(
    machine: Machine,
) -> None:
    succeed(
        machine,
        f"mkdir -p {DROP_INS} && printf '[Service]\\nWatchdogSec=5s\\n' > {DROP_INS}/quick.conf"
        " && systemctl daemon-reload && systemctl restart edged",
    )
    before = show(machine, "NRestarts", "WatchdogUSec")
    assert before["WatchdogUSec"] == "5s"
    with awaited(machine, "hangs"):
        succeed(machine, f"systemctl kill --signal STOP edged; {publish('hangs')}")
    assert int(show(machine, "NRestarts")["NRestarts"]) == int(before["NRestarts"]) + 1
    assert "watchdog" in succeed(machine, "journalctl --no-pager --unit edged --lines 60").lower()


def test_at_its_memory_limit_the_service_is_restarted_and_the_broker_unaffected(
    machine: Machine,
) -> None:
    assert json.loads(succeed(machine, "cat /run/edged/state.json"))["budget_enforced"] is True
    before = show(machine, "MainPID", "NRestarts")
    broker = succeed(machine, "systemctl show --property MainPID,NRestarts mosquitto")
    # Other processes in its control group use its memory, each less than the service itself.
    hog = 'python3 -c "import time; kept = bytes(200 << 20) + bytes(1); time.sleep(60)"'
    succeed(
        machine,
        f"(echo 0 > {memory_group(machine, before['MainPID'])}/cgroup.procs;"
        f" for hog in 1 2 3 4; do {hog} & done) > /dev/null 2>&1 &",
    )
    wait_for(machine, f"[ $(systemctl show -P NRestarts edged) -gt {before['NRestarts']} ]")
    wait_for(machine, ASK)
    journal = succeed(machine, "journalctl --no-pager --unit edged --lines 30")
    assert "status=9/KILL" in journal
    # How long the start itself takes, depends on the machine.
    times = show(machine, "ActiveExitTimestampMonotonic", "ExecMainStartTimestampMonotonic")
    ended_us, started_us = (int(value) for value in sorted(times.values(), key=int))
    assert started_us == int(times["ExecMainStartTimestampMonotonic"])
    assert (started_us - ended_us) / 1e6 <= 10
    assert succeed(machine, "systemctl show --property MainPID,NRestarts mosquitto") == broker


def test_a_crash_loop_is_slow_and_ends_with_its_cause(machine: Machine) -> None:
    succeed(
        machine,
        f"mkdir -p {DROP_INS}"
        f" && printf '[Service]\\nExecStart=\\nExecStart=/bin/sh -c \"exit 70\"\\n'"
        f" > {DROP_INS}/crash.conf && systemctl daemon-reload && systemctl restart edged || :",
    )
    before = int(show(machine, "NRestarts")["NRestarts"])
    started_s = time.monotonic()
    wait_for(machine, f"[ $(systemctl show -P NRestarts edged) -ge {before + 3} ]")
    assert time.monotonic() - started_s >= 4
    succeed(machine, f"rm -r {DROP_INS}; systemctl daemon-reload")
    wait_for(machine, ASK)


def test_it_waits_for_a_broker_that_restarts(installed: Machine) -> None:
    before = show(installed, "MainPID", "NRestarts")
    succeed(installed, "systemctl restart mosquitto")
    wait_for(installed, ASK)
    assert show(installed, "MainPID", "NRestarts") == before


def test_a_reload_applies_the_configuration_and_keeps_the_process_id(machine: Machine) -> None:
    before = show(machine, "MainPID", "NRestarts")
    settings = "/etc/edged/edged.yaml"
    succeed(machine, f"cp {settings} /tmp/saved; echo 'queue: {{size: 3}}' >> {settings}")
    try:
        succeed(machine, "systemctl reload edged")
        told = "mosquitto_sub -C 1 -W 2 -t edged/kitchen/info"
        wait_for(machine, f'{told} | grep --quiet "\\"queue\\":3"')
        wait_for(machine, ASK)
        assert show(machine, "MainPID", "NRestarts") == before
    finally:
        succeed(machine, f"mv /tmp/saved {settings}")


def test_systemctl_reload_fails_for_a_bad_file_and_the_old_configuration_stays(
    machine: Machine,
) -> None:
    before = show(machine, "MainPID", "NRestarts")
    settings = "/etc/edged/edged.yaml"
    succeed(machine, f"cp {settings} /tmp/saved; echo 'nonsense: 1' >> {settings}")
    try:
        assert machine.run("systemctl reload edged").returncode != 0
        # The daemon checks the file itself, too.
        succeed(machine, "systemctl kill --signal HUP edged")
        journal = "journalctl --no-pager --unit edged --lines 20"
        wait_for(machine, f'{journal} | grep --quiet "the old one stays: nonsense"')
        succeed(machine, ASK)
        assert show(machine, "MainPID", "NRestarts") == before
    finally:
        succeed(machine, f"mv /tmp/saved {settings}")


def test_it_stops_in_time_and_publishes_offline(machine: Machine) -> None:
    succeed(machine, f"{publish('late')}; systemctl stop edged")
    assert show(machine, "Result", "ExecMainStatus") == {
        "Result": "success",
        "ExecMainStatus": "0",
    }
    said = succeed(machine, "mosquitto_sub -C 1 -W 10 -t edged/kitchen/availability")
    assert said.strip() == "offline"


def test_a_wrong_configuration_is_not_retried(machine: Machine) -> None:
    settings = "/etc/edged/edged.yaml"
    succeed(machine, f"cp {settings} /tmp/saved; echo 'nonsense: 1' >> {settings}")
    try:
        assert machine.run("systemctl restart edged").returncode != 0
        wait_for(machine, "systemctl is-failed --quiet edged")
        assert show(machine, "ExecMainStatus")["ExecMainStatus"] == "78"
        assert "nonsense" in succeed(machine, "journalctl --no-pager --unit edged --lines 5")
    finally:
        succeed(machine, f"mv /tmp/saved {settings}")


def test_a_start_waits_for_a_late_mount_and_can_be_stopped_cleanly(
    machine: Machine,
) -> None:
    waits = 'systemctl status edged | grep --quiet "waiting: /var/lib/edged-models/"'
    succeed(machine, "systemctl stop edged; mv /var/lib/edged-models /var/lib/later")
    try:
        succeed(machine, "systemctl start --no-block edged")
        wait_for(machine, waits)
        succeed(machine, "systemctl stop edged")
        assert show(machine, "ActiveState", "Result", "ExecMainStatus") == {
            "ActiveState": "inactive",
            "Result": "success",
            "ExecMainStatus": "0",
        }
        succeed(machine, "systemctl start --no-block edged")
        wait_for(machine, waits)
    finally:
        succeed(machine, "mv /var/lib/later /var/lib/edged-models")
    wait_for(machine, ASK)
    assert show(machine, "NRestarts") == {"NRestarts": "0"}


def test_a_password_reaches_the_service_and_nobody_else(machine: Machine) -> None:
    succeed(
        machine,
        "cp /etc/mosquitto/conf.d/edged.conf /etc/edged/edged.yaml /tmp/"
        " && cd /usr/share/doc/edged/examples/mosquitto"
        " && cp edged-lan.conf /etc/mosquitto/conf.d/edged.conf && cp edged.acl /etc/mosquitto/"
        " && printf 'edged:s3cret\\nha:other\\n' > /etc/mosquitto/edged.passwd"
        " && mosquitto_passwd -U /etc/mosquitto/edged.passwd"
        " && chown mosquitto: /etc/mosquitto/edged.* && chmod 600 /etc/mosquitto/edged.*"
        " && systemctl restart mosquitto"
        " && echo s3cret > /tmp/secret"
        " && edged install --broker mqtt://edged@localhost --password-file /tmp/secret",
    )
    try:
        wait_for(machine, f"{ASK} --broker mqtt://ha:other@localhost")
        anonymous = "mosquitto_pub -t edged/kitchen/request/generate -m x"
        assert machine.run(anonymous).returncode != 0, "the broker takes anybody"
        succeed(machine, "edged doctor")
        pid = show(machine, "MainPID")["MainPID"]
        for refused in ("/etc/edged/credentials/mqtt-password", "/etc/mosquitto/edged.passwd"):
            words = f"nsenter --target {pid} --mount setpriv --reuid edged --clear-groups cat"
            assert machine.run(f"{words} {refused}").returncode != 0
        assert "s3cret" not in succeed(machine, "cat /etc/edged/edged.yaml; systemctl cat edged")
    finally:
        succeed(
            machine,
            "cp /tmp/edged.conf /etc/mosquitto/conf.d/ && cp /tmp/edged.yaml /etc/edged/"
            " && rm -r /etc/systemd/system/edged.service.d /etc/edged/credentials/mqtt-password"
            " && edged install --no-start && systemctl restart mosquitto",
        )


def test_it_restarts_by_itself_after_a_power_failure(machine: Machine) -> None:
    succeed(machine, "sync")
    machine.cut_power()
    machine.boot()
    wait_for(machine, ASK)
    assert show(machine, "NRestarts") == {"NRestarts": "0"}
