"""The wire contract: each rule, and that no input escapes them."""
# ruff: noqa: ANN401 - a test looks into whichever of the four values it expects

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.commands.received import decode_fragment, decode_reply
from edged.errors import ErrorCode
from edged.protocol.decode import decode
from edged.protocol.encode import encode_fragment, encode_reply, encode_state
from edged.protocol.request import (
    Answer,
    CancelRequest,
    ChatMessage,
    Correction,
    FinishReason,
    FormatType,
    Question,
    Rejected,
    Reply,
    ReplyAddress,
    Request,
)
from edged.protocol.wire import (
    MAX_CORRELATION_BYTES,
    MAX_USER_PROPERTIES,
    OPERATIONS,
    Delivery,
    Dropped,
    DropReason,
    Refusal,
    RequestDefaults,
    Topics,
    WireProperties,
)

DEFAULTS = RequestDefaults(Topics("edged", "kitchen"))
GENERATE = "edged/kitchen/request/generate"
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        *("id", "transaction", "response_topic", "timeout_ms", "session", "stream", "unknown"),
        *("prompt", "system", "messages", "max_tokens", "stop", "format"),
        *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
        *("priority", "on_deadline", "specialist", "questions", "escalate"),
    ]
)


def deliver(
    payload: bytes | str | dict[str, Any],
    *,
    topic: str = GENERATE,
    defaults: RequestDefaults = DEFAULTS,
    **properties: Any,
) -> Any:
    if isinstance(payload, dict):
        payload = json.dumps(payload)
    data = payload if isinstance(payload, bytes) else payload.encode()
    return decode(Delivery(topic, data, properties=WireProperties(**properties)), defaults, 0.0)


def ask(**members: Any) -> Any:
    return deliver({"prompt": "hello"} | members)


def message_of(decoded: Any) -> str:
    assert isinstance(decoded, Refusal)
    assert decoded.rejected.code is ErrorCode.BAD_REQUEST
    return decoded.rejected.message


