"""What a writer is run with: its prompt, its grammar, and what a request may cost before that."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edged.bundle.folder import open_bundle
from edged.engine.decoding import Constraint
from edged.engine.tokenizer import Tokenizer
from edged.engine.writer_prompts import WriterPrompts, WritingError
from edged.errors import BundleError
from edged.protocol.request import ChatMessage
from edged.specialists.adapter import AdaptedModel, Adapter
from edged.specialists.demanded import Demands
from edged.specialists.folder import Result
from edged.specialists.writer import Writer, WriterDescription
from tests.tiny_model import STOP_TOKEN_ID, write_tiny_bundle

VOCAB_SIZE = 296
MAX_MODEL_LEN = 2048
RESULT = Result(0.9, 0.8, 0.95, 0.02, 40, 0.95, 0.8, 0.97, None)
BASE = AdaptedModel("0" * 64, "1" * 64, "int8-w8a8/static/int8")
ROOM = {"type": "string", "x-inputs": {"list": "rooms", "value": "id", "say": "name"}}
SCHEMA = {"type": "object", "properties": {"room": ROOM}, "required": ["room"]}
ITEM = {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}
HALL = {"rooms": [{"id": "1", "name": "hall"}, {"id": "2", "name": "hallway"}]}
SAID = (ChatMessage("system", "Be brief."), ChatMessage("user", "the hall"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(open_bundle(write_tiny_bundle(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture
def prompts(tokenizer: Tokenizer) -> WriterPrompts:
    return WriterPrompts(tokenizer, MAX_MODEL_LEN)


def writer(schema: object = SCHEMA, template: str = "Say it.", **changes: Any) -> Writer:  # noqa: ANN401
    text = json.dumps(schema) if schema else ""
    description = WriterDescription(
        1,
        "rooms",
        BASE,
        template,
        text,
        False,
        False,
        (),
        Demands(),
        1.0,
        0.0,
        0.0,
        RESULT,
        "",
        0.0,
    )
    description = replace(description, **changes)
    return Writer(description, description.wording, Adapter("key", {}))


def says(tokenizer: Tokenizer, constraint: Constraint | None, text: str) -> bool:
    """Tell whether an answer may be this text."""
    assert constraint is not None
    for token_id in [*tokenizer.encode(text), STOP_TOKEN_ID]:
        logits = np.zeros(VOCAB_SIZE, np.float32)
        if constraint.is_complete:
            return token_id == STOP_TOKEN_ID
        constraint.allowed(logits)
        if not np.isfinite(logits[token_id]):
            return False
        constraint.advance(token_id)
    return True


def test_the_prompt_is_the_template_and_what_was_said(
    tokenizer: Tokenizer, prompts: WriterPrompts
) -> None:
    """The writer's own system text takes the place of the request's."""
    template = "Rooms: {% for room in inputs.rooms %}{{ room.name }} {% endfor %}"
    found = prompts.prepare(writer(template=template), SAID, HALL)
    told = ChatMessage("system", "Rooms: hall hallway ")
    assert found.prompt_ids == tokenizer.encode_chat([told, SAID[1]])
    empty = prompts.prepare(writer(template=""), SAID, HALL)
    assert empty.prompt_ids == tokenizer.encode_chat([SAID[1]])


def test_only_what_comes_with_the_request_can_be_said(
    tokenizer: Tokenizer, prompts: WriterPrompts
) -> None:
    for name, expected in (("hall", True), ("hallway", True), ("attic", False)):
        constraint = prompts.prepare(writer(), SAID, HALL).constraint
        assert says(tokenizer, constraint, f"room={name}") is expected


def test_a_text_has_no_grammar_and_json_has_its_schemas(
    tokenizer: Tokenizer, prompts: WriterPrompts
) -> None:
    assert prompts.prepare(writer(None), SAID, {}).constraint is None
    held = prompts.prepare(writer({"$ref": "#/$defs/a", "$defs": {"a": {"enum": [7]}}}), SAID, {})
    assert says(tokenizer, held.constraint, "7")


@pytest.mark.parametrize(
    ("inputs", "says_"),
    [
        ({}, "inputs.rooms: must be a list of at most 256"),
        ({"rooms": []}, "inputs: with these, nothing can be answered"),
        ({"rooms": [{"id": "1", "name": 7}]}, "inputs.rooms: name must be a text"),
        ({"rooms": [{"id": "1", "name": "x"}], "n": "a"}, "inputs: the specialist's template"),
    ],
)
def test_what_the_writer_cannot_use_is_named(
    prompts: WriterPrompts, inputs: dict[str, Any], says_: str
) -> None:
    asked = writer(template="{{ 1 / (inputs.n | default(1)) if inputs.n else '' }}")
    with pytest.raises(WritingError, match=f"^{says_}"):
        prompts.prepare(asked, SAID, inputs)


def test_inputs_whose_grammar_would_be_too_large_are_refused(prompts: WriterPrompts) -> None:
    options = [
        {
            "type": "object",
            "properties": {"kind": {"const": f"kind{index}"}, "room": ROOM, "other": ROOM},
            "required": ["kind", "room", "other"],
        }
        for index in range(60)
    ]
    rooms = [{"id": str(index), "name": f"{index} " + "ab" * 45} for index in range(250)]
    asked = writer({"anyOf": options}, template="")
    with pytest.raises(WritingError, match=r"^inputs: the answers that they allow are too many"):
        prompts.prepare(asked, SAID, {"rooms": rooms})


def test_a_prompt_that_does_not_fit_gets_no_grammar(prompts: WriterPrompts) -> None:
    """It is refused for its length, whatever its inputs are."""
    said = [ChatMessage("user", "hall " * MAX_MODEL_LEN)]
    found = prompts.prepare(writer(), said, {})
    assert len(found.prompt_ids) >= MAX_MODEL_LEN
    assert found.constraint is None


def test_of_a_long_prompt_any_value_may_be_said(
    tokenizer: Tokenizer, prompts: WriterPrompts
) -> None:
    asked = writer(ITEM, template="", grounded=(".item",))
    short = prompts.prepare(asked, [ChatMessage("user", "buy milk")], {}).constraint
    assert not says(tokenizer, short, "item=eggs")
    # The grammar of all that it says would be too large.
    held = prompts.constraint(asked.wording, {}, " ".join(f"number-{n:08}," for n in range(250)))
    assert says(tokenizer, held, "item=eggs")


def test_of_a_long_dialogue_the_last_words_may_be_answered(
    tokenizer: Tokenizer, prompts: WriterPrompts
) -> None:
    asked = writer(ITEM, template="", grounded=(".item",))
    said = "buy eggs" + "\nno" * 256 + "\nbuy milk"
    held = prompts.constraint(asked.wording, {}, said)
    assert says(tokenizer, held, "item=milk")
    assert not says(tokenizer, held, "item=eggs")


def test_a_writer_without_a_template_or_schema_that_can_be_used_is_refused(
    prompts: WriterPrompts,
) -> None:
    prompts.check(writer())
    with pytest.raises(BundleError, match="template, line 1"):
        prompts.check(writer(template="{% for"))
    with pytest.raises(BundleError, match="schema: "):
        prompts.check(writer({"$ref": "#/nowhere"}))


def test_templates_that_are_kept_are_a_few(prompts: WriterPrompts) -> None:
    for index in range(200):
        prompts.check(writer(template=f"{index}"))
    assert len(prompts._templates) <= 64
