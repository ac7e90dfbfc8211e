"""Parse the payload of a request: a JSON object or plain text.

Rule: the Content Type decides; without one, the first character does.
"""

from dataclasses import dataclass, field
from typing import Any

from edged.errors import ErrorCode
from edged.protocol.fields import MessageError, describe, parse_json
from edged.protocol.wire import Delivery

_JSON_SPACE = " \t\r\n"
_BOM = b"\xef\xbb\xbf"
_CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii"})
_CHARSET = "charset="


@dataclass(frozen=True, slots=True)
class Content:
    """A parsed payload, or why it was refused."""

    members: dict[str, Any] = field(default_factory=dict)
    """Of a JSON object; empty for text."""
    text: str | None = None
    """The payload, when it is plain text."""
    problem: MessageError | None = None
    """Why it is refused; ``members`` may be set as well, for the id."""


def read_content(delivery: Delivery, max_bytes: int) -> Content:
    """Parse a payload of at most ``max_bytes``; an error is returned, not raised."""
    size = len(delivery.payload)
    if size > max_bytes:
        return Content(problem=too_large(size, max_bytes))
    try:
        is_json = _is_json_type(delivery.properties.content_type)
        text = delivery.payload.removeprefix(_BOM).decode()
        if is_json is None:
            is_json = text.lstrip(_JSON_SPACE).startswith(("{", "["))
        if not is_json:
            return Content(text=text.strip())
        return _read_object(text)
    except UnicodeDecodeError as error:
        return Content(problem=MessageError(f"payload: not UTF-8 at byte {error.start}"))
    except MessageError as error:
        return Content(problem=error)


def too_large(size: int, max_bytes: int) -> MessageError:
    """Return the error for a payload over the limit."""
    message = f"payload: {size} bytes; at most {max_bytes} are accepted"
    return MessageError(message, ErrorCode.PAYLOAD_TOO_LARGE)


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


def _read_object(text: str) -> Content:
    value, duplicate = parse_json(text)
    if not isinstance(value, dict):
        raise MessageError("payload: must be a JSON object, or plain text as the prompt")
    if duplicate is None:
        return Content(value)
    problem = MessageError(f"payload: the key {describe(duplicate)} occurs twice in an object")
    return Content(value, problem=problem)
