"""The commands and access lists of docs/install.md and docs/scaling.md about accounts."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edged.commands.install import command as install_command
from edged.commands.local_broker import Broker, running
from tests.paths import DATA, ROOT
from tests.requirements import require
from tests.system.broker.daemons import daemon
from tests.system.shipped_broker import DEPLOY, install_configuration, installed, node_arguments
from tests.tiny_model import write_tiny_bundle

PASSWORDS = {"edged": "PASSWORD", "ha": "PASSWORD"}
OLD_LIST = DATA / "mosquitto" / "edged-0.1.0.acl"
NEW_LIST = DEPLOY / "edged.acl"
# What needs root, a terminal or the system's own files, in place of the programs.
STAND_INS = {
    "sudo": 'exec "$@"',
    "hostname": "echo kitchen",
    "mosquitto_passwd": f'exec {shutil.which("mosquitto_passwd")} -b "$@" PASSWORD',
    "chown": ":",
    "systemctl": ":",
    "edged": f'exec {sys.executable} -m edged "$@"',
}


def blocks(page: str, heading: str) -> list[str]:
    """Return the shell blocks of a section of a page, or of what is before the first section."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    (section,) = [part for part in re.split(r"(?m)^##? ", text) if part.startswith(f"{heading}\n")]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


ACCOUNTS_MADE, INSTALLED, ASKED = blocks("install.md", "Accounts")
GROUP_READ, GROUP_ASKED = blocks("scaling.md", "Scaling to several devices")


def at(broker: Broker, commands: str) -> str:
    """Return the commands for a broker at another port."""
    commands = re.sub(r"(?m)^(mosquitto_\w+)", rf"\1 -p {broker.port}", commands)
    return commands.replace("@localhost", f"@localhost:{broker.port}")


@pytest.fixture
def stand_ins(tmp_path: Path) -> dict[str, str]:
    """The environment in which the page's commands find the programs above."""
    require(shutil.which("mosquitto_rr"), "mosquitto_rr is missing (mosquitto-clients)")
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, line in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n", "utf-8")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/sbin:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}


def run(commands: str, environment: dict[str, str]) -> str:
    """Run a block and return what it prints; fail if one of its commands does."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def served(folder: Path, broker: Broker, **sections: object) -> Iterator[Broker]:
    """Run the broker, and a node with the account `edged`."""
    bundle = write_tiny_bundle(folder / "bundle")
    arguments = node_arguments(folder, bundle, broker, PASSWORDS["edged"], **sections)
    with running(broker), daemon(folder, *arguments) as process:
        process.until("STATUS=serving")
        yield broker


def test_the_commands_make_accounts_that_ask_and_are_answered(
    tmp_path: Path, stand_ins: dict[str, str]
) -> None:
    broker = install_configuration(tmp_path, "edged-lan.conf", installed())
    ours = (tmp_path / "conf.d" / "edged.conf").read_text("utf-8")
    commands = ACCOUNTS_MADE.replace("/usr/share/doc/edged/examples/mosquitto", str(DEPLOY))
    assert "/etc/mosquitto/conf.d/edged.conf" in commands
    run(commands.replace("/etc/mosquitto/", f"{tmp_path}/"), stand_ins)
    # The file that was copied, on a free port.
    assert (tmp_path / "conf.d" / "edged.conf").read_text("utf-8").count("listener 1883") == 1
    (tmp_path / "conf.d" / "edged.conf").write_text(ours, "utf-8")
    assert (tmp_path / "edged.passwd").stat().st_mode & 0o777 == 0o600
    with served(tmp_path, broker, security={"identity": "required"}):
        said = run(at(broker, ASKED), stand_ins)
    answer, reply = said.splitlines()
    assert answer
    assert json.loads(reply)["status"] == "ok"


def test_the_installation_with_an_account_has_options_that_exist() -> None:
    parser = argparse.ArgumentParser()
    install_command.add_arguments(parser)
    *_, program, name = words = shlex.split(INSTALLED)[:3]
    assert (words[0], program, name) == ("sudo", "edged", "install")
    options = parser.parse_args(shlex.split(INSTALLED)[3:])
    assert (options.broker, str(options.password_file)) == ("mqtt://edged@localhost", "password")


def test_the_commands_ask_a_group_and_get_the_answer_of_a_node(
    tmp_path: Path, stand_ins: dict[str, str]
) -> None:
    broker = install_configuration(tmp_path, "edged-lan.conf", installed(), PASSWORDS)
    required = {"identity": "required"}
    with served(tmp_path, broker, security=required, group={"name": "lab"}):
        reading = subprocess.Popen(
            ["bash", "-euc", f"exec {at(broker, GROUP_READ).strip()} -C 1"],
            env=stand_ins,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            # Until it listens; the same id is answered once more.
            while reading.poll() is None:
                run(at(broker, GROUP_ASKED), stand_ins)
                try:
                    reading.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    continue
            reply = json.loads(reading.communicate()[0])
        finally:
            reading.kill()
            reading.wait()
    assert (reply["id"], reply["node"], reply["status"]) == ("boiler-1", "kitchen", "ok")


def lines_of(path: Path) -> set[str]:
    """Return the lines of an access list that grant something, spaced as in the page."""
    text = path.read_text("utf-8")
    return {" ".join(each.split()) for each in text.splitlines() if re.match("topic|pattern", each)}


def test_the_page_has_each_line_that_changed_since_0_1_0_and_no_other() -> None:
    text = (ROOT / "docs" / "install.md").read_text("utf-8")
    section = text.partition("## Upgrading from 0.1.0\n")[2].partition("\n## ")[0]
    rows = [row.split("|") for row in section.splitlines() if row.startswith("|")][2:]
    before, now = (
        {line for row in rows for line in re.findall(r"`((?:topic|pattern) [^`]+)`", row[column])}
        for column in (2, 3)
    )
    old, new = lines_of(OLD_LIST), lines_of(NEW_LIST)
    assert (before, now) == (old - new, new - old)


@pytest.mark.parametrize("root", ["edged/kitchen", "edged/kitchen/client/ha"])
def test_between_the_two_lists_old_and_new_clients_are_answered(
    tmp_path: Path, stand_ins: dict[str, str], root: str
) -> None:
    broker = install_configuration(tmp_path, "edged-lan.conf", installed(), PASSWORDS)
    last = "pattern read  edged/+/response/+\n"
    new = NEW_LIST.read_text("utf-8")
    assert last in new
    both = OLD_LIST.read_text("utf-8") + new.replace(last, "")
    (tmp_path / "edged.acl").write_text(both, "utf-8")
    ask = (
        f"mosquitto_rr -u ha -P PASSWORD -V 5 -q 1 -W 40 -m hello -t {root}/request/generate"
        f" -e {root}/response/generate/ha"
    )
    with served(tmp_path, broker):
        assert json.loads(run(at(broker, ask), stand_ins))["status"] == "ok"


def test_after_the_upgrade_a_client_of_0_1_0_is_told_the_topic_to_use(
    tmp_path: Path, stand_ins: dict[str, str]
) -> None:
    broker = install_configuration(tmp_path, "edged-lan.conf", installed(), PASSWORDS)
    ask = (
        "mosquitto_rr -u ha -P PASSWORD -V 5 -q 1 -W 40 -m hello"
        " -t edged/kitchen/request/generate -e edged/kitchen/response/generate"
    )
    with served(tmp_path, broker, security={"identity": "required"}):
        error = json.loads(run(at(broker, ask), stand_ins))["error"]
    assert error["code"] == "identity_required"
    assert "edged/kitchen/client/" in error["message"]
