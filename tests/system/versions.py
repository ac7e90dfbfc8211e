"""What a measurement was made with, for the head of its tables."""

import os
import platform
import subprocess

import edged
from edged.commands.local_broker import MOSQUITTO


def versions() -> str:
    """Name edged, Mosquitto, Python and the number of processors."""
    # Its help ends with 3.
    asked = subprocess.run(
        [MOSQUITTO or "mosquitto", "-h"], capture_output=True, text=True, check=False
    )
    broker = asked.stdout.partition("\n")[0]
    python = f"Python {platform.python_version()}"
    return f"edged {edged.__version__}, {broker}, {python}, {os.cpu_count()} CPUs"
