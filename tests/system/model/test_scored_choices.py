"""The real int8 model chooses among options by their likelihood, the same to the bit."""

import pytest

from edged.bundle.folder import Bundle
from edged.engine.decoding import Decoding
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings
from edged.engine.tokenizer import Tokenizer
from edged.protocol.request import Answer, ChatMessage, Question, SamplingParams
from edged.specialists.decider import Reader, Run
from edged.specialists.scoring import OptionScoring
from tests.make_request import make_request

CAPITALS = ("London", "Paris", "Madrid", "Rome")
FRANCE = "What is the capital of France?"
GREEDY = SamplingParams()


def answered(
    engine: Engine, tokenizer: Tokenizer, choices: tuple[str, ...], prompt: str = FRANCE
) -> tuple[Answer, list[list[float]]]:
    """Return the answer, and the scores behind the prompt that says nothing and the asked one."""
    question = Question("", choices=choices)
    request = make_request(messages=(ChatMessage("user", prompt),))
    scoring = OptionScoring(tokenizer.encode)
    decider = scoring.decider("format.choices", question, request, tokenizer.encode_chat)
    readers: list[Reader] = []
    while isinstance(step := decider.proceed(readers, may_go_on=True), Run):
        assert step.new_reader is not None
        readers.append(step.new_reader())
        decoding = engine.start(step.prompt_ids, GREEDY, max_tokens=1, reader=readers[-1])
        finish(engine, decoding)
    return step, [reader.features().tolist() for reader in readers]


def finish(engine: Engine, decoding: Decoding) -> None:
    while not decoding.is_over:
        engine.step()
    engine.end(decoding)


@pytest.mark.parametrize(
    ("asked", "choices", "expected"),
    [
        (FRANCE, CAPITALS, "Paris"),
        ("What a wonderful film, I loved it!", ("good", "bad"), "good"),
        ("Wake me at seven.", ("set an alarm", "play music", "call somebody"), "set an alarm"),
    ],
)
def test_the_obvious_option_is_chosen(
    engine: Engine, tokenizer: Tokenizer, asked: str, choices: tuple[str, ...], expected: str
) -> None:
    answer, _ = answered(engine, tokenizer, choices, asked)
    assert answer.text == expected
    assert answer.detail["confidence"] > 1 / len(choices)


def test_in_any_order_and_from_the_cache_the_scores_are_the_same_to_the_bit(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    engine.release()
    answer, scores = answered(engine, tokenizer, CAPITALS)
    for order in ((3, 2, 1, 0), (1, 3, 0, 2)):
        choices = tuple(CAPITALS[index] for index in order)
        again, permuted = answered(engine, tokenizer, choices)
        assert permuted == [[row[index] for index in order] for row in scores]
        shares = [answer.detail["probabilities"][index] for index in order]
        assert again.detail["probabilities"] == shares


def test_beside_other_answers_the_scores_are_the_same_to_the_bit(
    real_bundle: Bundle, tokenizer: Tokenizer
) -> None:
    engine = load_engine(real_bundle, EngineSettings(max_model_len=512, num_slots=3))
    _, alone = answered(engine, tokenizer, CAPITALS)
    engine.release()
    talks = [(ChatMessage("user", text),) for text in ("Tell me a story.", "Name colours.")]
    others = [engine.start(tokenizer.encode_chat(talk), GREEDY, max_tokens=99) for talk in talks]
    _, beside = answered(engine, tokenizer, CAPITALS)
    assert not any(other.is_over for other in others), "nothing ran beside it to its end"
    assert beside == alone
