"""JSON Schema of the requests ``generate`` and ``cancel``.

Rule: null is the same as omitting a key, so every key accepts it.
"""

from edged.protocol.keys import (
    ID_PATTERN,
    MAX_CHOICE_LENGTH,
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    MAX_TOKENS,
    ROLES,
    SAMPLING_KEYS,
    TIMEOUT_MS,
    IntegerKey,
    NumberKey,
)
from edged.protocol.request import FormatType, OnDeadline, Priority
from scripts.specification.parts import (
    BOOLEAN,
    STRING,
    Schema,
    described,
    document,
    members,
    nullable,
)

_ID: Schema = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
_ID_MEANING = "comes back in the reply; names the stream and the target of a cancel"
_TEXT: Schema = {"type": "string", "pattern": "^[^\\u0000]*$"}
_FILLED: Schema = _TEXT | {"allOf": [{"pattern": "\\S"}]}
_NONE: Schema = {"type": "null"}
_STOP: Schema = _TEXT | {"minLength": 1, "maxLength": MAX_STOP_LENGTH}
_MESSAGE = members({"role": {"enum": list(ROLES)}, "content": _FILLED})
_PROMPT_OR_MESSAGES: list[Schema] = [
    {"required": [one], "properties": {one: {"not": _NONE}, other: _NONE}}
    for one, other in (("prompt", "messages"), ("messages", "prompt"))
]
_STREAM_NEEDS_ID: Schema = {
    "if": {"properties": {"stream": {"const": True}}, "required": ["stream"]},
    "then": {
        "anyOf": [
            {"properties": {key: {"type": "string"}}, "required": [key]}
            for key in ("id", "transaction")
        ]
    },
}


def generate_schema() -> Schema:
    """Return the schema of a ``generate`` request in JSON."""
    schema: Schema = {
        "type": "object",
        "properties": _properties(),
        "oneOf": _PROMPT_OR_MESSAGES,
        "allOf": [_STREAM_NEEDS_ID],
    }
    text = (
        "A prompt in JSON. Unknown keys are ignored. null is the same as omitting the key. In"
        " addition to this schema: no repeated key, no lone surrogate, the last message is the"
        " user's, `system` excludes a system message, and the limits in `info` apply."
    )
    return document("generate", "generate request", text, schema)


def cancel_schema() -> Schema:
    """Return the schema of a ``cancel`` request in JSON."""
    target = nullable(_ID)
    schema: Schema = {
        "type": "object",
        "properties": {
            "id": described(target, "id of the request to cancel"),
            "transaction": described(target, "another name for `id`; `id` wins"),
            "response_topic": nullable(_response_topic()),
        },
    }
    text = "A cancel in JSON; Correlation Data may name its target instead."
    return document("cancel", "cancel request", text, schema)


def _properties() -> dict[str, Schema]:
    numbers = {key.name: _number(key) for key in SAMPLING_KEYS}
    declared = {
        "id": described(_ID, _ID_MEANING),
        "transaction": described(_ID, "another name for `id`; `id` wins"),
        "prompt": described(_FILLED, "the question; exactly one of `prompt` and `messages`"),
        "messages": _messages(),
        "system": described(
            _TEXT,
            'system text; `""` asks for none; not beside a `system` message; a node may forbid it',
        ),
        "max_tokens": _number(MAX_TOKENS),
        **numbers,
        "stop": _stop(),
        "format": _format(),
        "stream": described(BOOLEAN | {"default": False}, "send fragments, too; needs an `id`"),
        "priority": described(
            {"enum": [p.name.lower() for p in Priority], "default": Priority.NORMAL.name.lower()},
            "which waiting request goes first",
        ),
        "timeout_ms": _number(TIMEOUT_MS),
        "on_deadline": described(
            {"enum": [str(choice) for choice in OnDeadline], "default": str(OnDeadline.REFUSE)},
            "what to do when `max_tokens` cannot be produced in time",
        ),
        "response_topic": _response_topic(),
        "session": described(_ID, "continues a dialogue that the node holds"),
    }
    return {name: nullable(schema) for name, schema in declared.items()}


def _number(key: IntegerKey | NumberKey) -> Schema:
    kind = "integer" if isinstance(key, IntegerKey) else "number"
    schema: Schema = {"type": kind, "minimum": key.low, "maximum": key.high}
    if key.default is not None:
        schema["default"] = key.default
    return described(schema, key.meaning)


def _messages() -> Schema:
    schema = {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": _MESSAGE}
    roles = ", ".join(f"`{role}`" for role in ROLES)
    return described(schema, f"a conversation; roles {roles}; the last is `user`")


def _stop() -> Schema:
    listed = {"maxItems": MAX_STOPS, "items": _STOP}
    lengths = {key: _STOP[key] for key in ("pattern", "minLength", "maxLength")}
    schema: Schema = {"type": ["string", "array"], **lengths, **listed}
    return described(schema, "ends the answer; not part of it")


def _format() -> Schema:
    choices = {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_CHOICES,
        "uniqueItems": True,
        "items": _TEXT | {"minLength": 1, "maxLength": MAX_CHOICE_LENGTH},
    }
    needed: dict[FormatType, dict[str, Schema]] = {
        FormatType.TEXT: {},
        FormatType.JSON_SCHEMA: {
            "schema": {"type": ["object", "boolean"], "not": {"const": False}}
        },
        FormatType.CHOICE: {"choices": choices},
    }
    conditions = [
        {
            "if": {"properties": {"type": {"const": str(kind)}}},
            "then": {"properties": dict(parts), "required": list(parts)},
        }
        for kind, parts in needed.items()
        if parts
    ]
    schema: Schema = {
        "type": "object",
        "properties": {"type": {"enum": [str(kind) for kind in FormatType]}},
        "required": ["type"],
        "allOf": conditions,
    }
    return described(schema, "shape of the answer, see below")


def _response_topic() -> Schema:
    return described(STRING, "where the reply goes")
