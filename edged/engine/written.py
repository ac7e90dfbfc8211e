"""Answers of a writer outside of a node: one at a time, with the bits that a node gives."""

from edged.engine.loop import Engine
from edged.engine.steps import PromptOrigin, Token
from edged.engine.tokenizer import Tokenizer
from edged.engine.writing import WriterPrompts
from edged.protocol.request import SamplingParams
from edged.specialists.writer import Writer
from edged.specialists.written import Asked, Written, WrittenText, judged

MAX_ANSWER_TOKENS = 256


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
        return judged(asked, self._writer.wording, self._text(asked))

    def _text(self, asked: Asked) -> WrittenText:
        prompted = self._prompts.prepare(self._writer, asked.messages, asked.dialogue.inputs)
        engine, detokenizer = self._engine, self._tokenizer.detokenizer()
        decoding = engine.start(
            prompted.prompt_ids,
            SamplingParams(),
            max_tokens=MAX_ANSWER_TOKENS,
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
