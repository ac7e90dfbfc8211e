"""Parse the payload of a request: a JSON object or plain text.

Rule: the Content Type decides; without one, the first character does.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from edged.errors import ErrorCode
from edged.protocol.fields import MessageError, describe
from edged.protocol.wire import (
    MAX_CORRELATION_BYTES,
    MAX_USER_PROPERTIES,
    Delivery,
    RequestDefaults,
)

# Up to this size a payload over the limit is parsed, so that the refusal has its id.
_MAX_READABLE_BYTES = 65536
# Levels of objects and arrays in one message; checked before it is parsed.
_MAX_NESTING = 64
# More than any key takes. Python has an error of its own for integers of thousands of digits.
_MAX_DIGITS = 32
_JSON_SPACE = " \t\r\n"
_BOM = b"\xef\xbb\xbf"
_CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii"})
_CHARSET = "charset="
# A string, so that the brackets in it do not count, or a bracket.
_TOKEN = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Content:
    """A parsed payload, and why it was refused."""

    members: dict[str, Any] = field(default_factory=dict)
    """Of the JSON object, also of a refused one, for its id; for text, its prompt."""
    text: str | None = None
    """The payload, when it is plain text."""
    problem: MessageError | None = None


def read_content(delivery: Delivery, defaults: RequestDefaults) -> Content:
    """Parse a payload within the limits of a node; an error is returned, not raised."""
    over = _over_a_limit(delivery, defaults)
    if len(delivery.payload) > max(defaults.max_payload_bytes, _MAX_READABLE_BYTES):
        return Content(problem=over)
    try:
        is_json = _is_json_type(delivery.properties.content_type)
        # Some editors and PowerShell write a byte order mark.
        text = delivery.payload.removeprefix(_BOM).decode()
        if is_json is None:
            is_json = text.lstrip(_JSON_SPACE).startswith(("{", "["))
        if not is_json:
            return Content({"prompt": text.strip()}, text.strip(), over)
        value, duplicate = _parse_json(text)
    except UnicodeDecodeError as error:
        return Content(problem=over or MessageError(f"payload: not UTF-8 at byte {error.start}"))
    except MessageError as error:
        return Content(problem=over or error)
    if not isinstance(value, dict):
        problem = MessageError("payload: must be a JSON object, or plain text as the prompt")
        return Content(problem=over or problem)
    return Content(value, problem=over or duplicate)


def _over_a_limit(delivery: Delivery, defaults: RequestDefaults) -> MessageError | None:
    size, limit = len(delivery.payload), defaults.max_payload_bytes
    if size > limit:
        message = f"payload: {size} bytes; at most {limit} are accepted"
        return MessageError(message, ErrorCode.PAYLOAD_TOO_LARGE)
    if len(delivery.properties.user_properties) > MAX_USER_PROPERTIES:
        return MessageError(f"user properties: at most {MAX_USER_PROPERTIES} are accepted")
    size = len(delivery.properties.correlation_data or b"")
    if size > MAX_CORRELATION_BYTES:
        message = f"Correlation Data: {size} bytes; at most {MAX_CORRELATION_BYTES} are accepted"
        return MessageError(f"{message}, and this reply is without them")
    return None


def _is_json_type(content_type: str | None) -> bool | None:
    """Return whether the content type is JSON rather than text; None when there is none.

    Raises:
        MessageError: It is neither.
    """
    if not content_type:
        return None
    media_type, *parameters = [part.strip().lower() for part in content_type.split(";")]
    charsets = [p.removeprefix(_CHARSET).strip('"') for p in parameters if p.startswith(_CHARSET)]
    is_json = media_type == "application/json" or media_type.endswith("+json")
    if _CHARSETS.issuperset(charsets) and (is_json or media_type == "text/plain"):
        return is_json
    message = "content type: must be application/json or text/plain, in UTF-8"
    raise MessageError(message, ErrorCode.UNSUPPORTED_CONTENT_TYPE)


def _parse_json(text: str) -> tuple[Any, MessageError | None]:
    """Return the value, and the error about a key that is twice in one object; the last one counts.

    Raises:
        MessageError: Wrong syntax, NaN or Infinity, a number out of range, or nested too deep.
    """
    if _is_too_deep(text):
        raise MessageError(f"payload: nested deeper than {_MAX_NESTING} levels")
    duplicates: list[str] = []

    # Python keeps the last of equal keys, other parsers the first: the client may mean either.
    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            duplicates.append(next(key for key in members if counts[key] > 1))
        return members

    try:
        value = json.loads(
            text,
            object_pairs_hook=to_object,
            parse_constant=_refuse_constant,
            parse_float=_to_float,
            parse_int=_to_int,
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise MessageError(f"payload: not JSON: {error.msg} at {place}") from error
    if not duplicates:
        return value, None
    text = f"payload: the key {describe(duplicates[0])} occurs twice in an object"
    return value, MessageError(text)


def _is_too_deep(text: str) -> bool:
    # Nearly every message is settled by counting, which is fast.
    if text.count("{") + text.count("[") <= _MAX_NESTING:
        return False
    depth = 0
    for match in _TOKEN.finditer(text):
        depth += (match[0] in "[{") - (match[0] in "]}")
        if depth > _MAX_NESTING:
            return True
    return False


def _refuse_constant(name: str) -> float:
    raise MessageError(f"payload: not JSON: {name} is not a JSON number")


def _to_float(digits: str) -> float:
    value = float(digits)
    if value in {float("inf"), float("-inf")}:
        raise MessageError("payload: a number is out of the range of a double")
    return value


def _to_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise MessageError(f"payload: an integer has more than {_MAX_DIGITS} digits")
    return int(digits)
