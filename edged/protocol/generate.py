"""Read the keys of a ``generate`` request: types, ranges and defaults.

Rule: a key read here is described in ``docs/protocol.md``; unknown keys are listed in the request.
"""

import json
from collections.abc import Iterable
from typing import Any

from edged.protocol.fields import Fields, MessageError, check_text, type_name
from edged.protocol.keys import (
    MAX_CHOICE_LENGTH,
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    MAX_TOKENS,
    ROLES,
    SAMPLING_KEYS,
)
from edged.protocol.request import (
    ChatMessage,
    FormatType,
    OnDeadline,
    OutputFormat,
    Priority,
    ReplyAddress,
    Request,
    SamplingParams,
)
from edged.protocol.wire import RequestDefaults

MAX_IGNORED_KEYS = 16
MAX_KEY_LENGTH = 64
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_ON_DEADLINE = {choice.value: choice for choice in OnDeadline}
_FORMATS = {choice.value: choice for choice in FormatType}


def read_generate(
    fields: Fields,
    defaults: RequestDefaults,
    address: ReplyAddress,
    times_s: tuple[float, float],
) -> Request:
    """Read the keys of a ``generate`` request, except id, reply topic, timeout and session.

    Args:
        fields: The message; plain text is its ``prompt``.
        defaults: Limits and defaults of this node.
        address: Where the reply goes.
        times_s: When it was received, and its deadline.

    Raises:
        MessageError: A key has a wrong type or value; the text starts with its path.
    """
    is_stream = fields.boolean("stream")
    if is_stream and address.request_id is None:
        raise MessageError("stream: needs an `id`, which is part of the fragments' topic")
    messages, ignored = _read_messages(fields, defaults)
    output_format, ignored_format = _read_format(fields)
    priority = fields.keyword("priority", _PRIORITIES)
    return Request(
        reply_to=address,
        messages=messages,
        received_s=times_s[0],
        deadline_s=times_s[1],
        max_tokens=MAX_TOKENS.read(fields) or defaults.max_tokens,
        stop=_read_stop(fields),
        sampling=_read_sampling(fields),
        format=output_format,
        is_stream=is_stream,
        priority=Priority.NORMAL if priority is None else priority,
        on_deadline=fields.keyword("on_deadline", _ON_DEADLINE) or OnDeadline.REFUSE,
        is_system_given=_has_own_system(fields),
        ignored_keys=_shorten([*fields.unread, *ignored, *ignored_format]),
    )


def _shorten(keys: Iterable[str]) -> tuple[str, ...]:
    printable = [key[:MAX_KEY_LENGTH].encode(errors="replace").decode() for key in keys]
    return tuple(printable[:MAX_IGNORED_KEYS])


def _read_messages(
    fields: Fields, defaults: RequestDefaults
) -> tuple[tuple[ChatMessage, ...], list[str]]:
    prompt, turns = fields.value("prompt"), fields.value("messages")
    if (prompt is None) == (turns is None):
        raise MessageError("prompt: send either `prompt` or `messages`")
    ignored: list[str] = []
    if turns is None:
        messages = [ChatMessage("user", _filled("prompt", prompt))]
    else:
        messages = _read_turns(turns, ignored)
    system = fields.value("system")
    has_system = any(message.role == "system" for message in messages)
    if system is not None:
        check_text("system", system)
        if has_system:
            raise MessageError("system: `messages` has a system message already; send only one")
    if not defaults.is_system_allowed and (system or has_system):
        raise MessageError("system: this node's configuration allows no system text")
    if system is None and not has_system:
        system = defaults.system
    if system:
        messages.insert(0, ChatMessage("system", system))
    return tuple(messages), ignored


def _has_own_system(fields: Fields) -> bool:
    """Return whether a validated request chooses its own system text, or none."""
    turns = fields.value("messages") or ()
    return fields.value("system") is not None or any(turn["role"] == "system" for turn in turns)


def _read_turns(turns: object, ignored: list[str]) -> list[ChatMessage]:
    if not isinstance(turns, list):
        raise MessageError(f"messages: must be an array, got {type_name(turns)}")
    if not 1 <= len(turns) <= MAX_MESSAGES:
        raise MessageError(f"messages: must have 1 to {MAX_MESSAGES} items, got {len(turns)}")
    messages = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise MessageError(f"messages[{i}]: must be an object, got {type_name(turn)}")
        fields = Fields(turn, f"messages[{i}]")
        role = fields.value("role")
        if role not in ROLES:
            raise fields.wrong("role", f"one of {', '.join(ROLES)}", role)
        content = _filled(fields.path("content"), fields.value("content"))
        messages.append(ChatMessage(role, content))
        ignored.extend(fields.unread)
    if messages[-1].role != "user":
        raise MessageError("messages: the last one must have the role user")
    return messages


def _filled(path: str, value: object) -> str:
    text = check_text(path, value)
    if not text or text.isspace():
        raise MessageError(f"{path}: must not be empty")
    return text


def _read_sampling(fields: Fields) -> SamplingParams:
    given = {key.name: key.read(fields) for key in SAMPLING_KEYS}
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return SamplingParams(**chosen)


def _read_stop(fields: Fields) -> tuple[str, ...]:
    value = fields.value("stop")
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list):
        raise MessageError(f"stop: must be a string or an array, got {type_name(value)}")
    if len(strings) > MAX_STOPS:
        raise MessageError(f"stop: must have at most {MAX_STOPS} items, got {len(strings)}")
    return tuple(
        check_text(f"stop[{i}]", text, max_length=MAX_STOP_LENGTH) for i, text in enumerate(strings)
    )


def _read_format(fields: Fields) -> tuple[OutputFormat, list[str]]:
    value = fields.value("format")
    if value is None:
        return OutputFormat(), []
    if not isinstance(value, dict):
        raise fields.wrong("format", 'an object such as {"type": "text"}', value)
    inner = Fields(value, "format")
    kind = inner.keyword("type", _FORMATS)
    if kind is None:
        raise inner.wrong("type", f"one of {', '.join(_FORMATS)}", None)
    if kind is FormatType.JSON_SCHEMA:
        output_format = OutputFormat(kind, schema=_read_schema(inner))
    elif kind is FormatType.CHOICE:
        output_format = OutputFormat(kind, choices=_read_choices(inner))
    else:
        output_format = OutputFormat()
    return output_format, inner.unread


def _read_schema(fields: Fields) -> dict[str, Any] | bool:
    schema = fields.value("schema")
    if not isinstance(schema, dict | bool):
        raise MessageError(f"format.schema: must be a JSON Schema, got {type_name(schema)}")
    check_text("format.schema", json.dumps(schema, ensure_ascii=False))
    return schema


def _read_choices(fields: Fields) -> tuple[str, ...]:
    value = fields.value("choices")
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CHOICES:
        raise MessageError(f"format.choices: must be an array of 1 to {MAX_CHOICES} strings")
    choices = tuple(
        check_text(f"format.choices[{i}]", text, max_length=MAX_CHOICE_LENGTH)
        for i, text in enumerate(value)
    )
    if len(set(choices)) != len(choices):
        raise MessageError("format.choices: must all be different")
    return choices
