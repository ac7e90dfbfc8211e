"""What specialists may be called."""

import re
from pathlib import Path

from edged.errors import UsageError
from edged.protocol.keys import SPECIALIST_PATTERN
from edged.protocol.request import AUTO

NAME = re.compile(SPECIALIST_PATTERN)
# Where the name of a specialist could stand: the plain model writes the answer.
PLAIN_MODEL = "model"


def taught_name(output: Path, name: str | None, escalate: str | None) -> str:
    """Return what a specialist that is taught into a folder is called.

    Raises:
        UsageError: As ``check_names``.
    """
    found = name or output.resolve().name
    try:
        check_names(found, escalate)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    return found


def check_names(name: str, escalate: str | None) -> None:
    """Check what a specialist is called, and what it passes unsure prompts on to.

    Raises:
        ValueError: No request could name it, or it would pass them on to itself.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"name {name!r} must be 1 to 64 characters of a-z 0-9 -, not starting with -"
        )
    if name in {AUTO, PLAIN_MODEL}:
        raise ValueError(f"name {name!r} is taken; use another one")
    if escalate is None:
        return
    if not NAME.fullmatch(escalate) or escalate in {AUTO, name}:
        raise ValueError(f"escalate {escalate!r} must be another specialist, or {PLAIN_MODEL}")
