"""Prepare what a specialist writes: its prompt in tokens, and the grammar of its answers.

Rule: the specialist and the inputs are strangers'. Each step is bounded before it is taken, and an
error names the key of the request.
"""

from collections.abc import Sequence
from typing import NamedTuple

from edged.engine.choosing import ChoosingConstraint
from edged.engine.grammar import FormatError, GrammarConstraint, compile_format, compile_grammar
from edged.engine.tokenizer import Tokenizer
from edged.engine.tokenizer.inputs_template import InputsTemplate, InputsTemplateError
from edged.errors import BundleError
from edged.protocol.request import ChatMessage, FormatType, OutputFormat
from edged.specialists.compact.named import InputsError
from edged.specialists.compact.shapes import TOO_MANY, AnswerError, Inputs
from edged.specialists.wording import Wording, WordingKind
from edged.specialists.writer import Writer, heard

_MAX_TEMPLATES = 64


class WritingError(ValueError):
    """A request cannot be written an answer to; the message names its key."""


class Prompted(NamedTuple):
    """What the engine is given for an answer."""

    prompt_ids: list[int]
    constraint: GrammarConstraint | ChoosingConstraint | None
    """The second where the writer has a head for its choices."""


class WriterPrompts:
    """Prepares requests to the writers of one model; for one thread at a time.

    Args:
        tokenizer: Of the bundle.
        max_model_len: Tokens of prompt and answer, at most.
    """

    def __init__(self, tokenizer: Tokenizer, max_model_len: int) -> None:
        self._tokenizer, self._max_model_len = tokenizer, max_model_len
        self._templates: dict[str, InputsTemplate] = {}

    def check(self, writer: Writer) -> None:
        """Refuse a writer that no request could be prepared for.

        Raises:
            BundleError: Its template or its schema is none.
        """
        self._template(writer.description.template)
        if writer.wording.kind is WordingKind.JSON:
            try:
                self.constraint(writer.wording, {}, "")
            except FormatError as error:
                raise BundleError(f"schema: {error}") from error

    def prepare(self, writer: Writer, messages: Sequence[ChatMessage], inputs: Inputs) -> Prompted:
        """Return the prompt and the constraint of an answer; blocks for some 10 ms.

        Args:
            writer: Who answers.
            messages: Of the request; a system text among them is left out.
            inputs: Of the request.

        Raises:
            WritingError: The inputs are not what the writer needs, or too much.
            TemplateError: The chat template refuses the messages.
        """
        try:
            prompt_ids = self.encode(writer.description.template, messages, inputs)
            if len(prompt_ids) >= self._max_model_len:  # it is refused, and costs nothing more
                return Prompted(prompt_ids, None)
            constraint = self.constraint(writer.wording, inputs, heard(messages))
        except (InputsError, InputsTemplateError, AnswerError) as error:
            raise WritingError(str(error)) from error
        except FormatError as error:
            raise WritingError(TOO_MANY) from error
        if writer.choice is None or constraint is None:
            return Prompted(prompt_ids, constraint)
        return Prompted(prompt_ids, ChoosingConstraint(constraint, self._tokenizer))

    def encode(self, template: str, messages: Sequence[ChatMessage], inputs: Inputs) -> list[int]:
        """Return the prompt in tokens: what the template says, then the messages.

        Raises:
            InputsTemplateError: The template fails on the inputs.
            TemplateError: The chat template refuses the messages.
        """
        system = self._template(template).render(inputs)
        before = [ChatMessage("system", system)] if system else []
        said = [message for message in messages if message.role != "system"]
        return self._tokenizer.encode_chat([*before, *said])

    def constraint(
        self, wording: Wording, inputs: Inputs, said: str | None
    ) -> GrammarConstraint | None:
        """Return what holds an answer to its form; None where it is a text.

        Raises:
            AnswerError: There is nothing to say with these inputs.
            InputsError: The inputs are not what the schema needs.
            FormatError: It would be larger than a grammar may be.
        """
        if wording.kind is WordingKind.JSON and isinstance(wording.schema, dict):
            schema = OutputFormat(FormatType.JSON_SCHEMA, wording.schema)
            return compile_format(self._tokenizer, schema)
        is_heard = bool(wording.grounded) and said is not None
        grammar = wording.grammar(inputs, said)
        if grammar is None:
            return None
        try:
            return compile_grammar(self._tokenizer, grammar)
        except FormatError:
            unheard = wording.grammar(inputs) if is_heard else None
            if unheard is None:
                raise
            # Its words make too many values that could be said: then any value will do.
            return compile_grammar(self._tokenizer, unheard)

    def _template(self, source: str) -> InputsTemplate:
        found = self._templates.get(source)
        if found is None:
            if len(self._templates) == _MAX_TEMPLATES:
                self._templates.clear()
            found = self._templates[source] = InputsTemplate(source)
        return found
