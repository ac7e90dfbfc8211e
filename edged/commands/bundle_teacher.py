"""A bundle chooses one of some options by how likely it would be to write each of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edged.bundle.folder import open_bundle
from edged.engine.loading import load_engine
from edged.engine.steps import EngineSettings
from edged.engine.tokenizer import TemplateError, Tokenizer
from edged.errors import UsageError
from edged.protocol.request import ChatMessage
from edged.specialists.examples import Example
from edged.specialists.scoring import OptionScorer
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
        self._engine = load_engine(bundle, EngineSettings(_CONTEXT))
        self._tokenizer = Tokenizer.load(bundle)
        self._options = [self._tokenizer.encode(option) for option in options]
        self._longest = max(map(len, self._options))
        self._system = ChatMessage("system", instruction(options))
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
        most = self._engine.max_model_len - self._longest
        if len(ids) > most:
            raise UsageError(
                f"{place}: {len(ids)} tokens with the labels; {most} fit into this model: "
                "use a shorter prompt, or fewer labels"
            )
        scorer = OptionScorer(len(ids), self._options)
        self._engine.read(ids, scorer)
        return scorer.features()
