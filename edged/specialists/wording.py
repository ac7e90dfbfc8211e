"""How the answers of a specialist are written: as text, as JSON, or in the compact form.

Three steps that belong together: ``write`` makes of an answer the text that is taught, a grammar
holds what is decoded to such texts, and ``read`` makes the answer of a decoded text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from edged.protocol.answer_json import read_answer
from edged.specialists.compact.named import ReadInputs
from edged.specialists.compact.schemas import shape_of, tools_shape
from edged.specialists.compact.shapes import (
    AmbiguousError,
    AnswerError,
    Inputs,
    Shape,
    ShapeError,
)
from edged.specialists.demanded import Demands, demands_of, with_demands
from edged.specialists.devices.command import form_of
from edged.specialists.devices.meaning import HomeMeaning, home_services
from edged.specialists.grounding import PROMPT, grounded_keys, with_grounding
from edged.specialists.hearing import Heard

MAX_TEXT_CHARACTERS = 4096
_AMBIGUOUS, _HOME = "x-ambiguous", "x-home"


class WordingKind(StrEnum):
    """The forms of answers."""

    TEXT = "text"
    JSON = "json"
    COMPACT = "compact"


@dataclass(frozen=True, slots=True)
class Wording:
    """The form of a specialist's answers."""

    kind: WordingKind
    schema: Mapping[str, Any] | Sequence[Any] | None = None
    """JSON Schema, or OpenAI's list of functions; None of texts."""
    shape: Shape | None = None
    """Of the compact form."""
    grounded: tuple[str, ...] = ()
    """Keys of fields whose values stand in the prompt (``grounding``)."""
    demands: Demands = field(default_factory=Demands)
    """What is answered wherever a prompt says it; of grounded fields only."""
    home: HomeMeaning | None = None
    """What makes actions of what is written: ``x-home`` of the schema."""
    ambiguous: Any = None
    """The answer where what was said names several things: ``x-ambiguous`` of the schema."""

    def write(self, answer: Any, inputs: Inputs | None = None) -> str:  # noqa: ANN401 - of JSON
        """Return the text that is taught for an answer.

        Raises:
            AnswerError: It is not what the schema allows.
            InputsError: The inputs are not what the schema needs.
        """
        if self.kind is WordingKind.TEXT:
            if not isinstance(answer, str) or not 0 < len(answer) <= MAX_TEXT_CHARACTERS:
                raise AnswerError(f": must be a text of 1 to {MAX_TEXT_CHARACTERS} characters")
            return answer
        if self.shape is None:
            return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        return self.shape.write(answer, ReadInputs(inputs or {}))

    def read(self, text: str, inputs: Inputs | None = None, prompt: str = "") -> Any:  # noqa: ANN401 - of JSON
        """Return the answer that a decoded text is.

        Args:
            text: As it was decoded.
            inputs: Of the request.
            prompt: All that was said, for what commands for a home leave open.

        Raises:
            AnswerError: It is none, ``AmbiguousError`` where it names several things.
            InputsError: The inputs are not what the schema needs.
            AmbiguousError: It names several things.
        """
        try:
            value = self.parsed(text, inputs)
        except AmbiguousError:
            if self.ambiguous is None:
                raise
            return self.ambiguous
        return value if self.home is None else self.home.actions(value, inputs or {}, prompt)

    def parsed(self, text: str, inputs: Inputs | None = None) -> Any:  # noqa: ANN401 - of JSON
        """Return what a decoded text says, of which ``write`` makes this text again.

        Raises:
            AnswerError: It says nothing.
            InputsError: The inputs are not what the schema needs.
            AmbiguousError: It names several things.
        """
        if self.kind is WordingKind.TEXT:
            return text
        if self.shape is None:
            try:
                return read_answer(text)
            except (ValueError, RecursionError) as error:
                raise AnswerError(": is not JSON") from error
        return self.shape.read(text, ReadInputs(inputs or {}))

    def grammar(self, inputs: Inputs | None = None, prompt: str | None = None) -> str | None:
        """Return the Lark grammar of the compact form; None of the other forms.

        Args:
            inputs: Of the request.
            prompt: All that was said, without the template; None allows what was not said, too.

        Raises:
            AnswerError: There is nothing to say with these inputs, or far too much.
            InputsError: The inputs are not what the schema needs.
        """
        if self.shape is None:
            return None
        if self.home is not None:
            self.home.check(inputs or {})
        if prompt is None or not self.grounded:
            return lark(self.shape, inputs or {})
        held = with_grounding(self.shape, self.grounded)
        heard = Heard(prompt)
        held = with_demands(held, self.demands, heard)
        try:
            return lark(held, {**(inputs or {}), PROMPT: heard})
        except AnswerError:
            return lark(self.shape, inputs or {})


def lark(shape: Shape, inputs: Inputs) -> str:
    """Return the grammar of everything that a shape can say.

    It is one terminal: between terminals llguidance takes the longest match, and a name could not
    end where a longer one begins with it.

    Raises:
        AnswerError: There is nothing to say with these inputs, or far too much.
    """
    pattern = shape.pattern(ReadInputs(inputs))
    if pattern is None:
        raise AnswerError("inputs: with these, nothing can be answered")
    return f"start: ANSWER\nANSWER: /{pattern}/\n"


def grounded(wording: Wording, answers: Sequence[tuple[Any, str]]) -> Wording:
    """Return the wording that allows, of what always stood in the prompt, nothing else.

    What was always answered where the prompt said it, is required.

    Args:
        wording: Of the examples.
        answers: Of the examples, with all that was said before.
    """
    if wording.shape is None:
        return wording
    keys = grounded_keys(wording.shape, answers)
    demands = demands_of(wording.shape, answers).of(keys)
    return replace(wording, grounded=tuple(keys), demands=demands)


TEXT = Wording(WordingKind.TEXT)


def wording_of_schema(schema: Mapping[str, Any]) -> tuple[Wording, str | None]:
    """Return how answers of a schema are written, and why not in the compact form, if not so."""
    if _HOME in schema:
        return _wording_of_home(schema), None
    ambiguous = schema.get(_AMBIGUOUS)
    kept = {key: value for key, value in schema.items() if key != _AMBIGUOUS}
    try:
        return Wording(WordingKind.COMPACT, schema, shape_of(kept), ambiguous=ambiguous), None
    except ShapeError as error:
        return Wording(WordingKind.JSON, schema), str(error)


def _wording_of_home(schema: Mapping[str, Any]) -> Wording:
    """Return how commands for a home are written.

    Raises:
        ShapeError: The services are no list of functions.
    """
    if schema.keys() != {_HOME}:
        raise ShapeError(f".{_HOME}: nothing may stand beside it")
    services = home_services(schema[_HOME])
    home = HomeMeaning(services)  # first: what has a shape can be joined
    return Wording(WordingKind.COMPACT, schema, shape_of(form_of(services)), home=home)


def wording_of_tools(tools: object, answers: Sequence[Any]) -> Wording:
    """Return how calls of functions are written.

    Raises:
        ShapeError: The functions are none, or their parameters have no compact form.
    """
    is_list = any(isinstance(one, list) for one in answers)
    has_text = any(isinstance(one, str) for one in answers)
    shape = tools_shape(tools, is_list=is_list, has_text=has_text)
    return Wording(WordingKind.COMPACT, tools if isinstance(tools, list) else None, shape)