SCORED = {"type": "choice", "choices": ["a", "b"], "probabilities": True}
NOT_A_NAME = (
    "specialist: must be the name of a specialist: 1 to 64 characters of a-z 0-9 -,"
    " not starting with -"
)
QUESTIONS = "questions: must be an object of 1 to 32 questions"
REFUSED = [
    ({"temperature": "hot"}, 'temperature: must be a number from 0 to 2, got "hot"'),
    ({"temperature": True}, "temperature: must be a number from 0 to 2, got true"),
    ({"temperature": 2.1}, "temperature: must be a number from 0 to 2, got 2.1"),
    ({"temperature": [1]}, "temperature: must be a number from 0 to 2, got an array"),
    ({"top_p": 0}, "top_p: must be a number from 1e-06 to 1, got 0"),
    ({"min_p": -0.1}, "min_p: must be a number from 0 to 1, got -0.1"),
    ({"repetition_penalty": 3}, "repetition_penalty: must be a number from 0.5 to 2, got 3"),
    ({"max_tokens": 0}, "max_tokens: must be an integer from 1 to 131072, got 0"),
    ({"max_tokens": True}, "max_tokens: must be an integer from 1 to 131072, got true"),
    ({"max_tokens": 1.5}, "max_tokens: must be an integer from 1 to 131072, got 1.5"),
    ({"top_k": -1}, "top_k: must be an integer from 0 to 1000000, got -1"),
    ({"seed": -1}, "seed: must be an integer from 0 to 9223372036854775807, got -1"),
    ({"timeout_ms": 0}, "timeout_ms: must be an integer from 1 to 86400000, got 0"),
    ({"stream": 1}, "stream: must be true or false, got 1"),
    ({"priority": "high"}, 'priority: must be one of interactive, normal, background, got "high"'),
    ({"priority": 1}, "priority: must be one of interactive, normal, background, got 1"),
    ({"on_deadline": "stop"}, 'on_deadline: must be one of refuse, shorten, got "stop"'),
    (
        {"session": "a b"},
        'session: must be 1 to 64 characters of A-Z a-z 0-9 . _ : -, got "a b"',
    ),
    ({"stream": True}, "stream: needs an `id`, which is part of the fragments' topic"),
    ({"id": 5}, "id: must be 1 to 64 characters of A-Z a-z 0-9 . _ : -, got 5"),
    ({"id": "a b"}, 'id: must be 1 to 64 characters of A-Z a-z 0-9 . _ : -, got "a b"'),
    ({"id": "x" * 65}, f'id: must be 1 to 64 characters of A-Z a-z 0-9 . _ : -, got "{"x" * 32}…"'),
    ({"response_topic": 7}, "response_topic: must be a topic, got 7"),
    ({"prompt": None}, "prompt: send either `prompt` or `messages`"),
    ({"messages": []}, "prompt: send either `prompt` or `messages`"),
    ({"prompt": 5}, "prompt: must be a string, got a number"),
    ({"prompt": ["secret"]}, "prompt: must be a string, got an array"),
    ({"prompt": " \n"}, "prompt: must not be empty"),
    ({"prompt": "a\0b"}, "prompt: must not contain NUL (U+0000)"),
    ({"prompt": "\ud83d"}, "prompt: must not contain half of a surrogate pair (U+D800 to U+DFFF)"),
    ({"system": {}}, "system: must be a string, got an object"),
    ({"stop": {}}, "stop: must be a string or an array, got an object"),
    ({"stop": [""]}, "stop[0]: must have 1 to 256 characters, got 0"),
    ({"stop": ["a", None]}, "stop[1]: must be a string, got null"),
    ({"stop": ["a"] * 9}, "stop: must have at most 8 items, got 9"),
    ({"format": "json"}, 'format: must be an object such as {"type": "text"}, got "json"'),
    ({"format": {}}, "format.type: must be one of text, json_schema, choice, got null"),
    (
        {"format": {"type": "xml"}},
        'format.type: must be one of text, json_schema, choice, got "xml"',
    ),
    ({"format": {"type": "json_schema"}}, "format.schema: must be a JSON Schema, got null"),
    (
        {"format": {"type": "json_schema", "schema": {"a": ["\ud800"]}}},
        "format.schema: must not contain half of a surrogate pair (U+D800 to U+DFFF)",
    ),
    (
        {"format": {"type": "choice", "choices": []}},
        "format.choices: must be an array of 1 to 64 strings",
    ),
    (
        {"format": {"type": "choice", "choices": ["a", 1]}},
        "format.choices[1]: must be a string, got a number",
    ),
    (
        {"format": {"type": "choice", "choices": ["a", "a"]}},
        "format.choices: must all be different",
    ),
    (
        {"format": {"type": "choice", "choices": ["a"], "probabilities": 1}},
        "format.probabilities: must be true or false, got 1",
    ),
    *(
        (
            {"id": "a", "format": SCORED} | other,
            f"{key}: cannot be used with `format.probabilities`; leave it out",
        )
        for key, other in (("stream", {"stream": True}), ("session", {"session": "s"}))
    ),
    *(
        (
            {"id": "a", key: asked} | other,
            f"{named}: cannot be used with `{key}`; leave it out",
        )
        for key, asked in (("specialist", "lamp"), ("questions", {"a": {"specialist": "lamp"}}))
        for named, other in (
            ("stream", {"stream": True}),
            ("session", {"session": "s"}),
            ("format", {"format": {"type": "text"}}),
        )
    ),
    (
        {"specialist": "lamp", "questions": {"a": {"specialist": "lamp"}}},
        "questions: cannot be used with `specialist`; leave it out",
    ),
    (
        {"specialist": "Lamp"},
        f'{NOT_A_NAME}, got "Lamp"',
    ),
    ({"specialist": "-lamp"}, f'{NOT_A_NAME}, got "-lamp"'),
    ({"escalate": 0}, "escalate: must be true or false, got 0"),
    ({"questions": []}, f"{QUESTIONS}, got an array"),
    ({"questions": {}}, f"{QUESTIONS}, got an object"),
    (
        {"questions": {f"q{n}": {"choices": ["a"]} for n in range(33)}},
        f"{QUESTIONS}, got an object",
    ),
    (
        {"questions": {"a b": {"choices": ["a"]}}},
        "questions: a name must be 1 to 64 characters of A-Z a-z 0-9 . _ : -",
    ),
    ({"questions": {"a": 1}}, "questions.a: must be an object, got a number"),
    ({"questions": {"a": {}}}, "questions.a: must have either `specialist` or `choices`"),
    (
        {"questions": {"a": {"specialist": "lamp", "choices": ["a"]}}},
        "questions.a: must have either `specialist` or `choices`",
    ),
    (
        {"questions": {"a": {"specialist": 5}}},
        f"questions.a.{NOT_A_NAME}, got 5",
    ),
    (
        {"questions": {"a": {"choices": ["a"] * 65}}},
        "questions.a.choices: must be an array of 1 to 64 strings",
    ),
    (
        {"questions": {"a": {"choices": ["a", ""]}}},
        "questions.a.choices[1]: must have 1 to 256 characters, got 0",
    ),
    (
        {"questions": {"a": {"choices": ["a"], "ask": 1}}},
        "questions.a.ask: must be a string, got a number",
    ),
    (
        {"questions": {"a": {"choices": ["a"], "ask": "x" * 513}}},
        "questions.a.ask: must have 1 to 512 characters, got 513",
    ),
    (
        {"questions": {"a": {"specialist": "lamp", "ask": "Which?"}}},
        "questions.a.ask: a specialist knows its question; leave it out",
    ),
]
REFUSED_MESSAGES = [
    ("hello", "messages: must be an array, got a string"),
    ([], "messages: must have 1 to 64 items, got 0"),
    (["x"], "messages[0]: must be an object, got a string"),
    (
        [{"role": "bot", "content": "x"}],
        'messages[0].role: must be one of system, user, assistant, got "bot"',
    ),
    (
        [{"role": [], "content": "x"}],
        "messages[0].role: must be one of system, user, assistant, got an array",
    ),
    ([{"role": "user"}], "messages[0].content: must be a string, got null"),
    ([{"role": "user", "content": ""}], "messages[0].content: must not be empty"),
    ([{"role": "assistant", "content": "x"}], "messages: the last one must have the role user"),
]
NOT_JSON = [
    (
        "{",
        "payload: not JSON: Expecting property name enclosed in double quotes at line 1 column 2",
    ),
    ('{"prompt":NaN}', "payload: not JSON: NaN is not a JSON number"),
    ('{"prompt":-Infinity}', "payload: not JSON: -Infinity is not a JSON number"),
    ('{"temperature":1e999}', "payload: a number is out of the range of a double"),
    ('{"seed":' + "1" * 5000 + "}", "payload: an integer has more than 32 digits"),
    ("[1]", "payload: must be a JSON object, or plain text as the prompt"),
    ("[" * 10_000, "payload: nested deeper than 64 levels"),
    ('{"a":' * 3000, "payload: nested deeper than 64 levels"),
    ('{"a":{"x":1,"x":2}}', 'payload: the key "x" occurs twice in an object'),
    (b"\xffhello", "payload: not UTF-8 at byte 0"),
    (b"hell\xc3", "payload: not UTF-8 at byte 4"),
    (b"\xed\xa0\x80", "payload: not UTF-8 at byte 0"),
    ("", "prompt: must not be empty"),
    ("a\0b", "prompt: must not contain NUL (U+0000)"),
]


