"""Try edged with a real Home Assistant: one line a check, exit status 1 if one is bad.

    python -m tests.home_assistant

Home Assistant runs in a Debian of its own, the node with the real model and two specialists, the
broker with ``deploy/mosquitto/edged-lan.conf``. As root, on Debian with debootstrap and Mosquitto.
It takes one to three minutes, and the first time two more (``scripts/home-assistant-root``).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from edged.commands.local_broker import MOSQUITTO, running
from tests.home_assistant.checks import Trial, run
from tests.home_assistant.home import HomeAssistant
from tests.home_assistant.kitchen import BUNDLE, prepare
from tests.paths import ROOT


def missing() -> str | None:
    """Return what this machine lacks; None if nothing."""
    if os.geteuid() != 0:
        return "root: it makes a Debian and mounts in it"
    if MOSQUITTO is None or shutil.which("debootstrap") is None:
        return "mosquitto or debootstrap: apt-get install mosquitto debootstrap"
    if not BUNDLE.exists():
        return f"{BUNDLE.relative_to(ROOT)}: make demo"
    return None


def main() -> int:
    """Prepare, check, clean up; return the exit status."""
    if (lack := missing()) is not None:
        print(f"missing: {lack}", file=sys.stderr)
        return os.EX_UNAVAILABLE
    script = ROOT / "scripts" / "home-assistant-root"
    printed = subprocess.run([script], check=True, stdout=subprocess.PIPE, text=True).stdout
    folder = Path(tempfile.mkdtemp(prefix="edged-home-assistant-"))
    broker, node = prepare(folder)
    home = HomeAssistant(Path(printed.strip()), folder)
    trial = Trial(broker, node, home)
    with running(broker), closing(node), closing(home):
        node.start()
        home.start()
        home.connect(broker.port, "ha")
        run(trial)
    if trial.num_bad:
        print(f"{trial.num_bad} bad; configuration and logs: {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
