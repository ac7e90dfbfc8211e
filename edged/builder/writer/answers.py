"""Answers of a taught model in torch, held to the grammar as the node holds them."""

import math
from typing import Any

import numpy as np
import torch

from edged.builder.writer.prompts import MAX_TOKENS, Prompts
from edged.engine.tokenizer import Tokenizer
from edged.engine.writer_prompts import WriterPrompts
from edged.specialists.wording import Wording
from edged.specialists.writer import heard
from edged.specialists.written import Asked, Written, WrittenText, judged


class Answerer:
    """Writes answers greedily.

    Args:
        model: With its adapters.
        tokenizer: Of the bundle.
        wording: How answers are written.
        prompts: Makes tokens of what is asked.
        max_tokens: Of an answer.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - transformers' class
        tokenizer: Tokenizer,
        wording: Wording,
        prompts: Prompts,
        max_tokens: int,
    ) -> None:
        self._model, self._max_tokens = model, max_tokens
        self._tokenizer, self._wording, self._prompts = tokenizer, wording, prompts
        self._grammars = WriterPrompts(tokenizer, MAX_TOKENS)

    def answer(self, asked: Asked) -> Written:
        """Return the answer to a prompt."""
        ids, log_probability, is_ended = self._decode(asked)
        detokenizer = self._tokenizer.detokenizer()
        text = "".join(map(detokenizer.push, ids)) + detokenizer.flush()
        return judged(asked, self._wording, WrittenText(text, log_probability, is_ended))

    def _decode(self, asked: Asked) -> tuple[list[int], float, bool]:
        with torch.inference_mode():
            return self._decoded(asked)

    def _decoded(self, asked: Asked) -> tuple[list[int], float, bool]:
        constraint = self._grammars.constraint(
            self._wording, asked.dialogue.inputs, heard(asked.messages)
        )
        ids: list[int] = []
        total, cache, unread = 0.0, None, self._prompts.ids(asked)
        while len(ids) < self._max_tokens:
            # What is left one way to say takes no run of the model.
            forced = () if constraint is None else constraint.forced
            if forced:
                chosen = forced[0]
            else:
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
                if constraint.is_complete:
                    return ids, total, True
        return ids, total, False