@pytest.mark.parametrize(("members", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_wrong_key_is_refused_by_its_path_and_what_was_expected(
    members: dict[str, Any], message: str
) -> None:
    assert message_of(ask(**members)) == message


@pytest.mark.parametrize(("turns", "message"), REFUSED_MESSAGES)
def test_wrong_messages_are_refused_by_their_index(turns: object, message: str) -> None:
    assert message_of(deliver({"messages": turns})) == message


@pytest.mark.parametrize(("payload", "message"), NOT_JSON, ids=lambda value: str(value)[:40])
def test_what_is_no_request_is_refused_to_the_correlation_it_came_with(
    payload: str | bytes, message: str
) -> None:
    decoded = deliver(payload, correlation_data=b"c", response_topic="reply/x")
    assert message_of(decoded) == message
    assert decoded.reply_to == ReplyAddress("reply/x", None, b"c")


def test_a_refusal_carries_the_id_even_when_the_same_object_has_a_duplicate_key() -> None:
    decoded = deliver('{"id":"a1","prompt":"x","prompt":"y"}')
    assert message_of(decoded) == 'payload: the key "prompt" occurs twice in an object'
    assert decoded.reply_to.request_id == "a1"


def test_brackets_inside_strings_do_not_count_as_nesting() -> None:
    assert isinstance(ask(prompt='[{"\\' * 200), Request)


def test_the_id_wins_over_its_alias_and_a_wrong_alias_is_refused_with_the_id() -> None:
    assert ask(id="a", transaction="b").reply_to.request_id == "a"
    assert ask(transaction="b").reply_to.request_id == "b"
    assert ask(id="a", transaction=1).reply_to.request_id == "a"
    assert message_of(ask(id="a", transaction=1)).startswith("transaction: ")


@pytest.mark.parametrize(
    ("expiry_s", "timeout_ms", "deadline_s"),
    [
        (None, None, 30.0),
        (5, None, 5.0),
        (None, 1500, 1.5),
        (5, 9000, 5.0),
        (9, 5000, 5.0),
        (999, 900_000, 300.0),
    ],
)
def test_the_smaller_of_expiry_and_timeout_is_the_deadline(
    expiry_s: int | None, timeout_ms: int | None, deadline_s: float
) -> None:
    request = deliver({"prompt": "x", "timeout_ms": timeout_ms}, message_expiry_s=expiry_s)
    assert request.deadline_s == deadline_s


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (None, "json"),
        ("", "json"),
        ("application/json", "json"),
        ("Application/JSON; charset=UTF-8", "json"),
        ("application/vnd.edged+json", "json"),
        ("text/plain", "text"),
        ('text/plain; charset="us-ascii"', "text"),
        ("text/plain; charset=latin-1", None),
        ("text/html", None),
        ("image/png", None),
    ],
)
def test_the_content_type_decides_between_json_text_and_415(
    content_type: str | None, expected: str | None
) -> None:
    decoded = deliver({"prompt": "x"}, content_type=content_type)
    if expected is None:
        assert decoded.rejected.code is ErrorCode.UNSUPPORTED_CONTENT_TYPE
    else:
        assert decoded.messages[0].content == ("x" if expected == "json" else '{"prompt": "x"}')


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b" \r\n\t", b"\xef\xbb\xbf\n"])
def test_a_byte_order_mark_and_white_space_do_not_hide_json(start: bytes) -> None:
    assert deliver(start + b'{"prompt":"x"}').messages == (ChatMessage("user", "x"),)


