"""Answers of a writer outside of a node: one at a time, with the bits that a node gives."""

from collections.abc import Sequence

from edged.engine.loop import Engine
from edged.engine.steps import PromptOrigin, Token
from edged.engine.tokenizer import Tokenizer
from edged.engine.writing import WriterPrompts
from edged.protocol.request import ChatMessage, SamplingParams
from edged.specialists.compact.shapes import Inputs
from edged.specialists.writer import Writer
from edged.specialists.written import Asked, Written, WrittenText, judged


class WriterRunner:
    """A writer on its base.

    Args:
        engine: Of the bundle, with one slot or more.
        tokenizer: Of the bundle.
        writer: Made for the bundle.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, writer: Writer) -> None:
        self._engine, self._tokenizer, self._writer = engine, tokenizer, writer
        self._prompts = WriterPrompts(tokenizer, engine.max_model_len)

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
        engine, detokenizer = self._engine, self._tokenizer.detokenizer()
        decoding = engine.start(
            prompted.prompt_ids,
            SamplingParams(),
            max_tokens=self._writer.description.max_tokens,
            constraint=prompted.constraint,
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
        constraint = prompted.constraint
        is_ended = is_stopped or (constraint is not None and constraint.is_complete)
        return WrittenText(text + detokenizer.flush(), log_probability, is_ended)
