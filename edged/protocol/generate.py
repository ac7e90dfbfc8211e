"""Read the keys of a ``generate`` request.

Rule: a key read here is described in ``docs/protocol.md``; unknown keys are listed in the request.
"""

import json
from typing import Any

from edged.protocol import keys
from edged.protocol.fields import Fields, MessageError, check_text, type_name
from edged.protocol.inputs import check_inputs
from edged.protocol.request import (
    AUTO,
    ChatMessage,
    FormatType,
    OutputFormat,
    Question,
    ReplyAddress,
    Request,
    SamplingParams,
)
from edged.protocol.wire import RequestDefaults

# They are logged and counted, so a client must not choose how many and how long they are.
MAX_IGNORED_KEYS = 16
MAX_KEY_LENGTH = 64


def read_generate(
    fields: Fields,
    defaults: RequestDefaults,
    address: ReplyAddress,
    now_s: float,
    expiry_s: int | None,
) -> Request:
    """Read the keys of a ``generate`` request, except id and reply topic.

    ``now_s`` is when it was received, ``expiry_s`` its Message Expiry Interval.

    Raises:
        MessageError: A key has a wrong type or value; the text starts with its path.
    """
    session = keys.SESSION.read(fields)
    if session is not None and not defaults.has_sessions:
        raise MessageError("session: this node holds no sessions; send all `messages`")
    is_stream = keys.STREAM.read(fields)
    # The id is the last level of the fragments' topic.
    if is_stream and address.request_id is None:
        raise MessageError("stream: needs an `id`, which is part of the fragments' topic")
    ignored: list[str] = []
    specialist, questions = keys.SPECIALIST.read(fields), _read_questions(fields, ignored)
    messages, is_system_given = read_messages(fields, defaults, ignored)
    output_format, max_tokens = _read_format(fields, ignored), keys.MAX_TOKENS.read(fields)
    _check_decision(fields, output_format)
    return Request(
        reply_to=address,
        messages=messages,
        received_s=now_s,
        deadline_s=now_s + _read_timeout_s(fields, defaults, expiry_s),
        max_tokens=max_tokens or defaults.max_tokens,
        is_length_given=max_tokens is not None,
        stop=_read_stop(fields),
        sampling=_read_sampling(fields),
        format=output_format,
        is_stream=is_stream,
        priority=keys.PRIORITY.read(fields),
        on_deadline=keys.ON_DEADLINE.read(fields),
        specialist=specialist,
        inputs=read_inputs(fields, specialist),
        questions=questions,
        may_escalate=keys.ESCALATE.read(fields),
        session=session,
        is_system_given=is_system_given,
        ignored_keys=_shorten([*fields.unread, *ignored]),
    )


def _read_sampling(fields: Fields) -> SamplingParams:
    sampling: dict[str, Any] = {key.name: key.read(fields) for key in keys.SAMPLING_KEYS}
    return SamplingParams(**sampling)


def _read_timeout_s(fields: Fields, defaults: RequestDefaults, expiry_s: int | None) -> float:
    # Whichever ends first: the broker drops a request at its expiry, the client waits no longer.
    timeout_ms = keys.TIMEOUT_MS.read(fields)
    given_s = [] if timeout_ms is None else [timeout_ms / 1000]
    if expiry_s is not None:
        given_s.append(float(expiry_s))
    return min(min(given_s, default=defaults.timeout_s), defaults.max_timeout_s)


def _shorten(paths: list[str]) -> tuple[str, ...]:
    shown = paths[:MAX_IGNORED_KEYS]
    return tuple(key[:MAX_KEY_LENGTH].encode(errors="replace").decode() for key in shown)


def read_messages(
    fields: Fields, defaults: RequestDefaults, ignored: list[str]
) -> tuple[tuple[ChatMessage, ...], bool]:
    """Read what was said, and whether the request itself chose the system message, or none.

    Raises:
        MessageError: There is no prompt, or a message has a wrong type or value.
    """
    prompt, turns = fields.value("prompt"), fields.value("messages")
    if (prompt is None) == (turns is None):
        raise MessageError("prompt: send either `prompt` or `messages`")
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
    # An empty text only asks for none, which such a node allows.
    if not defaults.is_system_allowed and (system or has_system):
        raise MessageError("system: this node's configuration allows no system text")
    is_given = has_system or system is not None
    if text := system if is_given else defaults.system:
        messages.insert(0, ChatMessage("system", text))
    return tuple(messages), is_given


def _read_turns(turns: object, ignored: list[str]) -> list[ChatMessage]:
    if not isinstance(turns, list):
        raise MessageError(f"messages: must be an array, got {type_name(turns)}")
    if not 1 <= len(turns) <= keys.MAX_MESSAGES:
        raise MessageError(f"messages: must have 1 to {keys.MAX_MESSAGES} items, got {len(turns)}")
    messages = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise MessageError(f"messages[{i}]: must be an object, got {type_name(turn)}")
        fields = Fields(turn, f"messages[{i}]")
        role = fields.value("role")
        if role not in keys.ROLES:
            raise fields.wrong("role", f"one of {', '.join(keys.ROLES)}", role)
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


