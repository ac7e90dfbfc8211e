"""What a daemon notes of the models that it has on trial: ``trial.json`` in its state folder.

A daemon may not change a store. ``edged model settle`` does, when the service has ended, and reads
this note.
"""

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edged.bundle.disk import Disk, replace_file
from edged.bundle.plain_file import read_plain
from edged.bundle.strict_json import decode, read_json

RECORD = "trial.json"
_MAX_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """How a trial goes."""

    models: tuple[str, ...] = ()
    """Ids of what is on trial, sorted."""
    starts: int = 0
    """Starts since the last one that was ended by a stop."""
    passed: tuple[str, ...] = ()
    """Ids of what did well and is to be accepted, sorted."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why a running service goes on with what it had, by the id of what it did not take up."""


def read_record(folder: Path) -> TrialRecord:
    """Return the note in a state folder; an empty one where it is missing or damaged."""
    try:
        return decode(TrialRecord, read_json(read_plain(folder / RECORD, _MAX_BYTES)))
    except (OSError, ValueError, RecursionError):
        return TrialRecord()


def write_record(folder: Path, record: TrialRecord) -> None:
    """Replace the note; it is on the disk when this returns.

    Raises:
        OSError: It cannot be written.
    """
    replace_file(Disk(), folder / RECORD, json.dumps(asdict(record)).encode() + b"\n")


def remove_record(folder: Path) -> None:
    """Remove the note, if there is one; it is not on the disk any more when this returns.

    Raises:
        OSError: It cannot be removed.
    """
    disk = Disk()
    disk.remove(folder / RECORD)
    with contextlib.suppress(FileNotFoundError):  # the service was never started
        disk.sync(folder)
