"""The node ``kitchen`` with the real model and two specialists, and a broker with accounts."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from edged.commands.local_broker import Broker
from tests.home_assistant.home import LIMIT_S
from tests.paths import ROOT
from tests.system.broker.daemons import Daemon
from tests.system.shipped_broker import install_configuration, installed, node_arguments

BUNDLE = ROOT / "models" / "smollm2-135m-instruct"
EXAMPLES = ROOT / "deploy" / "examples"
HOME_SPECIALIST = ROOT / "models" / "specialists" / "home" / "specialist"
WATCHER = "watcher"
"""An account that may read everything. The password of each account is its name."""


class Node:
    """``edged run``, one process after another."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        """Start nothing yet; ``arguments`` are options of ``edged run``."""
        self._folder = folder
        self._arguments = arguments
        self._daemon: Daemon | None = None

    def start(self) -> None:
        """Start it, and return when it serves."""
        self._daemon = Daemon(self._folder, self._arguments)
        self._daemon.until("STATUS=serving", LIMIT_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal that ends it, and wait until it has ended."""
        if self._daemon is not None:
            self._daemon.stop(number)
            self._daemon.close()

    def close(self) -> None:
        """Kill it if it runs."""
        if self._daemon is not None:
            self._daemon.close()


def _kept_model() -> Path:
    """Copy the model into a folder where what a node prepares of it, for this device, is kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    model = cache / "edged" / "home-assistant-node" / BUNDLE.name
    return Path(shutil.copytree(BUNDLE, model, dirs_exist_ok=True))


def prepare(folder: Path) -> tuple[Broker, Node]:
    """Configure broker and node in a folder, and teach the node's specialist; start nothing."""
    accounts = {name: name for name in ("edged", "ha", WATCHER)}
    rules = f"\nuser {WATCHER}\ntopic read #\n"
    broker = install_configuration(folder, "edged-lan.conf", installed(), accounts, rules)
    washing_machine = folder / "washing-machine"
    teach = [sys.executable, "-m", "edged", "teach", str(EXAMPLES / "washing-machine.csv")]
    options = ["--model", str(BUNDLE), "--output", str(washing_machine)]
    subprocess.run([*teach, *options], check=True, capture_output=True)
    arguments = node_arguments(
        folder,
        _kept_model(),
        broker,
        "edged",
        security={"identity": "required"},
        homeassistant={"ask": True},
        specialists=[str(washing_machine), str(HOME_SPECIALIST)],
    )
    return broker, Node(folder, arguments)