def test_a_text_prompt_loses_its_byte_order_mark_and_outer_white_space() -> None:
    assert deliver(b"\xef\xbb\xbf hi there \r\n").messages == (ChatMessage("user", "hi there"),)


def test_a_payload_over_the_limit_is_refused_with_its_id_up_to_what_can_be_read() -> None:
    large = deliver({"id": "a1", "prompt": "x" * 20_000})
    assert (large.rejected.code, large.reply_to.request_id) == (ErrorCode.PAYLOAD_TOO_LARGE, "a1")
    assert large.rejected.message == "payload: 20026 bytes; at most 16384 are accepted"
    huge = deliver({"id": "a1", "prompt": "x" * 70_000}, correlation_data=b"c")
    assert huge.rejected.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert huge.reply_to == ReplyAddress("edged/kitchen/response/generate", None, b"c")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "$SYS/x",
        "reply/#",
        "reply/+/x",
        "reply/\0",
        "reply/\n",
        "reply/\x85",
        "reply/\ufdd0",
        "reply/\uffff",
        "reply/" + "a/" * 15,
        "reply/" + "x" * 256,
        "reply/\udc00",
        "zigbee2mqtt/lock/set",
        "edged",
        "homeassistant/device/x/config",
        "edged/kitchen/request/generate",
        "edged/other/request/cancel",
        "edged/other/availability",
        "edged/kitchen/info",
        "edged/kitchen/state",
        "edged/kitchen/event",
        "edged/kitchen/stream/a1",
        "edged//request/generate",
        "edged/group/all/request/generate",
        "replyx",
    ],
)
def test_no_reply_goes_to_a_topic_outside_the_allow_list(topic: str) -> None:
    decoded = deliver({"prompt": "x", "response_topic": topic})
    assert isinstance(decoded, Dropped)
    assert decoded.reason is DropReason.FORBIDDEN_TOPIC


