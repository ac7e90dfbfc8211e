"""A head's preferences among what an answer may begin with, token by token."""

from collections.abc import Mapping

import numpy as np
import pytest

from edged.bundle.folder import open_bundle
from edged.engine.choosing import ChoosingConstraint
from edged.engine.grammar import compile_grammar
from edged.engine.tokenizer import Tokenizer
from edged.specialists.choice import Powers, Preferences
from tests.tiny_model import STOP_TOKEN_ID, write_tiny_bundle

VOCAB_SIZE = 296
CALLS = "start: ANSWER\nANSWER: /(stop|set room=(hall|attic)|setup|no why=(vague|other))/\n"
SHARES = {"stop": 0.4, "set": 0.3, "no why=vague\n": 0.2, "no why=other\n": 0.05, None: 0.05}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(open_bundle(write_tiny_bundle(tmp_path_factory.mktemp("tiny"))))


def constraint(
    tokenizer: Tokenizer,
    shares: Mapping[str | None, float],
    strength: float = 1.0,
    grammar: str = CALLS,
) -> ChoosingConstraint:
    made = ChoosingConstraint(compile_grammar(tokenizer, grammar), tokenizer)
    made.prefer(Preferences(shares, Powers(strength, strength)))
    return made


def probability(tokenizer: Tokenizer, made: ChoosingConstraint, text: str) -> float:
    """Return how probable a text is where the model finds all tokens equally probable."""
    found = 1.0
    for token_id in [*tokenizer.encode(text), STOP_TOKEN_ID]:
        if made.is_complete:
            break
        if not made.forced:
            logits = np.zeros(VOCAB_SIZE, np.float32)
            made.allowed(logits)
            weights = np.exp(logits)
            found *= float(weights[token_id] / weights.sum())
        made.advance(token_id)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # "s" is the beginning of three, of which "setup" is none that the head knows.
        ("stop", 0.75 * (0.7 / 0.75) / (0.75 * (0.7 / 0.75) + 0.25) * 0.4 / 0.7),
        ("no why=vague", 0.25 / (0.75 * (0.7 / 0.75) + 0.25) * 0.2 / 0.25),
        ("no why=other", 0.25 / (0.75 * (0.7 / 0.75) + 0.25) * 0.05 / 0.25),
    ],
)
def test_a_choice_is_as_likely_as_the_head_says(
    tokenizer: Tokenizer, text: str, expected: float
) -> None:
    assert probability(tokenizer, constraint(tokenizer, SHARES), text) == pytest.approx(expected)


def test_the_strength_is_the_power_of_a_share(tokenizer: Tokenizer) -> None:
    grammar = "start: ANSWER\nANSWER: /(up|no)/\n"  # each token a letter: one way to say it
    for strength in (0.0, 0.5, 2.0):
        made = constraint(tokenizer, {"up": 0.8, "no": 0.2}, strength, grammar)
        expected = 0.8**strength / (0.8**strength + 0.2**strength)
        assert probability(tokenizer, made, "up") == pytest.approx(expected)


def test_a_choice_that_another_begins_with_ends_where_its_word_ends(tokenizer: Tokenizer) -> None:
    grammar = "start: ANSWER\nANSWER: /set( room=hall|up)?/\n"
    shares: dict[str | None, float] = {"set": 0.75, "setup": 0.25}
    # What follows is a space or the end: as likely as each other, and both mean the word.
    for text, expected in (("setup", 0.25), ("set", 0.75), ("set room=hall", 0.75)):
        made = constraint(tokenizer, shares, 1.0, grammar)
        assert probability(tokenizer, made, text) == pytest.approx(expected / (0.25 + 2 * 0.75))


def test_what_follows_a_choice_is_the_models_alone(tokenizer: Tokenizer) -> None:
    for text in ("set room=hall", "set room=attic"):
        logits = {}
        for shares in (SHARES, {}):
            made = constraint(tokenizer, shares)
            for token_id in tokenizer.encode("set room="):
                made.advance(token_id)
            logits[len(shares)] = np.arange(VOCAB_SIZE, dtype=np.float32)
            made.allowed(logits[len(shares)])
        own, with_head = logits.values()
        assert np.array_equal(own, with_head), text


def test_what_the_head_does_not_know_keeps_a_share(tokenizer: Tokenizer) -> None:
    grammar = "start: ANSWER\nANSWER: /(up|new)/\n"
    made = constraint(tokenizer, {"up": 1.0, "down": 0.0}, 1.0, grammar)
    assert probability(tokenizer, made, "new") == pytest.approx(0.01 / 1.01)


def test_where_any_text_may_be_said_nothing_is_preferred(tokenizer: Tokenizer) -> None:
    grammar = "start: ANSWER\nANSWER: /(on|(.|\\n)+)/\n"
    logits = np.zeros(VOCAB_SIZE, np.float32)
    constraint(tokenizer, {"on": 0.9, "no": 0.1}, 1.0, grammar).allowed(logits)
    assert len(np.unique(logits[np.isfinite(logits)])) == 1
