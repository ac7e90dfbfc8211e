"""JSON Schema of the requests ``generate``, ``cancel`` and ``correct``.

Rule: null is the same as omitting a key, so every key accepts it; only of an ``answer`` it is one.
"""

from typing import Any

from edged.protocol.keys import (
    ESCALATE,
    FORMAT_TYPE,
    ID,
    ID_PATTERN,
    INPUT_NAME_PATTERN,
    MAX_ASK_LENGTH,
    MAX_CHOICE_LENGTH,
    MAX_CHOICES,
    MAX_INPUT_LENGTH,
    MAX_INPUTS_DEPTH,
    MAX_INPUTS_ITEMS,
    MAX_MESSAGES,
    MAX_QUESTIONS,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    MAX_TOKENS,
    ON_DEADLINE,
    PRIORITY,
    PROBABILITIES,
    ROLES,
    SAMPLING_KEYS,
    SESSION,
    SPECIALIST,
    STREAM,
    TIMEOUT_MS,
    TRANSACTION,
    Key,
)
from edged.protocol.request import AUTO, FormatType
from scripts.specification.parts import (
    STRING,
    Schema,
    described,
    document,
    members,
    nullable,
)

_TEXT: Schema = {"type": "string", "pattern": "^[^\\u0000]*$"}
_FILLED: Schema = _TEXT | {"allOf": [{"pattern": "\\S"}]}
_NONE: Schema = {"type": "null"}
_STOP: Schema = _TEXT | {"minLength": 1, "maxLength": MAX_STOP_LENGTH}
_INPUT_TEXT: Schema = {"pattern": _TEXT["pattern"], "maxLength": MAX_INPUT_LENGTH}
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
# Of what a specialist says nothing is streamed, held to a format of the request, or remembered.
_DECISIONS_EXCLUDE: list[Schema] = [
    {
        "if": {"required": [key], "properties": {key: {"not": _NONE}}},
        "then": {
            "properties": {
                **{other: _NONE for other in ("format", "session", "specialist") if other != key},
                **({"questions": _NONE} if key == "specialist" else {}),
                "stream": {"enum": [False, None]},
            }
        },
    }
    for key in ("specialist", "questions")
]
_INPUTS_NEED_SPECIALIST: Schema = {
    "if": {"required": ["inputs"], "properties": {"inputs": {"not": _NONE}}},
    "then": {
        "required": ["specialist"],
        "properties": {"specialist": {"not": {"enum": [AUTO, None]}}},
    },
}
_IS_SCORED: Schema = {
    "type": "object",
    "required": ["type", "probabilities"],
    "properties": {"type": {"const": "choice"}, "probabilities": {"const": True}},
}
_SCORES_EXCLUDE: Schema = {
    "if": {"required": ["format"], "properties": {"format": _IS_SCORED}},
    "then": {"properties": {"session": _NONE, "stream": {"enum": [False, None]}}},
}


def generate_schema() -> Schema:
    """Return the schema of a ``generate`` request in JSON."""
    schema: Schema = {
        "type": "object",
        "properties": _properties(),
        "oneOf": _PROMPT_OR_MESSAGES,
        "allOf": [
            _STREAM_NEEDS_ID,
            *_DECISIONS_EXCLUDE,
            _SCORES_EXCLUDE,
            _INPUTS_NEED_SPECIALIST,
        ],
    }
    text = (
        "A prompt in JSON. Unknown keys are ignored. null is the same as omitting the key. In"
        " addition to this schema: no repeated key, no lone surrogate, the last message is the"
        " user's, `system` excludes a system message, and the limits in `info` apply."
    )
    return document("generate", "generate request", text, schema)


def cancel_schema() -> Schema:
    """Return the schema of a ``cancel`` request in JSON."""
    target = nullable(dict(ID.schema))
    schema: Schema = {
        "type": "object",
        "properties": {
            "id": described(target, "id of the request to cancel"),
            "transaction": described(target, TRANSACTION.meaning),
            "response_topic": nullable(_response_topic()),
        },
    }
    text = "A cancel in JSON; Correlation Data may name its target instead."
    return document("cancel", "cancel request", text, schema)


def correct_schema() -> Schema:
    """Return the schema of a ``correct`` request in JSON."""
    answer: Schema = {"type": ["string", "null", "number", "array", "object"]}
    schema: Schema = {
        "type": "object",
        "properties": {
            **{name: nullable(it) for name, it in _declared(ID, TRANSACTION).items()},
            "specialist": described(dict(SPECIALIST.schema), "whose answer it should have been"),
            "prompt": described(nullable(_FILLED), "what it was asked; or `messages`"),
            "messages": nullable(_messages()),
            "inputs": nullable(
                described(_inputs_level(1), "what a specialist that writes was told beside it")
            ),
            "answer": described(answer, "the right one; null is none of the labels"),
            "response_topic": nullable(_response_topic()),
        },
        "required": ["specialist", "answer"],
        "oneOf": _PROMPT_OR_MESSAGES,
    }
    text = (
        "A prompt and its right answer, for a node that keeps corrections. The answer is one that"
        " the specialist can give."
    )
    return document("correct", "correct request", text, schema)