def test_a_wider_allow_list_still_keeps_discovery_and_requests_closed() -> None:
    wide = RequestDefaults(Topics("home/ai", "kitchen"), reply_prefixes=("",))
    topic = "home/ai/kitchen/request/generate"
    for forbidden in ("homeassistant", "homeassistant/x", "home/ai/other/request/generate"):
        assert isinstance(
            deliver("x", topic=topic, defaults=wide, response_topic=forbidden), Dropped
        )
    decoded = deliver("x", topic=topic, defaults=wide, response_topic="anything/else")
    assert decoded.reply_to.topic == "anything/else"


def test_reply_topics_under_the_own_prefix_are_allowed_unless_reserved() -> None:
    for allowed in ("edged/reply/panel", "edged/other/response/generate/ha", "reply/x", "edged/x"):
        assert deliver("x", response_topic=allowed).reply_to.topic == allowed


def test_the_own_response_topic_is_allowed_under_any_prefix() -> None:
    closed = RequestDefaults(Topics("home/ai", "kitchen"), reply_prefixes=())
    decoded = deliver("x", topic="home/ai/kitchen/request/generate", defaults=closed)
    assert decoded.reply_to.topic == "home/ai/kitchen/response/generate"


@pytest.mark.parametrize("topic", ["edged/other/request/generate", "x", "edged/kitchen/request/"])
def test_what_did_not_come_through_the_request_topic_is_dropped(topic: str) -> None:
    assert deliver("x", topic=topic).reason is DropReason.UNKNOWN_TOPIC


def test_a_cancel_names_its_target_by_id_text_or_correlation_data() -> None:
    topic = "edged/kitchen/request/cancel"
    assert deliver({"id": "a"}, topic=topic).reply_to.request_id == "a"
    assert deliver("a", topic=topic).reply_to.request_id == "a"
    target = deliver("", topic=topic, correlation_data=b"c").reply_to
    assert (target.request_id, target.correlation_data) == (None, b"c")
    assert message_of(deliver("two words", topic=topic)).startswith("payload: must be the id")
    assert message_of(deliver("{}", topic=topic)).startswith("id: must name the request")


def test_the_system_text_is_the_requests_else_the_configurations() -> None:
    configured = RequestDefaults(Topics("edged", "kitchen"), system="Be brief.")
    own = deliver({"prompt": "x", "system": "Be long."}, defaults=configured)
    assert own.messages[0] == ChatMessage("system", "Be long.")
    assert deliver("x", defaults=configured).messages[0] == ChatMessage("system", "Be brief.")
    none = deliver({"prompt": "x", "system": ""}, defaults=configured)
    assert none.messages == (ChatMessage("user", "x"),)
    turns = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "x"}]
    assert len(deliver({"messages": turns}, defaults=configured).messages) == 2
    assert message_of(deliver({"messages": turns, "system": "x"})).startswith(
        "system: `messages` has a"
    )


