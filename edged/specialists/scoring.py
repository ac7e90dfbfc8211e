"""Options scored by their likelihood: how probable each is as the answer to a prompt.

The prompt is run once, and each option from where it ends. What the model prefers whatever is said
is divided out: the same options are scored behind a prompt that says nothing (contextual
calibration, Zhao et al. 2021, arXiv 2102.09690). What is compared is the sum over an option's
tokens, without the one that would end the answer: the mean, or with that token, chose worse.

Rule: the options stand in no prompt and each is run by itself, so their order changes no bit.
"""

import hashlib
import math
from array import array
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edged.protocol.request import Answer, ChatMessage, Client, FinishReason, Question, Request
from edged.specialists.decider import MAX_PASS_TOKENS, Read, Run, features_of

EncodeChat = Callable[[Sequence[ChatMessage]], list[int]]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# What a prompt that says nothing says. Of "N/A", "", "..." and this it was the best by a little.
NEUTRAL = "?"
# Priors that are kept, each at most 64 numbers.
_MAX_PRIORS = 64
_DECIMALS = 4


class OptionError(ValueError):
    """An option cannot be scored."""


class OptionScorer:
    """Reads the logits of one prompt, and of the options behind it.

    Args:
        num_prompt_tokens: tokens of the prompt, at least 1.
        options: the tokens of each option, at least 1.
    """

    def __init__(self, num_prompt_tokens: int, options: Sequence[Sequence[int]]) -> None:
        self.num_before = num_prompt_tokens - 1
        """Tokens of the prompt whose logits say nothing of an option."""
        self._options = options
        self._sums = np.zeros(len(options))
        self._is_begun = False
        # The last token of an option is never run: the row before says how probable it is.
        self._places = [
            (index, start)
            for index, option in enumerate(options)
            for start in range(0, len(option) - 1, MAX_PASS_TOKENS)
        ]

    @property
    def num_behind(self) -> int:
        """Tokens that are run behind the prompt, at most at a time."""
        return max(len(option) for option in self._options) - 1

    @property
    def next_pass(self) -> tuple[int, Sequence[int]] | None:
        """Where the next pass begins, counted behind the prompt, and its tokens; None: no more."""
        if not self._places:
            return None
        index, start = self._places[0]
        return start, self._options[index][start:-1][:MAX_PASS_TOKENS]

    def add(self, rows: Floats) -> None:
        """Take the logits ``[tokens, vocabulary]``: of the prompt's last token, then of a pass."""
        if not self._is_begun:
            self._is_begun, total = True, _log_total(rows[0])
            for index, option in enumerate(self._options):
                self._sums[index] = float(rows[0][option[0]]) - total
            return
        index, start = self._places.pop(0)
        for row, token_id in zip(rows, self._options[index][start + 1 :], strict=False):
            self._sums[index] += float(row[token_id]) - _log_total(row)

    def features(self) -> Doubles:
        """Return the log-probability of each option, when all passes were run."""
        return self._sums.copy()


def _log_total(row: Floats) -> float:
    """Return the logarithm of what the exponentials of a row add up to."""
    top = row.max()
    return float(top) + math.log(float(np.exp(row - top).sum(dtype=np.float64)))


class Priors:
    """The last scores behind prompts that say nothing; any thread may look, one keeps."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Doubles] = {}

    def find(self, key: bytes) -> Doubles | None:
        """Return what is kept, if it still is."""
        return self._kept.get(key)

    def keep(self, key: bytes, scores: Doubles) -> None:
        """Keep the scores of one prompt and its options, in place of the oldest."""
        self._kept.pop(key, None)
        self._kept[key] = scores
        while len(self._kept) > _MAX_PRIORS:
            del self._kept[next(iter(self._kept))]


class ChoiceDecider:
    """Decides for the option that becomes most probable by what the prompt says.

    Args:
        choices: The options.
        asked: The run of the prompt and the options.
        neutral: The same with a prompt that says nothing.
        priors: What it gave before, and is to be kept.
        client: Who asks. The tokens of a reply tell whether the neutral run was made: no other
            client must learn from them which options this one has asked for.
    """

    def __init__(
        self, choices: Sequence[str], asked: Run, neutral: Run, priors: Priors, client: Client
    ) -> None:
        self._choices = choices
        self._priors = priors
        content = repr((client, neutral.prompt_ids, neutral.options)).encode()
        self._key = hashlib.sha256(content).digest()
        self._prior = priors.find(self._key)
        self.runs = [neutral, asked] if self._prior is None else [asked]
        self.num_needed = len(self.runs)

    def proceed(self, readers: Sequence[Read], *, may_go_on: bool) -> Run | Answer:  # noqa: ARG002
        """Return the runs, then the option."""
        if len(readers) < len(self.runs):
            return self.runs[len(readers)]
        prior = features_of(readers[0]) if self._prior is None else self._prior
        self._priors.keep(self._key, prior)
        shares = _softmax((features_of(readers[-1]) - prior).tolist())
        best = shares.index(max(shares))
        return Answer(
            self._choices[best],
            FinishReason.STOP,
            is_choice=True,
            choice=best,
            detail={
                "probabilities": [round(share, _DECIMALS) for share in shares],
                "confidence": round(shares[best], _DECIMALS),
                # They compare the options; no example has shown how often the best is right.
                "calibrated": False,
            },
        )


def _softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    total = math.fsum(weights)  # exact: in another order it must not round differently
    return [weight / total for weight in weights]


class OptionScoring:
    """Makes what decides for one of several options.

    Args:
        encode: Returns the token ids of plain text.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._priors = Priors()

    def decider(
        self,
        path: str,
        question: Question,
        request: Request,
        encode_chat: EncodeChat,
    ) -> ChoiceDecider:
        """Return what decides for one of the question's options; ``path`` is where they stand.

        The question's words come last: so the prompts of several questions begin alike.

        Raises:
            OptionError: An option is no token of the model.
        """
        options = [array("i", self._encode(choice)) for choice in question.choices]
        for index, option in enumerate(options):
            if not option:
                raise OptionError(f"{path}[{index}]: is no text to the model; change or remove it")
        messages, client = request.messages, request.reply_to.client
        before = messages[:1] if messages[0].role == "system" else ()
        neutral = (*before, ChatMessage("user", NEUTRAL))

        def run(said: Sequence[ChatMessage]) -> Run:
            # An array: a request of many questions has as many prompts.
            prompt_ids = array("i", encode_chat(_with_question(said, question.ask)))
            return Run(prompt_ids, partial(OptionScorer, len(prompt_ids), options), options)

        return ChoiceDecider(question.choices, run(messages), run(neutral), self._priors, client)


def _with_question(messages: Sequence[ChatMessage], ask: str | None) -> Sequence[ChatMessage]:
    if ask is None:
        return messages
    last = messages[-1]
    return [*messages[:-1], ChatMessage(last.role, f"{last.content}\n\n{ask}")]