def _properties() -> dict[str, Schema]:
    declared = {
        **_declared(ID, TRANSACTION),
        "prompt": described(_FILLED, "the question; exactly one of `prompt` and `messages`"),
        "messages": _messages(),
        "system": described(
            _TEXT,
            'system text; `""` asks for none; not beside a `system` message; a node may forbid it',
        ),
        **_declared(MAX_TOKENS, *SAMPLING_KEYS),
        "stop": _stop(),
        "format": _format(),
        **_declared(SPECIALIST),
        "inputs": described(
            _inputs_level(1), "what a specialist that writes is told beside the prompt"
        ),
        "questions": _questions(),
        **_declared(ESCALATE, STREAM, PRIORITY, TIMEOUT_MS, ON_DEADLINE),
        "response_topic": _response_topic(),
        **_declared(SESSION),
    }
    return {name: nullable(schema) for name, schema in declared.items()}


def _inputs_level(level: int) -> Schema:
    """Return the schema of what may stand at a level of ``inputs``."""
    inner: Schema = {"type": ["string", "number", "boolean", "null"]} | _INPUT_TEXT
    if level < MAX_INPUTS_DEPTH:
        inner = _inputs_level(level + 1)
    bounds: Schema = {
        "maxProperties": MAX_INPUTS_ITEMS,
        "propertyNames": {"pattern": f"^{INPUT_NAME_PATTERN}$"},
        "additionalProperties": inner,
    }
    if level == 1:
        return {"type": "object", **bounds}
    kinds = ["string", "number", "boolean", "null", "array", "object"]
    return {"type": kinds, "maxItems": MAX_INPUTS_ITEMS, "items": inner, **bounds} | _INPUT_TEXT


def _declared(*keys: Key[Any]) -> dict[str, Schema]:
    return {key.name: described(dict(key.schema), key.meaning) for key in keys}


def _messages() -> Schema:
    schema = {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": _MESSAGE}
    roles = ", ".join(f"`{role}`" for role in ROLES)
    return described(schema, f"a conversation; roles {roles}; the last is `user`")


def _stop() -> Schema:
    listed = {"maxItems": MAX_STOPS, "items": _STOP}
    lengths = {key: _STOP[key] for key in ("pattern", "minLength", "maxLength")}
    schema: Schema = {"type": ["string", "array"], **lengths, **listed}
    return described(schema, "ends the answer; not part of it")


def _choices() -> Schema:
    return {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_CHOICES,
        "uniqueItems": True,
        "items": _TEXT | {"minLength": 1, "maxLength": MAX_CHOICE_LENGTH},
    }


def _questions() -> Schema:
    ask = _TEXT | {"minLength": 1, "maxLength": MAX_ASK_LENGTH}
    question: Schema = {
        "type": "object",
        "properties": {
            "specialist": nullable(dict(SPECIALIST.schema)),
            "choices": _choices(),
            "ask": described(nullable(ask), "the question in words, for choices"),
        },
        "oneOf": [
            {
                "required": ["specialist"],
                "properties": {"specialist": {"not": _NONE}, "ask": _NONE},
            },
            {"required": ["choices"]},
        ],
    }
    schema: Schema = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": MAX_QUESTIONS,
        "propertyNames": {"pattern": f"^{ID_PATTERN}$"},
        "additionalProperties": question,
    }
    return described(schema, "named questions about the prompt, instead of a written answer")


def _format() -> Schema:
    needed: dict[FormatType, dict[str, Schema]] = {
        FormatType.TEXT: {},
        FormatType.JSON_SCHEMA: {
            "schema": {"type": ["object", "boolean"], "not": {"const": False}}
        },
        FormatType.CHOICE: {"choices": _choices()},
    }
    further: dict[FormatType, dict[str, Schema]] = {
        FormatType.CHOICE: {name: nullable(it) for name, it in _declared(PROBABILITIES).items()},
    }
    conditions = [
        {
            "if": {"properties": {"type": {"const": str(kind)}}},
            "then": {"properties": parts | further.get(kind, {}), "required": list(parts)},
        }
        for kind, parts in needed.items()
        if parts
    ]
    schema: Schema = {
        "type": "object",
        "properties": {"type": dict(FORMAT_TYPE.schema)},
        "required": ["type"],
        "allOf": conditions,
    }
    return described(schema, "shape of the answer, see below")


def _response_topic() -> Schema:
    return described(STRING, "where the reply goes")
