"""What the process reaches once it is taken over: every address and socket of a booted machine."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.daemon.confinement import PORTS_ABI, SCOPES_ABI, landlock_abi
from tests.system.boot import strangers
from tests.system.boot.conftest import ASK, booted, succeed, wait_for
from tests.system.boot.machine import Machine

TAKEN_OVER = """\
[Service]
ExecStart=
ExecStart=/usr/lib/edged/bin/python /src/strangers.py run --config /etc/edged/edged.yaml
"""
DROP_IN = "/etc/systemd/system/edged.service.d/90-taken-over.conf"
OTHER_WAYS = {strangers.BY_MPTCP, strangers.BY_FAST_OPEN}
ATTEMPTS = {*strangers.TCP, *strangers.UDP, *strangers.UNIX, *OTHER_WAYS}
# What is refused only where the kernel has Landlock; elsewhere it is open, as the page says.
ONLY_LANDLOCK = {
    "another port of its address": PORTS_ABI,
    "another port by a datagram": PORTS_ABI,
    "an abstract socket": SCOPES_ABI,
} | dict.fromkeys(OTHER_WAYS, PORTS_ABI)


def open_without_landlock() -> set[str]:
    """What this kernel cannot refuse."""
    abi = landlock_abi()
    return {name for name, needed in ONLY_LANDLOCK.items() if abi < needed}


@pytest.fixture(scope="module")
def machine(with_edged: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with edged, taken over when it loads its model, and others that listen."""
    script = shutil.copy(strangers.__file__, tmp_path_factory.mktemp("script"))
    work = tmp_path_factory.mktemp("machine")
    with booted(work, Path(script), below=with_edged) as machine:
        succeed(
            machine,
            "systemd-run --unit strangers --property Type=notify python3 /src/strangers.py;"
            f" cat > {DROP_IN} << 'END'\n{TAKEN_OVER}\nEND\nsystemctl daemon-reload",
        )
        yield machine


def reached(machine: Machine) -> dict[str, str]:
    """Start the service anew and return what it reached; it answers in spite of that."""
    succeed(machine, "systemctl restart edged")
    wait_for(machine, ASK)
    found: dict[str, str] = json.loads(succeed(machine, f"cat {strangers.RESULT}"))
    return found


def open_ones(found: dict[str, str]) -> set[str]:
    return {name for name, result in found.items() if result == "open"}


def test_all_of_them_can_be_reached_outside_of_the_sandbox(machine: Machine) -> None:
    found = json.loads(succeed(machine, "python3 /src/strangers.py reach"))
    # Not every kernel has MPTCP.
    assert open_ones(found) | {strangers.BY_MPTCP} == ATTEMPTS, found


def test_a_taken_over_process_reaches_the_broker_and_nothing_else(machine: Machine) -> None:
    found = reached(machine)
    assert open_ones(found) == {"the broker"} | open_without_landlock(), found


def test_a_broker_with_a_name_takes_the_resolver_and_the_local_network(machine: Machine) -> None:
    resolver = "/run/systemd/resolve/stub-resolv.conf"
    succeed(
        machine,
        f"echo nameserver 127.0.0.53 > {resolver}; ln -sf {resolver} /etc/resolv.conf;"
        " edged install --no-start --broker mqtt://broker.test",
    )
    try:
        found = reached(machine)
        closed = ATTEMPTS - open_ones(found)
        # Names are looked up by datagrams.
        limited = {*ONLY_LANDLOCK} - open_without_landlock() - {"another port by a datagram"}
        assert closed == {"D-Bus", "a socket in /run"} | limited, found
    finally:
        succeed(machine, "edged install --no-start --broker mqtt://localhost")


def test_the_journal_and_the_doctor_tell_what_it_may_reach(machine: Machine) -> None:
    reached(machine)
    assert "this process may reach: " in succeed(machine, "journalctl --no-pager --unit edged")
    said = json.loads(succeed(machine, "edged doctor --json"))
    (network,) = [finding for finding in said["findings"] if finding["check"] == "network"]
    assert network["level"] == "ok"
    assert network["said"].startswith("the unit allows the broker's address only")
