"""Answers of a taught model in torch, held to the grammar as the node holds them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edged.builder.writer_prompts import Asked
from edged.engine.grammar import GrammarConstraint, compile_format, compile_grammar
from edged.engine.tokenizer import Tokenizer
from edged.protocol.request import FormatType, OutputFormat
from edged.specialists.compact.shapes import AnswerError, same
from edged.specialists.wording import Wording, WordingKind

MAX_ANSWER_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Written:
    """What was answered to a prompt."""

    asked: Asked
    text: str
    log_probability: float
    """Of the whole answer, among what the grammar allows."""
    is_valid: bool
    is_right: bool


class Answerer:
    """Writes answers greedily.

    Args:
        model: With its adapters.
        tokenizer: Of the bundle.
        wording: How answers are written.
        max_tokens: Of an answer.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - transformers' class
        tokenizer: Tokenizer,
        wording: Wording,
        max_tokens: int = MAX_ANSWER_TOKENS,
    ) -> None:
        self._model, self._tokenizer, self._wording = model, tokenizer, wording
        self._max_tokens = max_tokens
        self._vocab_size = int(model.config.vocab_size)

    def answers(
        self, asked: Sequence[Asked], note: Callable[[float], None] | None = None
    ) -> list[Written]:
        """Return the answers to prompts."""
        found = []
        for index, one in enumerate(asked):
            found.append(self.answer(one))
            if note is not None:
                note((index + 1) / len(asked))
        return found

    def answer(self, asked: Asked) -> Written:
        """Return the answer to a prompt."""
        ids, log_probability, is_ended = self._decode(asked)
        detokenizer = self._tokenizer.detokenizer()
        text = "".join(map(detokenizer.push, ids)) + detokenizer.flush()
        inputs = asked.dialogue.inputs
        right = self._wording.read(asked.text, inputs)
        try:
            value = self._wording.read(text, inputs)
        except AnswerError:
            return Written(asked, text, log_probability, is_valid=False, is_right=False)
        is_right = is_ended and same(value, right)
        return Written(asked, text, log_probability, is_valid=is_ended, is_right=is_right)

    def _constraint(self, asked: Asked) -> GrammarConstraint | None:
        grammar = self._wording.grammar(asked.dialogue.inputs, asked.heard)
        if grammar is not None:
            return compile_grammar(self._tokenizer, grammar)
        if self._wording.kind is WordingKind.JSON and isinstance(self._wording.schema, dict):
            schema = OutputFormat(FormatType.JSON_SCHEMA, self._wording.schema)
            return compile_format(self._tokenizer, schema)
        return None

    def _decode(self, asked: Asked) -> tuple[list[int], float, bool]:
        with torch.inference_mode():
            return self._decoded(asked)

    def _decoded(self, asked: Asked) -> tuple[list[int], float, bool]:
        constraint = self._constraint(asked)
        ids: list[int] = []
        total, cache, unread = 0.0, None, list(asked.ids)
        while len(ids) < self._max_tokens:
            logits = np.zeros(self._vocab_size, np.float32)
            # What is left one way to say takes no run of the model.
            chosen = _only(logits, constraint)
            if chosen is None:
                output = self._model(
                    input_ids=torch.tensor([unread]),
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache, unread = output.past_key_values, []
                logits = output.logits[0, -1].float().numpy()
                if constraint is not None:
                    constraint.allowed(logits)
                chosen = int(logits.argmax())
                total -= math.log(np.exp(logits - logits[chosen]).sum(dtype=np.float64))
            if chosen in self._tokenizer.stop_ids:
                return ids, total, True
            ids.append(chosen)
            unread.append(chosen)
            if constraint is not None:
                constraint.advance(chosen)
        return ids, total, False


def _only(logits: NDArray[np.float32], constraint: GrammarConstraint | None) -> int | None:
    """Return the token that alone may come next, if there is one."""
    if constraint is None:
        return None
    constraint.allowed(logits)
    allowed = np.flatnonzero(np.isfinite(logits))
    return int(allowed[0]) if len(allowed) == 1 else None
