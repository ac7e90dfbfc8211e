"""The compact form held to its grammar, token by token."""

import random
from typing import Any

import numpy as np
import pytest

from edged.bundle.folder import open_bundle
from edged.engine.grammar import FormatError, compile_grammar
from edged.engine.tokenizer import Tokenizer
from edged.specialists.compact.schemas import shape_of, tools_shape
from edged.specialists.compact.shapes import Shape
from edged.specialists.wording import lark
from tests.tiny_model import STOP_TOKEN_ID, write_tiny_bundle

VOCAB_SIZE = 296


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(open_bundle(write_tiny_bundle(tmp_path_factory.mktemp("tiny"))))


def allows(tokenizer: Tokenizer, grammar: str, text: str) -> bool:
    """Tell whether a text may be said, and may end there."""
    constraint = compile_grammar(tokenizer, grammar)
    for token_id in [*tokenizer.encode(text), STOP_TOKEN_ID]:
        logits = np.zeros(VOCAB_SIZE, np.float32)
        constraint.allowed(logits)
        if not np.isfinite(logits[token_id]):
            return False
        if token_id != STOP_TOKEN_ID:
            constraint.advance(token_id)
    return True


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set",
            "parameters": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "enum": ["Lamp", "Lamp 2", "Lamp level"]},
                    "level": {"type": "integer", "minimum": -5, "maximum": 100},
                    "item": {"type": "string"},
                    "share": {"type": "number", "minimum": 0, "maximum": 1},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "setup"}},
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A name may end where a longer one goes on, with or without another field behind it.
        ("set name=Lamp", True),
        ("set name=Lamp level=7", True),
        ("set name=Lamp 2 level=7", True),
        ("set name=Lamp level", True),
        ("set name=Lamp level level=100", True),
        ("set item=oat milk share=0.5", True),
        ('set item="a=b, \\"c\\" \\u00e9/\\/"', True),
        ("setup", True),
        ("set", True),
        ("set name=Lam", False),
        ("set level=101", False),
        ("set level=-6", False),
        ("set level=07", False),
        ("set share=1.5", False),
        ("set item=a=b", False),
        ("set item=a  b", False),
        ("set level=7 name=Lamp", False),
        ("setup name=Lamp", False),
        ("", False),
    ],
)
def test_what_can_be_said_is_what_can_be_read(
    tokenizer: Tokenizer, text: str, expected: bool
) -> None:
    shape = tools_shape(TOOLS)
    assert allows(tokenizer, lark(shape, {}), text) is expected
    if expected:
        assert shape.write(shape.read(text, {}), {})


def home(num_devices: int) -> tuple[Shape, dict[str, Any]]:
    rng = random.Random(3)
    words = ["desk", "lamp", "left", "right", "new", "old", "ceiling", "porch", "garden", "tall"]
    domains = ("light", "cover", "fan", "lock", "climate")
    devices = [
        {"id": f"{domains[i % 5]}.x{i}", "name": " ".join(rng.sample(words, 3)), "area": "Office"}
        for i in range(num_devices)
    ]
    lines = [
        {
            "type": "object",
            "properties": {
                "service": {"const": f"{domains[index % 5]}.service_{index}"},
                "target": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "string",
                        "x-inputs": {
                            "list": "devices",
                            "value": "id",
                            "say": "name",
                            "where": {"id": f"{domains[index % 5]}.*"},
                        },
                    },
                },
                "data": {
                    "type": "object",
                    "properties": {"position": {"type": "integer"}, "item": {"type": "string"}},
                },
            },
            "required": ["service", "target", "data"],
        }
        for index in range(30)
    ]
    actions = {"type": "array", "maxItems": 8, "items": {"anyOf": lines}}
    schema = {"type": "object", "properties": {"actions": actions}, "required": ["actions"]}
    return shape_of(schema), {"devices": devices}


def test_many_devices_and_services_stay_within_the_limits(tokenizer: Tokenizer) -> None:
    shape, inputs = home(60)
    action = {"service": "light.service_0", "target": ["light.x0", "light.x55"], "data": {}}
    put = {"service": "cover.service_1", "target": ["cover.x1"], "data": {"item": "a, b"}}
    assert allows(tokenizer, lark(shape, inputs), shape.write({"actions": [action, put]}, inputs))


def test_what_is_no_grammar_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(FormatError, match="grammar: "):
        compile_grammar(tokenizer, "start: (")
