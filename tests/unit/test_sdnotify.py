"""systemd's notifications, against a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.daemon.sdnotify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Yield a socket as systemd listens on it, and the NOTIFY_SOCKET that names it."""
    is_abstract = request.param == "abstract"
    name = f"edged-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(f"\0{name}" if is_abstract else name)
        peer.settimeout(5)
        yield peer, f"@{name}" if is_abstract else name


def test_systemd_hears_every_step(manager: tuple[socket.socket, str]) -> None:
    peer, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.status("loading\nthe model \ud800")
    notifier.ready()
    notifier.watchdog()
    notifier.reloading(12)
    notifier.stopping()
    assert [peer.recv(4096) for _ in range(5)] == [
        b"STATUS=loading the model ?",
        b"READY=1",
        b"WATCHDOG=1",
        b"RELOADING=1\nMONOTONIC_USEC=12",
        b"STOPPING=1",
    ]


def test_a_reload_stretches_the_watchdog_until_it_is_done(
    manager: tuple[socket.socket, str],
) -> None:
    peer, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "5000000"})
    notifier.reloading(12)
    notifier.ready()
    assert peer.recv(4096) == b"RELOADING=1\nMONOTONIC_USEC=12\nWATCHDOG_USEC=180000000"
    assert peer.recv(4096) == b"READY=1\nWATCHDOG_USEC=5000000"


def test_a_start_that_waits_asks_for_time_and_lets_the_watchdog_rest_until_it_is_ready(
    manager: tuple[socket.socket, str],
) -> None:
    """Time for the pause and for one more attempt, as long as the first could take."""
    peer, address = manager
    Notifier({"NOTIFY_SOCKET": address}).waiting("no\nmemory", 8.0)
    assert peer.recv(4096) == b"STATUS=no memory\nEXTEND_TIMEOUT_USEC=188000000"
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "5000000"})
    notifier.waiting("no memory", 60.0)
    notifier.ready()
    assert peer.recv(4096).endswith(b"\nEXTEND_TIMEOUT_USEC=240000000\nWATCHDOG_USEC=0")
    assert peer.recv(4096) == b"READY=1\nWATCHDOG_USEC=5000000"


def test_a_long_reason_fits_into_what_systemd_reads(manager: tuple[socket.socket, str]) -> None:
    """It ignores a message of more than 4,096 bytes, and the time it asks for with it."""
    peer, address = manager
    Notifier({"NOTIFY_SOCKET": address}).waiting("\N{SNOWMAN}" * 5000, 1.0)
    message = peer.recv(10_000)
    assert len(message) < 4096
    assert message.endswith(b"EXTEND_TIMEOUT_USEC=181000000")


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready()
    assert notifier.watchdog_interval_s is None


def test_a_dead_socket_does_not_stop_the_service(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    Notifier({"NOTIFY_SOCKET": "/" + "x" * 200}).ready()


def test_a_full_socket_does_not_block(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(3000):
            notifier.watchdog()
        peer.settimeout(5)
        assert peer.recv(64) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_only_where_it_is_meant(
    environment: dict[str, str], interval_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)
    assert Notifier(environment).watchdog_interval_s == interval_s


def test_the_real_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert Notifier().watchdog_interval_s == 2.0
