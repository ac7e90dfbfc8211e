"""A start that cannot succeed now: attempted again with growing pauses, its reason told once."""

import errno
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edged.daemon.sdnotify import Notifier
from edged.daemon.startup import WaitingReport, attempt, half_to_whole
from edged.errors import (
    BundleError,
    BundleUnavailableError,
    ConfigError,
    ExitCode,
    UnavailableError,
    UsageError,
)

SHORT = UnavailableError("budget.min_available: 12 MiB short of 300 MiB")


@dataclass
class Attempts:
    """A loader that fails as it is told, and a clock that only the pauses move."""

    failures: list[Exception]
    stops_after: float = float("inf")
    pauses_s: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    share: float = 1.0

    def load(self) -> str:
        if self.failures:
            raise self.failures.pop(0)
        return "model"

    def wait(self, pause_s: float) -> bool:
        self.pauses_s.append(pause_s)
        return sum(self.pauses_s) >= self.stops_after

    def start(self) -> str | None:
        def report(reason: str, _pause_s: float) -> None:
            self.reasons.append(reason)

        return attempt(self.load, self.wait, report, lambda: self.share)


def test_one_that_succeeds_at_once_waits_for_nothing() -> None:
    attempts = Attempts([])
    assert attempts.start() == "model"
    assert (attempts.pauses_s, attempts.reasons) == ([], [])


def test_the_pauses_double_from_a_second_to_a_minute_for_ever() -> None:
    attempts = Attempts([SHORT] * 20)
    assert attempts.start() == "model"
    assert attempts.pauses_s[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert set(attempts.pauses_s[8:]) == {60}
    assert len(attempts.pauses_s) == len(attempts.reasons) == 20


def test_jitter_shortens_a_pause_by_up_to_a_half() -> None:
    attempts = Attempts([SHORT] * 3, share=0.5)
    attempts.start()
    assert attempts.pauses_s == [0.5, 1, 2]
    assert all(0.5 <= half_to_whole() <= 1 for _ in range(1000))


@pytest.mark.parametrize(
    "failure",
    [
        SHORT,
        BundleError("tokenizer.json: sha256 differs from the manifest"),
        BundleUnavailableError("models: No such file or directory"),
        PermissionError(errno.EACCES, "Permission denied", "tokenizer.json"),
        OSError(errno.EIO, "Input/output error"),
        MemoryError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_what_may_change_while_the_configuration_stays_is_waited_for(failure: Exception) -> None:
    attempts = Attempts([failure])
    assert attempts.start() == "model"
    assert attempts.reasons == [str(failure) or "memory ran out while the model was loaded"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [(ConfigError("broker.hots: unknown key"), 78), (UsageError("give --config"), 64)],
)
def test_what_somebody_must_change_first_ends_it(
    failure: ConfigError | UsageError, code: int
) -> None:
    attempts = Attempts([SHORT, failure])
    with pytest.raises(type(failure), match=str(failure)) as caught:
        attempts.start()
    assert caught.value.exit_code == code
    assert len(attempts.pauses_s) == 1


def test_a_stop_ends_the_waiting_without_another_attempt() -> None:
    attempts = Attempts([SHORT] * 10, stops_after=3)
    assert attempts.start() is None
    assert attempts.pauses_s == [1, 2]
    assert len(attempts.failures) == 8


def test_what_is_temporary_has_its_own_exit_status_and_is_never_final() -> None:
    for error in (UnavailableError, BundleUnavailableError):
        assert error("x").exit_code is ExitCode.TEMPORARY_FAILURE
    assert isinstance(BundleUnavailableError("x"), BundleError)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[tuple[Callable[[], list[str]], Notifier]]:
    """A notifier, and what systemd has got of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(str(tmp_path / "notify"))
        peer.settimeout(0)

        def read() -> list[str]:
            messages = []
            while True:
                try:
                    messages.append(peer.recv(4096).decode())
                except BlockingIOError:
                    return messages

        yield read, Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})


def test_systemd_gets_each_attempt_and_the_log_each_reason_once(
    told: tuple[Callable[[], list[str]], Notifier], caplog: pytest.LogCaptureFixture
) -> None:
    """Figures in a reason and the advice that depends on them make it no other reason."""
    read, notifier = told
    report = WaitingReport(notifier)
    with caplog.at_level(logging.INFO):
        for number in range(5):
            advice = "free memory" if number else "free memory, or lower it to 1M"
            report.failed(f"{number} MiB short; {advice}", 2.0**number)
            report.failed("models: No such file or directory", 60.0)
        report.close()
    messages = read()
    assert len(messages) == 10
    assert messages[2] == (
        "STATUS=waiting: 1 MiB short; free memory; next attempt in 2 s\n"
        "EXTEND_TIMEOUT_USEC=182000000"
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert ["0 MiB short" in caplog.text, "No such file" in caplog.text] == [True, True]
