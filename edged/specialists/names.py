"""What specialists may be called."""

import re

from edged.protocol.keys import SPECIALIST_PATTERN
from edged.protocol.request import AUTO

NAME = re.compile(SPECIALIST_PATTERN)
# Where the name of a specialist could stand: the plain model writes the answer.
PLAIN_MODEL = "model"


def check_names(name: str, escalate: str | None) -> None:
    """Check what a specialist is called, and what it passes unsure prompts on to.

    Raises:
        ValueError: No request could name it, or it would pass them on to itself.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"name {name!r} must be 1 to 64 characters of a-z 0-9 -")
    if name in {AUTO, PLAIN_MODEL}:
        raise ValueError(f"name {name!r} is taken; use another one")
    if escalate is None:
        return
    if not NAME.fullmatch(escalate) or escalate in {AUTO, name}:
        raise ValueError(f"escalate {escalate!r} must be another specialist, or {PLAIN_MODEL}")