def _read_stop(fields: Fields) -> tuple[str, ...]:
    value = fields.value("stop")
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list):
        raise MessageError(f"stop: must be a string or an array, got {type_name(value)}")
    if len(strings) > keys.MAX_STOPS:
        raise MessageError(f"stop: must have at most {keys.MAX_STOPS} items, got {len(strings)}")
    return _read_texts("stop", strings, keys.MAX_STOP_LENGTH)


def _read_texts(path: str, items: list[object], max_length: int) -> tuple[str, ...]:
    numbered = enumerate(items)
    return tuple(check_text(f"{path}[{i}]", it, max_length=max_length) for i, it in numbered)


def _read_format(fields: Fields, ignored: list[str]) -> OutputFormat:
    value = fields.value("format")
    if value is None:
        return OutputFormat()
    if not isinstance(value, dict):
        raise fields.wrong("format", 'an object such as {"type": "text"}', value)
    inner = Fields(value, "format")
    kind = keys.FORMAT_TYPE.read(inner)
    if kind is None:
        raise inner.wrong("type", keys.FORMAT_TYPE.expected, None)
    schema = _read_schema(inner) if kind is FormatType.JSON_SCHEMA else None
    choices = _read_choices(inner) if kind is FormatType.CHOICE else ()
    is_scored = kind is FormatType.CHOICE and keys.PROBABILITIES.read(inner)
    ignored.extend(inner.unread)
    return OutputFormat(kind, schema, choices, is_scored)


def _read_schema(fields: Fields) -> dict[str, Any] | bool:
    schema = fields.value("schema")
    if not isinstance(schema, dict | bool):
        raise MessageError(f"format.schema: must be a JSON Schema, got {type_name(schema)}")
    # Any of its strings may become part of the answer.
    check_text("format.schema", json.dumps(schema, ensure_ascii=False))
    return schema


def _read_choices(fields: Fields) -> tuple[str, ...]:
    path, value = fields.path("choices"), fields.value("choices")
    if not isinstance(value, list) or not 1 <= len(value) <= keys.MAX_CHOICES:
        raise MessageError(f"{path}: must be an array of 1 to {keys.MAX_CHOICES} strings")
    choices = _read_texts(path, value, keys.MAX_CHOICE_LENGTH)
    # The answer names its option by an index.
    if len(set(choices)) != len(choices):
        raise MessageError(f"{path}: must all be different")
    return choices


def _read_questions(fields: Fields, ignored: list[str]) -> tuple[Question, ...]:
    value = fields.value("questions")
    if value is None:
        return ()
    if not isinstance(value, dict) or not 1 <= len(value) <= keys.MAX_QUESTIONS:
        raise fields.wrong("questions", f"an object of 1 to {keys.MAX_QUESTIONS} questions", value)
    return tuple(_read_question(name, question, ignored) for name, question in value.items())


def _read_question(name: str, value: object, ignored: list[str]) -> Question:
    if not keys.is_id(name):
        raise MessageError(f"questions: a name must be {keys.ID.expected}")
    path = f"questions.{name}"
    if not isinstance(value, dict):
        raise MessageError(f"{path}: must be an object, got {type_name(value)}")
    fields = Fields(value, path)
    specialist = keys.SPECIALIST.read(fields)
    if (specialist is None) == ("choices" not in value):
        raise MessageError(f"{path}: must have either `specialist` or `choices`")
    ask = fields.value("ask")
    if ask is not None:
        check_text(fields.path("ask"), ask, max_length=keys.MAX_ASK_LENGTH)
        if specialist is not None:
            raise MessageError(f"{path}.ask: a specialist knows its question; leave it out")
    choices = () if specialist is not None else _read_choices(fields)
    ignored.extend(fields.unread)
    return Question(name, specialist, choices, ask)


def read_inputs(fields: Fields, specialist: str | None) -> dict[str, Any]:
    """Read what a specialist that writes is told beside the prompt.

    Raises:
        MessageError: No such specialist is named, or it is too much.
    """
    value = fields.value("inputs")
    if value is None:
        return {}
    if specialist in {None, AUTO}:
        raise MessageError("inputs: are for a `specialist` that is named; leave them out")
    return check_inputs(value)


def _check_decision(fields: Fields, output_format: OutputFormat) -> None:
    """Refuse what a decision has no use for, which is better than to ignore it.

    Raises:
        MessageError: A decision is asked for, and such a key is given.
    """
    asked = [key for key in ("specialist", "questions") if fields.value(key) is not None]
    others = [*asked[1:], "stream", "session", "format"]
    if output_format.is_scored and not asked:
        asked, others = ["format.probabilities"], others[:-1]
    for key in others:
        # ``"stream": false`` asks for nothing.
        if asked and fields.value(key) not in (None, False):
            raise MessageError(f"{key}: cannot be used with `{asked[0]}`; leave it out")
