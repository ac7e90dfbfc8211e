"""Faults of the process: kills, disk, clock and signals; and its cost when idle."""

import contextlib
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil

from edged.commands.local_broker import Broker
from tests.requirements import require
from tests.system.broker.daemons import daemon
from tests.system.faults.killing import Plan, kill_again_and_again
from tests.system.faults.site import configure, crowd, serving, state, wait_for_log, wait_for_state

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def test_eight_kills_over_eighty_prompts_lose_nothing_and_mark_every_repetition(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    tally = kill_again_and_again(tmp_path, bundle, mosquitto, Plan(kills=8, prompts=80))
    assert tally.num_lost == 0
    assert tally.num_unmarked == 0
    assert tally.codes <= {"ok", "queue_full", "crashed_before"}


def test_a_full_or_read_only_disk_costs_the_state_file_but_no_answer(
    mosquitto: Broker, bundle: Path, tmp_path: Path, small_disk: Path
) -> None:
    config = configure(small_disk, bundle, mosquitto.port)
    with daemon(tmp_path, "--config", str(config)) as process, crowd(mosquitto) as clients:
        process.until("STATUS=serving")
        clients.ask(2)
        clients.settle()
        with contextlib.suppress(OSError), (small_disk / "hog").open("wb", buffering=0) as hog:
            while True:
                hog.write(bytes(4096))
        clients.ask(4)
        clients.settle()
        wait_for_log(process, "state.file: cannot be written")
        assert "state.folder" not in process.log  # its one block is allocated already
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        clients.ask(4)
        clients.settle()
        assert clients.codes == {"ok"}
        assert process.log.count("state.file: cannot be written") == 1
        assert process.log.count("state.folder: the crash journal cannot be written") == 1
        assert process.stop() == 0


def test_deleting_a_model_file_does_not_affect_a_running_daemon(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    with serving(tmp_path, copy, mosquitto.port) as process, crowd(mosquitto) as clients:
        shutil.rmtree(copy)
        clients.ask(4, max_tokens=50)
        clients.settle()
        assert clients.codes == {"ok"}
        assert process.stop() == 0


def test_a_clock_jump_cuts_no_answer_and_expires_no_request(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    """Ten years forward, then to an hour before the start."""
    require(FAKETIME, "faketime is not installed (apt-get install faketime)")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "WATCHDOG_USEC": "2000000",
    }
    with (
        serving(tmp_path, bundle, mosquitto.port, keepalive="60s", **environment) as process,
        crowd(mosquitto) as clients,
    ):
        clients.ask(2, timeout_ms=60_000)
        clients.settle()
        for jump in ("+3650d", "-1h"):
            offset.write_text(jump)
            process.until("WATCHDOG=1")
            process.until("WATCHDOG=1")
            clients.ask(4, timeout_ms=60_000)
            clients.settle()
        assert clients.codes == {"ok"}
        assert wait_for_state(tmp_path, lambda told: told["served"] == 10)["connects"] == 1
        assert process.stop() == 0


def test_a_request_interrupted_by_a_stop_is_answered_by_the_next_process(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    """A second signal stops it at once; the broker still has the running request."""
    with crowd(mosquitto) as clients:
        with serving(tmp_path, bundle, mosquitto.port) as process:
            clients.ask(8, max_tokens=200)
            process.process.send_signal(signal.SIGTERM)
            process.until("STOPPING=1")
            assert process.stop(signal.SIGTERM) == 0
        with serving(tmp_path, bundle, mosquitto.port) as process:
            clients.settle()
            assert clients.num_unmarked == 0
            assert clients.codes == {"ok"}
            assert process.stop() == 0


def test_an_idle_node_costs_next_to_nothing(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    """At most 0.5 % of a core and 2 wake-ups a second, including the keep-alive."""
    config = configure(tmp_path, bundle, mosquitto.port)
    config.write_text(config.read_text().replace('"interval": "1s"', '"interval": "30s"'))
    with daemon(tmp_path, "--config", str(config)) as process, crowd(mosquitto) as clients:
        process.until("STATUS=serving")
        clients.ask(2)
        clients.settle()
        own = psutil.Process(process.process.pid)
        threading.Event().wait(1.5)  # a changed state is published after a second
        before, started_s = _used(own), time.monotonic()
        threading.Event().wait(5.0)
        seconds = time.monotonic() - started_s
        cpu_s, wakeups = (after - first for after, first in zip(_used(own), before, strict=True))
        assert cpu_s / seconds <= 0.005
        assert wakeups / seconds <= 2.0
        assert state(tmp_path)["queue"] == 0
        assert process.stop() == 0


def _used(process: psutil.Process) -> tuple[float, int]:
    """Return CPU seconds, and how often one of its threads went to sleep."""
    times = process.cpu_times()
    sleeps = 0
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        sleeps += next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
    return times.user + times.system, sleeps
