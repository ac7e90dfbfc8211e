"""What comes with a request to a specialist that writes: what is taken, and what its bounds are."""

import json
from typing import Any

import pytest

from edged.protocol.decode import DecodedMessage, decode
from edged.protocol.inputs import check_inputs
from edged.protocol.keys import MAX_INPUT_LENGTH, MAX_INPUTS_ITEMS, MAX_INPUTS_VALUES
from edged.protocol.request import Request
from edged.protocol.wire import Delivery, Refusal, RequestDefaults, Topics

DEFAULTS = RequestDefaults(Topics("edged", "kitchen"), max_payload_bytes=1 << 20)
HOME = {
    "area": "Office",
    "devices": [{"id": "light.desk", "name": "Desk lamp", "area": None, "level": 0.5, "on": True}],
}


def ask(**members: object) -> DecodedMessage:
    payload = json.dumps({"prompt": "x"} | members).encode()
    return decode(Delivery("edged/kitchen/request/generate", payload), DEFAULTS, 0.0)


def test_inputs_are_taken_as_they_are() -> None:
    found = ask(specialist="home", inputs=HOME)
    assert isinstance(found, Request)
    assert found.inputs == HOME
    assert found.ignored_keys == ()
    for given in ({}, {"inputs": None}):
        plain = ask(**given)
        assert isinstance(plain, Request)
        assert plain.inputs == {}


def nested(depth: int) -> Any:  # noqa: ANN401
    return [nested(depth - 1)] if depth else "x"


NAMES = "a name must be 1 to 64 characters of A-Z a-z 0-9 _, not starting with a digit"


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ([], "inputs: must be an object, got an array"),
        ("x", "inputs: must be an object, got a string"),
        ({"": 1}, f"inputs: {NAMES}"),
        ({"1st": 1}, f"inputs: {NAMES}"),
        ({"a": {"b c": 1}}, f"inputs.a: {NAMES}"),
        ({"a" * 65: 1}, "inputs: a name must be"),
        ({"a": nested(4)}, "inputs.a[0][0][0]: nested deeper than 4 levels"),
        (
            {"a": ["x"] * (MAX_INPUTS_ITEMS + 1)},
            "inputs.a: must have at most 256 items, got 257",
        ),
        ({f"a{n}": 1 for n in range(257)}, "inputs: must have at most 256 items, got 257"),
        (
            {"a": [{"name": "x" * (MAX_INPUT_LENGTH + 1)}]},
            "inputs.a[0].name: must have 1 to 200 characters, got 201",
        ),
        ({"a": "\0"}, "inputs.a: must not contain NUL (U+0000)"),
        ({"a": "\ud800"}, "inputs.a: must not contain half of a surrogate pair"),
        (
            {f"a{n}": [1] * 255 for n in range(MAX_INPUTS_VALUES // 256)} | {"b": 1},
            "inputs: more than 4096 values; send fewer",
        ),
        (
            {"a": ["x" * MAX_INPUT_LENGTH] * 170},
            "inputs: 34687 characters of JSON; at most 32768 are accepted",
        ),
    ],
)
def test_what_is_too_much_is_refused_and_its_key_named(inputs: object, problem: str) -> None:
    found = ask(specialist="home", inputs=inputs)
    assert isinstance(found, Refusal)
    assert found.rejected.message.startswith(problem)


@pytest.mark.parametrize("specialist", [None, "auto"])
def test_inputs_need_a_specialist_that_is_named(specialist: str | None) -> None:
    found = ask(specialist=specialist, inputs={})
    assert isinstance(found, Refusal)
    expected = "inputs: are for a `specialist` that is named; leave them out"
    assert found.rejected.message == expected


def test_the_deepest_and_the_widest_that_is_accepted() -> None:
    for inputs in ({"a": nested(3)}, {"a": ["x"] * MAX_INPUTS_ITEMS, "b": "", "c": "x" * 200}):
        assert check_inputs(inputs) == inputs
