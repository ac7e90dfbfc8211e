"""Debian 12: the package installs, answers and is upgraded. The other tests boot Debian 13."""

from pathlib import Path

from tests.system.boot.conftest import ASK, booted, documented_commands, show, succeed, wait_for
from tests.system.boot.packages import newer_package


def test_the_package_for_debian_12_installs_answers_and_is_upgraded(
    older_package: Path, tmp_path: Path
) -> None:
    newer = newer_package(older_package, tmp_path)
    with booted(tmp_path / "machine", older_package, newer, debian="12") as machine:
        for command in documented_commands():
            succeed(machine, command, timeout_s=240)
        before = show(machine, "MainPID")
        succeed(machine, f"apt-get install --yes --quiet ./{newer.name}", timeout_s=240)
        wait_for(machine, ASK)
        assert show(machine, "MainPID") != before, "the old version still runs"