def test_a_node_can_refuse_system_texts() -> None:
    strict = RequestDefaults(Topics("edged", "kitchen"), is_system_allowed=False, system="Ours.")
    turns = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "x"}]
    for members in ({"prompt": "x", "system": "y"}, {"messages": turns}):
        message = message_of(deliver(members, defaults=strict))
        assert message == "system: this node's configuration allows no system text"
    assert deliver("x", defaults=strict).messages[0].content == "Ours."


def test_unknown_keys_are_reported_and_their_number_and_length_are_bounded() -> None:
    nested = ask(foo=1, format={"type": "text", "bar": 2})
    assert nested.ignored_keys == ("foo", "format.bar")
    turns = [{"role": "user", "content": "x", "name": "me"}]
    assert deliver({"messages": turns}).ignored_keys == ("messages[0].name",)
    many = ask(**{f"{i}{'k' * 100}": 1 for i in range(40)})
    assert len(many.ignored_keys) == 16
    assert all(len(key) == 64 for key in many.ignored_keys)
    assert deliver(r'{"prompt":"x","\ud800":1}').ignored_keys == ("?",)


def test_questions_are_taken_in_their_order_and_unknown_keys_in_them_reported() -> None:
    questions = {
        "b": {"choices": ["a", "b"], "ask": "Which?", "why": 1},
        "a": {"specialist": "lamp", "ask": None},
    }
    request = ask(questions=questions, stream=False, format=None)
    assert request.questions == (Question("b", None, ("a", "b"), "Which?"), Question("a", "lamp"))
    assert request.ignored_keys == ("questions.b.why",)


@pytest.mark.parametrize("is_scored", [True, False, None])
def test_a_choice_is_scored_where_its_probabilities_are_asked_for(is_scored: bool | None) -> None:
    request = ask(format=SCORED | {"probabilities": is_scored}, stream=False)
    assert request.format.is_scored is bool(is_scored)
    assert request.ignored_keys == ()


def test_a_single_stop_string_and_whole_floats_are_taken() -> None:
    request = ask(stop="END", max_tokens=3.0)
    assert (request.stop, request.max_tokens, request.is_length_given) == (("END",), 3, True)
    assert not ask().is_length_given
    assert ask(format={"type": "json_schema", "schema": True}).format.schema is True
    assert ask(format={"type": "text"}).format.type is FormatType.TEXT


def correct(members: dict[str, Any], **changes: Any) -> Any:
    defaults = replace(DEFAULTS, keeps_corrections=True, **changes)
    return deliver(members, topic="edged/kitchen/request/correct", defaults=defaults)


def test_a_correction_is_of_what_was_said_and_null_is_an_answer() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Light"},
        {"role": "assistant", "content": "Which?"},
        {"role": "user", "content": "the hall's"},
    ]
    taken = correct({"id": "c1", "specialist": "lamp", "messages": turns, "answer": None})
    address = ReplyAddress("edged/kitchen/response/correct", "c1")
    said = tuple(ChatMessage(turn["role"], turn["content"]) for turn in turns[1:])
    assert taken == Correction(address, "lamp", "Light\nWhich?\nthe hall's", None, said)
    told = correct({"specialist": "home", "prompt": "x", "answer": 1, "inputs": {"a": "b"}})
    assert isinstance(told, Correction)
    assert told.inputs == {"a": "b"}
    refused = correct(
        {"specialist": "home", "prompt": "x", "answer": 1, "inputs": {"a": "x" * 201}}
    )
    assert isinstance(refused, Refusal)
    assert refused.rejected.message.startswith("inputs.a: ")
    # A system message of the node's own is not what was said.
    request = {"specialist": "lamp", "prompt": "x", "answer": {"room": "hall"}}
    taken = correct(request, system="Be brief.", is_system_allowed=False)
    assert (taken.prompt, taken.answer) == ("x", {"room": "hall"})


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"prompt": "x", "answer": "on"}, "specialist: must name"),
        ({"prompt": "x", "answer": "on", "specialist": "LAMP"}, "specialist: must be the name"),
        ({"prompt": "x", "specialist": "lamp"}, "answer: is missing"),
        ({"answer": "on", "specialist": "lamp"}, "prompt: send either"),
        ({"prompt": " ", "answer": "on", "specialist": "lamp"}, "prompt: must not be empty"),
        ({"prompt": 3, "answer": "on", "specialist": "lamp"}, "prompt: must be a string"),
    ],
)
def test_a_correction_that_lacks_something_names_it(members: dict[str, Any], problem: str) -> None:
    assert correct(members).rejected.message.startswith(problem)


