"""Read ``inputs``: what comes with a request to a specialist that writes.

Rule: its size is bounded before anything is made of it. A path in an error is made of names that
are short and of a few characters; values are never quoted.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from edged.protocol.fields import MessageError, check_text, type_name
from edged.protocol.keys import (
    INPUT_NAME_PATTERN,
    MAX_INPUT_LENGTH,
    MAX_INPUTS_CHARACTERS,
    MAX_INPUTS_DEPTH,
    MAX_INPUTS_ITEMS,
    MAX_INPUTS_VALUES,
)

_NAME = re.compile(INPUT_NAME_PATTERN)


def check_inputs(value: object) -> dict[str, Any]:
    """Return the inputs of a request.

    Raises:
        MessageError: They are no object, too much, or hold what no prompt can say.
    """
    if not isinstance(value, dict):
        raise MessageError(f"inputs: must be an object, got {type_name(value)}")
    left = [("inputs", value, 1)]
    for count, (path, found, depth) in enumerate(_walk(left), start=1):
        if count > MAX_INPUTS_VALUES:
            raise MessageError(f"inputs: more than {MAX_INPUTS_VALUES} values; send fewer")
        if depth > MAX_INPUTS_DEPTH and isinstance(found, dict | list):
            raise MessageError(f"{path}: nested deeper than {MAX_INPUTS_DEPTH} levels")
        _check(path, found)
    size = len(json.dumps(value, ensure_ascii=False))
    if size > MAX_INPUTS_CHARACTERS:
        raise MessageError(
            f"inputs: {size} characters of JSON; at most {MAX_INPUTS_CHARACTERS} are accepted"
        )
    return value


def _walk(left: list[tuple[str, Any, int]]) -> Iterator[tuple[str, Any, int]]:
    while left:
        path, value, depth = left.pop()
        yield path, value, depth
        # It was checked by now: neither deep nor with long names.
        if isinstance(value, dict):
            left += [(f"{path}.{name}", one, depth + 1) for name, one in value.items()]
        elif isinstance(value, list):
            left += [(f"{path}[{index}]", one, depth + 1) for index, one in enumerate(value)]


def _check(path: str, value: object) -> None:
    if isinstance(value, str) and value:
        check_text(path, value, max_length=MAX_INPUT_LENGTH)
    if isinstance(value, dict | list) and len(value) > MAX_INPUTS_ITEMS:
        raise MessageError(f"{path}: must have at most {MAX_INPUTS_ITEMS} items, got {len(value)}")
    if isinstance(value, dict) and not all(map(_NAME.fullmatch, value)):
        raise MessageError(
            f"{path}: a name must be 1 to 64 characters of A-Z a-z 0-9 _, not starting with a digit"
        )
