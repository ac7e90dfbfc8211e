"""``edged demo``: from prompt to answer on one machine; clear errors if something is missing."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edged.commands.demo import PORT, DemoError, _daemon
from edged.commands.local_broker import MOSQUITTO, Broker, is_listening
from tests.requirements import require
from tests.system.broker.conftest import require_iotcore

WITHOUT_MOSQUITTO = "from edged.commands import local_broker; local_broker.MOSQUITTO = None;"
WITHOUT_IOTCORE = "import importlib.util; importlib.util.find_spec = lambda name: None;"


def demo(*options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{before}import sys; from edged.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, "demo", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("name", ["mosquitto", "iotcore"])
def test_it_asks_a_real_daemon_through_either_broker(bundle: Path, name: str) -> None:
    if name == "mosquitto":
        require(MOSQUITTO, "mosquitto is not installed (apt install mosquitto)")
    else:
        require_iotcore()
    before = WITHOUT_MOSQUITTO if name == "iotcore" else ""
    shown = demo("--bundle", str(bundle), "--prompt", "hello\x1b[2J", before=before)
    assert shown.returncode == 0, shown.stderr
    assert "[5/7] asking  hello\N{REPLACEMENT CHARACTER}[2J\n" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert f"broker  {name} on mqtt://127.0.0.1:" in shown.stdout
    assert '"status": "ok"' in shown.stdout
    assert "mosquitto_pub" in shown.stdout
    assert "edged ask --broker" in shown.stdout


def session(leader: int) -> list[int]:
    """Return the processes of a session; a process that is gone has none."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            found += [pid] if os.getsid(pid) == leader else []
    return found


def has_ended(pid: int) -> bool:
    """Wait until a process has ended, reaped or not."""
    with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(pid), "rb") as process:
        return bool(select.select([process], [], [], 30)[0])
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("step", ["broker", "daemon"])
def test_closed_with_its_terminal_or_terminated_it_leaves_nothing_running(
    bundle: Path, tmp_path: Path, number: signal.Signals, step: str
) -> None:
    require(MOSQUITTO, "mosquitto is not installed (apt install mosquitto)")
    command = [sys.executable, "-m", "edged", "demo", "--bundle", str(bundle), "--keep"]
    with subprocess.Popen(
        command,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as shown:
        assert shown.stdout is not None
        url = ""
        for line in shown.stdout:
            url = url or line.partition("broker  mosquitto on ")[2].strip()
            if f"] {step}" in line:
                break
        # Whoever closes a terminal ends all that runs in it; whoever terminates, this program.
        (os.killpg if number == signal.SIGHUP else os.kill)(shown.pid, number)
        assert shown.wait(timeout=60) == 128 + number
    assert not is_listening(int(url.rpartition(":")[2]))
    assert list(tmp_path.iterdir()) == []
    assert [pid for pid in session(shown.pid) if not has_ended(pid)] == []


def test_a_bundle_that_cannot_be_taught_says_so_and_answers(bundle: Path) -> None:
    require_iotcore()
    shown = demo("--bundle", str(bundle), before=WITHOUT_MOSQUITTO)
    assert shown.returncode == 0, shown.stderr
    assert "gives no hidden states; rebuild it" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert "[3/7] teach   left out" in shown.stdout
    assert "--specialist" not in shown.stdout
    assert '"status": "ok"' in shown.stdout


def test_another_port_is_chosen_when_the_default_is_in_use(bundle: Path) -> None:
    require_iotcore()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", PORT))
        taken.listen()
        shown = demo("--bundle", str(bundle), before=WITHOUT_MOSQUITTO)
    assert shown.returncode == 0, shown.stderr
    assert f":{PORT}" not in shown.stdout


def test_without_any_broker_it_says_what_to_install(bundle: Path) -> None:
    shown = demo("--bundle", str(bundle), before=WITHOUT_MOSQUITTO + WITHOUT_IOTCORE)
    assert shown.returncode == 69
    assert "apt install mosquitto" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_failed_start_quotes_the_daemons_log(bundle: Path, tmp_path: Path) -> None:
    require_iotcore()
    shown = demo("--bundle", str(tmp_path / "nothing"), before=WITHOUT_MOSQUITTO)
    assert shown.returncode == 69
    assert "not a bundle" in shown.stderr or str(tmp_path / "nothing") in shown.stderr


def test_a_temporary_folder_too_long_for_a_socket_is_named_before_a_build(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    before = f"import os; os.environ['TMPDIR'] = {str(folder)!r};"
    shown = demo("--bundle", str(tmp_path / "nothing"), before=before)
    assert shown.returncode == 64
    assert f"TMPDIR: {folder} is too long" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert shown.stdout == ""


def test_a_broker_that_ends_before_the_daemon_is_ready_is_named_at_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon itself waits for it: the test's time would be over first."""
    monkeypatch.setattr("edged.commands.demo.READY_TIMEOUT_S", 3600.0)
    ended = Broker("mosquitto", PORT, ["false"])
    with (
        pytest.raises(DemoError, match=f"mosquitto on mqtt://127.0.0.1:{PORT}, has ended"),
        _daemon(bundle, ended, tmp_path, []),
    ):
        pytest.fail("it cannot serve")


def test_an_empty_prompt_is_a_usage_error() -> None:
    shown = demo("--prompt", " ")
    assert shown.returncode == 64
    assert "--prompt" in shown.stderr


def test_outside_the_source_folder_it_asks_for_a_bundle(tmp_path: Path) -> None:
    shown = demo(before=f"import os; os.chdir({str(tmp_path)!r});")
    assert shown.returncode == 69
    assert "--bundle DIR" in shown.stderr
