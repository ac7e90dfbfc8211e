"""A bundle chooses one of some options by how likely it would be to write each of them."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edged.bundle.folder import open_bundle
from edged.engine.loading import load_bundle_graph
from edged.engine.steps import EngineSettings
from edged.engine.tokenizer import TemplateError, Tokenizer
from edged.errors import UsageError
from edged.protocol.request import ChatMessage
from edged.specialists.examples import Example
from edged.specialists.teacher import CONTENT_FREE, Doubles, calibrated, instruction

_CONTEXT = 2048


class BundleTeacher:
    """One loaded bundle, and the options that it chooses from; blocks for about a second.

    The prompt is run once, and each option once behind it; the token that ends an answer does not
    count: how likely it is depends on the option's form more than on the prompt.

    Raises:
        BundleError: the bundle is wrong.
        UsageError: the options do not fit into the model's context.
    """

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        bundle = open_bundle(folder)
        settings = EngineSettings(_CONTEXT)
        self._chunk = settings.prefill_chunk_tokens
        self._graph = load_bundle_graph(bundle, settings)
        self._tokenizer = Tokenizer.load(bundle)
        self._options = [self._tokenizer.encode(option) for option in options]
        self._longest = max(map(len, self._options))
        self._system = ChatMessage("system", instruction(options))
        self._held: list[int] = []
        """The tokens whose keys and values are in the cache."""
        prior = [self._scores(prompt, f"{len(options)} labels") for prompt in CONTENT_FREE]
        self._prior = np.stack(prior)

    def ask(self, example: Example) -> Doubles:
        """Return the probability of each option ``[options]``; blocks for some 10 ms each.

        Raises:
            UsageError: the prompt is longer than the model's context.
        """
        return calibrated(self._scores(example.prompt, example.place), self._prior)

    def _scores(self, prompt: str, place: str) -> Doubles:
        """Return the log-likelihoods ``[options]`` behind a prompt.

        Raises:
            UsageError: it is too long, or the chat template refuses it.
        """
        try:
            ids = self._tokenizer.encode_chat((self._system, ChatMessage("user", prompt)))
        except TemplateError as error:
            raise UsageError(f"{place}: {error}") from error
        most = self._graph.max_model_len - self._longest
        if len(ids) > most:
            raise UsageError(
                f"{place}: {len(ids)} tokens with the labels; {most} fit into this model: "
                "use a shorter prompt, or fewer labels"
            )
        first = _log_softmax(self._run(ids)[0])
        scores = [self._score(option, len(ids), first) for option in self._options]
        return np.array(scores, np.float64)

    def _run(self, ids: list[int]) -> NDArray[np.float32]:
        """Return the logits ``[1, vocabulary]`` behind a prompt; what the last one had is kept."""
        pairs = zip(self._held, ids[:-1], strict=False)
        start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._held = ids
        tokens = np.array(ids)
        last = start + (len(ids) - 1 - start) // self._chunk * self._chunk
        for begin in range(start, last, self._chunk):
            self._graph.forward(tokens[begin : begin + self._chunk], begin)
        return self._graph.forward(tokens[last:], last)

    def _score(self, option: list[int], start: int, first: Doubles) -> float:
        score = float(first[option[0]])
        if len(option) > 1:
            # As an answer is decoded, not as a prompt is read.
            tokens = np.array(option[:-1])
            rows = self._graph.forward(tokens, start, all_rows=True, is_prefill=False)
            # Row by row: a long option's logits are large.
            pairs = zip(rows, option[1:], strict=True)
            score += sum(float(_log_softmax(row)[token_id]) for row, token_id in pairs)
        return score


def _log_softmax(logits: NDArray[np.float32]) -> Doubles:
    scores = logits.astype(np.float64)
    scores -= scores.max()
    return np.asarray(scores - np.log(np.exp(scores).sum()))
