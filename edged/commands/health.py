"""``edged health``: check the daemon by its state file, without a broker.

The file is the ``state`` document of ``docs/protocol.md``, rewritten at least every state interval.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from edged.bundle.plain_file import read_plain
from edged.commands.terminal import shown
from edged.errors import ExitCode

DEFAULT_STATE_FILE = Path("/run/edged/state.json")
# Three state intervals: an older file means that the daemon hangs.
MAX_AGE_S = 90.0
_MAX_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged health``."""
    parser.add_argument(
        "--state-file",
        type=Path,
        default=DEFAULT_STATE_FILE,
        help="the daemon's state.file (default: %(default)s)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Print one line; return 0 when the daemon is healthy, else 69."""
    is_well, line = judge(arguments.state_file, time.time())
    print(line, file=sys.stdout if is_well else sys.stderr)
    return ExitCode.OK if is_well else ExitCode.UNAVAILABLE


def judge(state_file: Path, now_s: float) -> tuple[bool, str]:
    """Check that the state file is recent and the daemon ready.

    Args:
        state_file: The JSON file that the daemon rewrites.
        now_s: Seconds since the epoch, the clock of file times.

    Returns:
        Whether the daemon is healthy, and one line for a person.
    """
    try:
        age_s = now_s - state_file.stat().st_mtime
        state = read_state(state_file)
    except FileNotFoundError:
        return False, (
            f"{state_file}: no such file; is the daemon running with `state.file` set, and ready?"
            " Its log has the reason"
        )
    except (OSError, ValueError) as error:
        return False, f"{state_file}: cannot be read: {error}"
    if age_s > MAX_AGE_S:
        return False, f"{state_file}: {age_s:.0f} s old; the daemon hangs or is gone"
    name = state.get("state")
    if name not in ("ready", "degraded"):
        return False, shown(f"the daemon is {name}")
    line = f"{name}: {state.get('served')} served, {state.get('queue')} waiting"
    broker_error = state.get("broker_error")
    # Healthy without a broker as well: a restart would not bring it back.
    return True, shown(line if broker_error is None else f"{line}; no broker: {broker_error}")


def read_state(state_file: Path) -> dict[str, Any]:
    """Return the state document, which may be of a service that was taken over.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none.
    """
    try:
        state = json.loads(read_plain(state_file, _MAX_BYTES))
    except RecursionError as error:
        raise ValueError("not a state document") from error
    if not isinstance(state, dict):
        raise ValueError("not a state document")  # noqa: TRY004
    return state