def test_plain_text_is_no_correction() -> None:
    defaults = replace(DEFAULTS, keeps_corrections=True)
    refused = deliver(b"on", topic="edged/kitchen/request/correct", defaults=defaults)
    assert refused.rejected.message.startswith("specialist: must name")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_more_user_properties_than_the_limit_are_refused_where_the_reply_was_asked_for(
    operation: str,
) -> None:
    topic, pair = f"edged/kitchen/request/{operation}", ("k", "v")
    defaults = replace(DEFAULTS, keeps_corrections=True)
    given: dict[str, Any] = {"topic": topic, "response_topic": "reply/me", "correlation_data": b"c"}
    request = {"id": "a1", "prompt": "x", "specialist": "lamp", "answer": "on"}
    given["defaults"] = defaults
    taken = deliver(request, user_properties=(pair,) * MAX_USER_PROPERTIES, **given)
    assert isinstance(taken, Request | CancelRequest | Correction)
    refused = deliver(request, user_properties=(pair,) * (MAX_USER_PROPERTIES + 1), **given)
    assert refused == Refusal(
        ReplyAddress("reply/me", "a1", b"c"),
        Rejected(ErrorCode.BAD_REQUEST, "user properties: at most 64 are accepted"),
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_longer_correlation_data_are_refused_and_do_not_come_back(operation: str) -> None:
    """They are kept until the broker has the reply, and nobody bounds how many there are."""
    given: dict[str, Any] = {
        "topic": f"edged/kitchen/request/{operation}",
        "response_topic": "reply/me",
        "defaults": replace(DEFAULTS, keeps_corrections=True),
    }
    request = {"id": "a1", "prompt": "x", "specialist": "lamp", "answer": "on"}
    longest = bytes(MAX_CORRELATION_BYTES)
    taken = deliver(request, correlation_data=longest, **given)
    assert isinstance(taken, Request | CancelRequest | Correction)
    assert taken.reply_to.correlation_data == longest
    message = (
        "Correlation Data: 1025 bytes; at most 1024 are accepted, and this reply is without them"
    )
    assert deliver(request, correlation_data=longest + b"x", **given) == Refusal(
        ReplyAddress("reply/me", "a1", None), Rejected(ErrorCode.BAD_REQUEST, message)
    )


def test_a_receipt_holds_little_of_a_long_topic() -> None:
    delivery = Delivery("edged/kitchen/request/" + "x" * 60_000, b"x" * 9, qos=1, packet_id=7)
    assert delivery.num_bytes > 60_000
    assert delivery.receipt.num_bytes == 256
    assert delivery.receipt.packet_id == 7


@given(st.dictionaries(KEYS, JSON_VALUES | st.just("hi"), max_size=8), st.binary(max_size=8))
def test_any_json_object_becomes_one_of_the_four_values(
    members: dict[str, Any], correlation: bytes
) -> None:
    for topic in (GENERATE, "edged/kitchen/request/cancel"):
        decoded = deliver(members, topic=topic, correlation_data=correlation)
        assert isinstance(decoded, Request | CancelRequest | Refusal | Dropped)
        if not isinstance(decoded, Dropped):
            assert decoded.reply_to.correlation_data == correlation


@given(
    st.binary(max_size=200) | st.text(alphabet='{}[]":,\\ue0dtnp', max_size=200).map(str.encode),
    st.sampled_from([None, "application/json", "text/plain"]) | st.text(max_size=20),
    st.none() | st.text(max_size=30),
)
def test_any_bytes_become_one_of_the_four_values(
    payload: bytes, content_type: str | None, response_topic: str | None
) -> None:
    decoded = deliver(payload, content_type=content_type, response_topic=response_topic)
    assert isinstance(decoded, Request | Refusal | Dropped)


@given(st.text() | st.just("\ud800x"), JSON_VALUES, st.text(max_size=5))
def test_a_reply_is_strict_json_and_reads_back_as_it_was(text: str, value: Any, key: str) -> None:
    outcome = Answer(text, FinishReason.LENGTH, value)
    sent = encode_reply(Reply(ReplyAddress("t", "a1"), outcome), node="n", model_id="m")
    members = json.loads(sent.payload.decode(), parse_constant=pytest.fail)
    received = decode_reply(sent.payload)
    assert received is not None
    assert received.members == members
    assert received.text == text.encode(errors="replace").decode()
    assert (received.request_id, received.finish_reason, received.is_ok) == ("a1", "length", True)


@given(st.sampled_from(ErrorCode), st.none() | st.floats(0, 1e6), st.text())
def test_a_refusal_reads_back_as_it_was(
    code: ErrorCode, retry_after_s: float | None, message: str
) -> None:
    detail = {"limit": 5, "code": "must not win"}
    rejected = Rejected(code, message, retry_after_s, detail)
    sent = encode_reply(Reply(ReplyAddress("t"), rejected), node="n", model_id="m")
    received = decode_reply(sent.payload)
    assert received is not None
    assert (received.code, received.is_retryable) == (code.value, code.is_retryable)
    assert received.message == message.encode(errors="replace").decode()
    if retry_after_s is None:
        assert received.retry_after_s is None
    else:
        assert received.retry_after_s == pytest.approx(retry_after_s, abs=0.001)
    assert received.members["error"]["limit"] == 5
    assert dict(sent.properties.user_properties) == {"status": str(code.status)}


def test_a_models_json_that_is_nested_too_deeply_is_cut_instead_of_raising() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = {"a": [deep]}
    sent = encode_reply(
        Reply(ReplyAddress("t"), Answer("", FinishReason.STOP, deep)), node="n", model_id="m"
    )
    assert b'"finish_reason":"stop"' in sent.payload


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b'{"status":"maybe"}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_reply_reads_as_none(payload: bytes) -> None:
    assert decode_reply(payload) is None
    assert decode_fragment(payload) is None


def test_a_client_reads_replies_of_other_versions_tolerantly() -> None:
    odd = decode_reply(b'{"v":9,"status":"error","data":7,"error":{"retry_after_ms":true},"x":1}')
    assert odd is not None
    assert (odd.code, odd.message, odd.text, odd.retry_after_s) == ("internal", "", "", None)
    bare = decode_reply(b'{"status":"ok"}')
    assert bare is not None
    assert (bare.is_ok, bare.code, bare.request_id) == (True, "", None)


def test_a_fragment_reads_back_as_it_was() -> None:
    sent = encode_fragment(Topics("edged", "k"), "a1", 3, "ü", is_done=True)
    received = decode_fragment(sent.payload)
    assert received is not None
    assert (received.request_id, received.sequence) == ("a1", 3)
    assert (received.delta, received.is_done) == ("ü", True)


def test_a_state_keeps_lists_and_turns_what_json_lacks_into_null() -> None:
    sent = encode_state(Topics("edged", "k"), {"a": [1.5, float("nan")], "v": 1})
    assert json.loads(sent.payload) == {"v": 1, "node": "k", "a": [1.5, None]}


def test_the_topics_of_a_node() -> None:
    topics = Topics("edged", "kitchen")
    assert topics.availability == "edged/kitchen/availability"
    own = "edged/kitchen/client/+/request/+"
    assert topics.request_filters == [own, "edged/kitchen/request/+"]
    assert topics.request("generate") == GENERATE
    assert (topics.info, topics.state, topics.event) == (
        "edged/kitchen/info",
        "edged/kitchen/state",
        "edged/kitchen/event",
    )
