"""Options scored behind a prompt: their log-probabilities, what is divided out, what is kept."""

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from edged.protocol.request import Answer, ChatMessage, FinishReason, Question
from edged.specialists.decider import MAX_PASS_TOKENS, Decider, Run
from edged.specialists.scoring import (
    NEUTRAL,
    ChoiceDecider,
    Floats,
    OptionError,
    OptionScorer,
    OptionScoring,
)
from tests.make_request import make_request

VOCABULARY = 128
CHOICES = ("on", "off", "dim it", "x" * 40)
USER = [ChatMessage("user", "It is dark.")]
# What the model says: the logits after some tokens.
Model = Callable[[Sequence[int]], Floats]


def model(before: Sequence[int]) -> Floats:
    """A model of which each token depends on all before it."""
    digest = hashlib.sha256(bytes(before)).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    return random.standard_normal(VOCABULARY).astype(np.float32) * 3


def encode(text: str) -> list[int]:
    return [ord(character) for character in text if character != "\x7f"]


def encode_chat(messages: Sequence[ChatMessage]) -> list[int]:
    return encode("".join(f"[{message.role}]{message.content}" for message in messages) + ">")


def read(run: Run, says: Model = model) -> OptionScorer:
    """Run a prompt and the options behind it."""
    assert run.new_reader is not None
    scorer = run.new_reader()
    assert isinstance(scorer, OptionScorer)
    assert scorer.num_before == len(run.prompt_ids) - 1
    prompt = list(run.prompt_ids)
    scorer.add(says(prompt)[None])
    written: list[int] = []
    while (step := scorer.next_pass) is not None:
        start, token_ids = step
        assert 0 < len(token_ids) <= MAX_PASS_TOKENS
        written = [*written[:start], *token_ids]
        assert len(written) == start + len(token_ids), "a gap"
        ends = range(start + 1, len(written) + 1)
        scorer.add(np.stack([says([*prompt, *written[:end]]) for end in ends]))
    return scorer


def answered(decider: Decider, says: Model = model) -> Answer:
    readers: list[OptionScorer] = []
    while isinstance(step := decider.proceed(readers, may_go_on=True), Run):
        readers.append(read(step, says))
    return step


def ask(
    scoring: OptionScoring,
    choices: Sequence[str] = CHOICES,
    messages: Sequence[ChatMessage] = USER,
    words: str | None = None,
) -> ChoiceDecider:
    question = Question("", choices=tuple(choices), ask=words)
    request = make_request(messages=tuple(messages))
    return scoring.decider("format.choices", question, request, encode_chat)


def text(run: Run) -> str:
    return "".join(map(chr, run.prompt_ids))


def log_probability(prompt: list[int], option: list[int]) -> float:
    total = 0.0
    for index, token_id in enumerate(option):
        row = model([*prompt, *option[:index]]).astype(np.float64)
        total += row[token_id] - np.log(np.exp(row).sum())
    return total


def test_the_score_is_the_log_probability_of_the_options_tokens() -> None:
    prompt = encode("Is it dark?")
    options = [encode(choice) for choice in CHOICES]
    scorer = read(Run(prompt, lambda: OptionScorer(len(prompt), options), options))
    expected = [log_probability(prompt, option) for option in options]
    assert scorer.features().tolist() == pytest.approx(expected, rel=1e-6)


def test_an_option_of_one_token_needs_no_pass() -> None:
    scorer = OptionScorer(1, [[5], [6]])
    assert scorer.next_pass is None
    assert scorer.num_behind == 0


def test_the_most_probable_by_what_the_prompt_says_is_the_reply() -> None:
    decider = ask(OptionScoring(encode))
    answer = answered(decider)
    neutral, asked = (
        [log_probability(list(run.prompt_ids), encode(choice)) for choice in CHOICES]
        for run in decider.runs
    )
    weights = np.exp(np.array(asked) - np.array(neutral))
    shares = weights / weights.sum()
    best = int(shares.argmax())
    assert answer.detail["probabilities"] == pytest.approx(shares.tolist(), abs=1e-4)
    assert (answer.text, answer.choice, answer.is_choice) == (CHOICES[best], best, True)
    assert answer.detail["confidence"] == max(answer.detail["probabilities"])
    assert answer.detail["calibrated"] is False
    assert answer.finish_reason is FinishReason.STOP


def test_what_is_as_probable_whatever_is_said_has_equal_shares() -> None:
    """The model prefers some options; the prompt tells it nothing."""

    def says(before: Sequence[int]) -> Floats:
        return model(before[encode_chat(USER).index(ord(">")) :])

    def encode_alike(messages: Sequence[ChatMessage]) -> list[int]:
        return encode_chat(messages)[:0] + encode_chat(USER)

    question = Question("", choices=CHOICES)
    request = make_request(messages=USER)
    decider = OptionScoring(encode).decider("format.choices", question, request, encode_alike)
    assert answered(decider, says).detail["probabilities"] == [0.25] * 4


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[1::5])
def test_in_another_order_each_option_keeps_its_probability_to_the_bit(
    order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.specialists.scoring._DECIMALS", 17)
    plain = answered(ask(OptionScoring(encode)))
    permuted = answered(ask(OptionScoring(encode), [CHOICES[index] for index in order]))
    assert permuted.text == plain.text
    assert permuted.detail["probabilities"] == [
        plain.detail["probabilities"][index] for index in order
    ]


def test_what_says_nothing_has_the_system_text_and_the_question() -> None:
    talk = [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "Hello"),
        ChatMessage("assistant", "Hello!"),
        *USER,
    ]
    neutral, asked = ask(OptionScoring(encode), messages=talk, words="Which lamp?").runs
    assert text(neutral) == f"[system]Be brief.[user]{NEUTRAL}\n\nWhich lamp?>"
    assert text(asked).endswith("Hello![user]It is dark.\n\nWhich lamp?>")
    assert text(ask(OptionScoring(encode)).runs[0]) == f"[user]{NEUTRAL}>"


def test_what_is_divided_out_is_computed_once_for_the_same_options() -> None:
    scoring = OptionScoring(encode)
    first = ask(scoring)
    assert (len(first.runs), first.num_needed) == (2, 2)
    answered(first)
    again = ask(scoring, messages=[ChatMessage("user", "It is bright.")])
    assert len(again.runs) == 1
    fresh = ask(OptionScoring(encode), messages=[ChatMessage("user", "It is bright.")])
    assert answered(again) == answered(fresh)
    assert len(ask(scoring, CHOICES[:2]).runs) == 2
    assert len(ask(scoring, words="Which lamp?").runs) == 2


def test_what_is_kept_is_bounded_and_what_is_used_stays() -> None:
    scoring = OptionScoring(encode)
    answered(ask(scoring))
    for number in range(100):
        answered(ask(scoring, ("a", "b"), words=str(number)))
        if number % 40 == 0:
            answered(ask(scoring))
    assert len(ask(scoring).runs) == 1
    assert len(ask(scoring, ("a", "b"), words="99").runs) == 1
    assert len(ask(scoring, ("a", "b"), words="0").runs) == 2


def test_an_option_without_a_token_is_refused_by_its_place() -> None:
    with pytest.raises(OptionError, match=r"^format.choices\[1\]: is no text to the model"):
        ask(OptionScoring(encode), ("on", "\x7f"))


def test_the_probabilities_of_the_reply_add_up() -> None:
    answer = answered(ask(OptionScoring(encode)))
    assert math.isclose(sum(answer.detail["probabilities"]), 1, abs_tol=4e-4)
