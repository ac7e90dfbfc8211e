"""Answers of a writer outside of a node: one at a time, with the bits that a node gives."""

from collections.abc import Sequence

from edged.engine.choosing import ChoosingConstraint
from edged.engine.loop import Engine
from edged.engine.steps import PromptOrigin, Token
from edged.engine.tokenizer import Tokenizer
from edged.engine.writer_prompts import WriterPrompts
from edged.protocol.request import ChatMessage, SamplingParams
from edged.specialists.choice import said_last
from edged.specialists.compact.shapes import Inputs
from edged.specialists.features import VIEWS, Layout, Template
from edged.specialists.head import Floats
from edged.specialists.writer import Writer
from edged.specialists.written import Asked, Written, WrittenText, judged


class LastReader:
    """Reads what was said last, for the head of a choice.

    Args:
        engine: Of the bundle, with a slot for a prefix.
        tokenizer: Of the bundle.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._engine, self.layout = engine, Layout(*engine.hidden_shape)
        self._template = Template(tokenizer.encode, tokenizer.beginning_ids)
        before = self._template.before_ids
        has_layers = all(one < self.layout.num_layers for view in VIEWS for _, one in view)
        self.is_possible = has_layers and 2 * len(before) < engine.max_model_len
        """Whether the model has the hidden states, and room for a prompt in the template."""
        if self.is_possible:
            engine.make_prefix(before)

    def read(self, text: str) -> Floats:
        """Return the features of a text; blocks for some 30 ms.

        Raises:
            ValueError: It is longer than the context, or the graph gives no hidden states.
        """
        ids, pooling = self._template.prompt(text, self.layout.width)
        self._engine.read(ids, pooling)
        return pooling.features()


class WriterRunner:
    """A writer on its base.

    Args:
        engine: Of the bundle, with one slot or more.
        tokenizer: Of the bundle.
        writer: Made for the bundle.
        reader: For the head of its choices; None where it has none.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        writer: Writer,
        reader: LastReader | None = None,
    ) -> None:
        self._engine, self._tokenizer, self._writer = engine, tokenizer, writer
        self._prompts = WriterPrompts(tokenizer, engine.max_model_len)
        self._reader = reader

    def answer(self, asked: Asked) -> Written:
        """Return what is answered to a prompt; blocks until then.

        Raises:
            WritingError: The inputs are not what the writer needs.
            TemplateError: The chat template refuses the messages.
            ValueError: The prompt is longer than the context.
        """
        found = self.write(asked.messages, asked.dialogue.inputs)
        return judged(asked, self._writer.wording, found)

    def write(self, messages: Sequence[ChatMessage], inputs: Inputs) -> WrittenText:
        """Return what is written to a prompt; blocks and raises as ``answer``."""
        prompted = self._prompts.prepare(self._writer, messages, inputs)
        choice, constraint = self._writer.choice, prompted.constraint
        if choice and self._reader and isinstance(constraint, ChoosingConstraint):
            features = self._reader.read(said_last(messages))
            constraint.prefer(choice.preferences(features))
        engine, detokenizer = self._engine, self._tokenizer.detokenizer()
        decoding = engine.start(
            prompted.prompt_ids,
            SamplingParams(),
            max_tokens=self._writer.description.max_tokens,
            constraint=constraint,
            origin=PromptOrigin(adapter=self._writer.adapter),
        )
        text, log_probability, is_stopped = "", 0.0, False
        try:
            while not decoding.is_over:
                for step in engine.step().outcomes[decoding]:
                    if isinstance(step, Exception):
                        raise step
                    if isinstance(step, Token):
                        log_probability += step.log_probability
                        is_stopped = step.is_stop
                        text += "" if is_stopped else detokenizer.push(step.token_id)
        finally:
            engine.end(decoding)
        is_ended = is_stopped or (constraint is not None and constraint.is_complete)
        return WrittenText(text + detokenizer.flush(), log_probability, is_ended)
