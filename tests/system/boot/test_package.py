"""Install, upgrade and remove without a trace: the Debian package, and ``edged install``."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.system.boot.conftest import ASK, booted, prepared_system, show, succeed, wait_for
from tests.system.boot.machine import Machine
from tests.system.boot.packages import ACCOUNTS, LISTING, python_package

DROP_INS = "/etc/systemd/system/edged*.service.d/10-install.conf"


@pytest.fixture(scope="module")
def machine(
    package: Path, older_package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A machine with both packages, Debian 12's Python and the wheel in /src, without edged."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*command, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    python = python_package(prepared_system("12"), folder)
    work = tmp_path_factory.mktemp("machine")
    with booted(work, package, older_package, wheel, python) as machine:
        yield machine


def test_the_package_installs_upgrades_and_purges_cleanly(
    machine: Machine, package: Path, older_package: Path
) -> None:
    """Upgraded from Debian 12's, on a system that was itself upgraded from 12 to 13."""
    succeed(machine, "dpkg --install python3.11.deb")
    # Named like the package's own, and another's.
    succeed(machine, "mkdir /var/lib/edged-backup && touch /var/lib/edged-backup/kept")
    before, accounts = succeed(machine, LISTING), succeed(machine, ACCOUNTS)
    succeed(machine, f"apt-get install --yes --quiet ./{older_package.name}", timeout_s=240)
    assert machine.run("systemctl is-active edged").returncode != 0, "nothing is configured yet"
    succeed(machine, "edged install --model smollm2-135m-instruct")
    succeed(machine, "edged install --model smollm2-135m-instruct --instance two --node two")
    wait_for(machine, ASK)
    wait_for(machine, ASK.replace("kitchen", "two"))
    pid = show(machine, "MainPID")
    succeed(machine, f"sed --in-place --expression /IPAddressAllow/d {DROP_INS}")
    # Without a question: apt finds the version newer.
    succeed(machine, f"apt-get install --yes --quiet ./{package.name}", timeout_s=240)
    assert succeed(machine, "dpkg-query --show --showformat '${Version}' edged").endswith("~deb13")
    assert succeed(machine, "ls /usr/lib/edged/lib").split() == ["python3.13"]
    wait_for(machine, ASK)
    assert show(machine, "MainPID") != pid, "the old version still runs"
    rules = succeed(machine, f"grep --count IPAddressAllow=127.0.0.1 {DROP_INS}").splitlines()
    assert [line.partition(":")[2] for line in rules] == ["1", "1"]
    succeed(machine, "apt-get remove --yes --quiet edged && test -e /etc/edged/edged.yaml")
    succeed(machine, "dpkg --purge edged")
    assert succeed(machine, LISTING) == before
    assert succeed(machine, ACCOUNTS) == accounts
    assert not succeed(machine, "systemctl list-units --all --plain --no-legend 'edged*'")


def test_a_purge_leaves_a_user_and_a_folder_that_it_did_not_make(
    machine: Machine, package: Path
) -> None:
    foreign = "useradd --home-dir /home/edged --shell /bin/sh edged"
    succeed(machine, f"{foreign} && mkdir /var/lib/edged /etc/edged && touch /etc/edged/own.yaml")
    accounts = succeed(machine, ACCOUNTS)
    succeed(machine, f"apt-get install --yes --quiet ./{package.name}", timeout_s=240)
    succeed(machine, "dpkg --purge edged")
    assert succeed(machine, ACCOUNTS) == accounts
    succeed(machine, "rmdir /var/lib/edged && userdel edged")


def test_edged_install_and_uninstall_leave_nothing_behind(machine: Machine) -> None:
    # The environment has the dependencies of edged: nothing can be downloaded here.
    succeed(machine, "cp -a /opt/edged /opt/saved && ls /opt/edged/bin/python")
    accounts = succeed(machine, ACCOUNTS)
    before = succeed(machine, LISTING)
    try:
        pip = "/opt/edged/bin/python -m pip install --no-index --no-deps --quiet *.whl"
        succeed(machine, pip)
        install = "/opt/edged/bin/edged install --model smollm2-135m-instruct"
        planned = succeed(machine, f"{install} --dry-run").splitlines()
        done = succeed(machine, install).splitlines()
        assert [line.removeprefix("would ") for line in planned] == done[:-1]
        wait_for(machine, f"/usr/local/bin/{ASK}")
        assert succeed(machine, install).count("\n") == 1
        succeed(machine, "/usr/local/bin/edged uninstall")
        left = set(succeed(machine, LISTING).splitlines())
        assert sorted(left - set(before.splitlines())) == []
        assert not any(line.startswith("/opt/edged") for line in left)
        assert succeed(machine, ACCOUNTS) == accounts
    finally:
        succeed(machine, "rm -rf /opt/edged && mv /opt/saved /opt/edged")
