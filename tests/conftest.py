"""What this machine lacks, said at the top of a run; and skips that become failures in CI."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.requirements import IS_ALL_REQUIRED, require

# What is missing -> what of the tests cannot run without it, and how to get it.
PROGRAMS = {
    "mosquitto": "tests/system/broker; apt-get install mosquitto",
    "mosquitto_pub": "parts of tests/system/broker; apt-get install mosquitto-clients",
    "systemd-analyze": "tests/system/test_unit.py; apt-get install systemd",
    "strace": "tests/system/broker/test_offline.py; apt-get install strace iproute2",
    "shellcheck": "the shell part of scripts/check; apt-get install shellcheck",
    "g++": "the ESP32 example of tests/system/broker/test_examples.py; apt-get install g++",
    "node": "JavaScript in tests/system/broker/test_examples.py; apt-get install node-mqtt",
    "faketime": "the clock in tests/system/faults; apt-get install faketime",
    "debootstrap": "tests/system/boot; apt-get install debootstrap",
}
PACKAGES = {
    "torch": "tests/builder, tests/system/model; scripts/setup build broker dev",
    "optimum": "tests/builder, tests/system/model; scripts/setup build broker dev",
    "iotcore": "the embedded broker's tests; scripts/setup build broker dev",
}

# A shell starts what it puts in the background with SIGINT ignored, and everything below inherits
# that: Ctrl-C would do nothing in the tests that press it, and in the programs they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs that tests start do not find what is in this folder, as on a device.
_ABSENT = str(Path(__file__).with_name("absent"))
_PATHS = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if _ABSENT not in _PATHS:
    os.environ["PYTHONPATH"] = os.pathsep.join([_ABSENT, *filter(None, _PATHS)])

# How fast examples are made and run says something about the machine only.
settings.register_profile("edged", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# `make quick` draws a tenth of the examples (tests/examples.py).
settings.register_profile("quick", settings.get_profile("edged"), max_examples=10)
settings.load_profile("edged")


# The longest files, each of which one worker runs alone: begun first, so that none is left over for
# the end, when the others have nothing to do.
_BEGUN_FIRST = (
    "system/boot/test_update.py",
    "system/boot/test_boot.py",
    "system/emulation/test_container.py",
    "system/test_simulate.py",
    "system/model/test_memory_plan.py",
    "system/broker/test_conformance.py",
    "system/broker/test_storm.py",
    "system/model/test_escalation.py",
    "system/model/test_exact.py",
    "system/faults/test_payloads.py",
    "system/model/test_gate.py",
    "builder/test_pipeline.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    folder = Path(__file__).parent
    order = {folder / name: index for index, name in enumerate(_BEGUN_FIRST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def _missing() -> list[str]:
    missing = [f"{name} ({why})" for name, why in PROGRAMS.items() if not _has_program(name)]
    missing += [f"{name} ({why})" for name, why in PACKAGES.items() if find_spec(name) is None]
    if os.geteuid() != 0:
        missing.append("root (tests/system/boot)")
    return missing


def _has_program(name: str) -> bool:
    # Debian keeps daemons in /usr/sbin, which is not on everybody's PATH.
    return bool(shutil.which(name) or Path("/usr/sbin", name).exists())


def pytest_report_header() -> list[str]:
    """Say what cannot run here and what to install, before the first test."""
    mode = "a skip is a failure (EDGED_TEST_REQUIRE_ALL=1)" if IS_ALL_REQUIRED else "may be skipped"
    lines = [f"missing here: {what}" for what in _missing()]
    return [f"edged: {mode}; Python {sys.version.split()[0]}", *lines]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Take back what a test set up: its standard error is closed when the next one logs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    """Take back what a test caught: the daemon and the commands take signals for good."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    require(os.geteuid() == 0, "mounting needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    require(mounted.returncode == 0, f"nothing can be mounted here: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test's skip into a failure where everything is required."""
    report = yield
    # An expected failure is reported as skipped too; it ran and did what was expected.
    if not hasattr(report, "wasxfail"):
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a module's skip (``pytest.importorskip`` at its top) into an error, likewise."""
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if IS_ALL_REQUIRED and report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"required here, but skipped: {reason}"
