"""The broker configurations in deploy/mosquitto, installed as an administrator would."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from edged.commands.local_broker import MOSQUITTO, Broker, free_port
from tests.paths import ROOT
from tests.requirements import require
from tests.system.newer import newer_libraries, newer_program

DEPLOY = ROOT / "deploy" / "mosquitto"
# What Debian's own /etc/mosquitto/mosquitto.conf sets around the files of conf.d.
DEBIAN = """\
persistence true
persistence_location {folder}/
log_dest file {folder}/mosquitto.log
include_dir {folder}/conf.d
{user}
"""


@dataclass(frozen=True)
class Version:
    """A Mosquitto, and what is different about it."""

    command: tuple[str, ...]
    plugins: Path | None = None
    """Where its plugins are; None where passwords and access lists are its own."""

    def spell(self, text: str) -> str:
        """Write one of our files for it, as edged-2.1.conf says."""
        own = r"(?m)^(?:password|acl)_file .*\n"
        if self.plugins is None or not re.search(own, text):
            return text
        newer = (DEPLOY / "edged-2.1.conf").read_text("utf-8")
        folder = "/usr/lib/x86_64-linux-gnu/mosquitto/"
        assert newer.count(f"\nglobal_plugin {folder}") == 2
        return re.sub(own, "", text) + newer.replace(folder, f"{self.plugins}/")


def installed() -> Version:
    require(MOSQUITTO, "mosquitto is not installed (apt-get install mosquitto)")
    return Version((str(MOSQUITTO),))


def newer() -> Version:
    """Mosquitto 2.1, with the libraries that it was built for."""
    return Version(tuple(newer_program("sbin/mosquitto")), newer_libraries() / "mosquitto")


def install_configuration(
    folder: Path,
    name: str,
    version: Version,
    accounts: Mapping[str, str] | None = None,
    more_rules: str = "",
) -> Broker:
    """Install one of the files as an administrator would, on a free port.

    Args:
        folder: For the configuration and the broker's files.
        name: Of the file.
        version: The Mosquitto that reads it.
        accounts: Name to password.
        more_rules: Further lines of the access list.
    """
    port = free_port()
    text = version.spell((DEPLOY / name).read_text("utf-8"))
    text = text.replace("/etc/mosquitto/", f"{folder}/")
    text, count = re.subn(r"(?m)^listener 1883.*", f"listener {port} 127.0.0.1", text)
    assert count == 1
    tls_port = free_port()
    text = text.replace("listener 8883", f"listener {tls_port} 127.0.0.1")
    (folder / "tls-port").write_text(str(tls_port), "utf-8")
    (folder / "conf.d").mkdir()
    (folder / "conf.d" / "edged.conf").write_text(text, "utf-8")
    install_access_list(folder, more_rules)
    if accounts is not None:
        _write_passwords(folder / "edged.passwd", accounts)
    # Started by root it becomes another user, who may not look into the folder of a test.
    user = "user root" if os.geteuid() == 0 else ""
    (folder / "mosquitto.conf").write_text(DEBIAN.format(folder=folder, user=user), "utf-8")
    return Broker("mosquitto", port, [*version.command, "-c", str(folder / "mosquitto.conf")])


def install_access_list(folder: Path, more_rules: str = "") -> Path:
    """Copy the access list into a folder; a broker reads only what others may not write."""
    path = folder / "edged.acl"
    path.write_text((DEPLOY / "edged.acl").read_text("utf-8") + more_rules, "utf-8")
    path.chmod(0o600)
    return path


def node_arguments(
    folder: Path, bundle: Path, broker: Broker, password: str, **sections: object
) -> list[str]:
    """Write the configuration of a node with the account `edged`; return `edged run`'s options."""
    address = {"port": broker.port, "username": "edged", "password": password}
    config = {"node": "kitchen", "model": {"path": str(bundle)}, "broker": address, **sections}
    (folder / "edged.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return ["--config", str(folder / "edged.yaml")]


def _write_passwords(secrets: Path, accounts: Mapping[str, str]) -> None:
    secrets.write_text("".join(f"{name}:{word}\n" for name, word in accounts.items()), "utf-8")
    secrets.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-U", str(secrets)], check=True)
