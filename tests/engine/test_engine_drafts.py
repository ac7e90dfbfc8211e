"""Guesses from what was said: the same answer in fewer runs, and no guessing where it is wrong."""

from pathlib import Path

import numpy as np
import pytest

from edged.engine.drafts import MAX_DRAFT, Drafter
from edged.engine.loading import load_graph
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings, PromptOrigin, Token
from edged.protocol.request import SamplingParams
from tests.tiny_model import MAX_MODEL_LEN, STOP_TOKEN_ID, write_tiny_bundle

GREEDY = SamplingParams()


def test_the_draft_is_what_followed_the_last_three_tokens_before() -> None:
    drafter = Drafter([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], 0.1)
    assert drafter.draft(10) == [4, 5, 6]
    assert drafter.draft(2) == [4, 5]
    drafter.push(9)
    assert drafter.draft(10) == []


def test_the_latest_place_counts() -> None:
    assert Drafter([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 0.1).draft(1) == [5]


def test_accepted_drafts_grow_longer() -> None:
    drafter = Drafter(list(range(40)) * 2 + [0, 1, 2], 0.1)
    assert len(drafter.draft(100)) == 3
    drafter.learn(3, 3)
    assert len(drafter.draft(100)) == 6
    drafter.learn(6, 6)
    assert len(drafter.draft(100)) == MAX_DRAFT
    drafter.learn(MAX_DRAFT, 2)
    assert len(drafter.draft(100)) == 3


@pytest.mark.parametrize(("token_cost", "num_drafts"), [(0.1, 7), (0.5, 2)])
def test_rejected_drafts_pause_the_sooner_the_more_they_cost(
    token_cost: float, num_drafts: int
) -> None:
    drafter = Drafter([1, 2, 3] * 30, token_cost)
    count = 0
    while drafter.draft(100):
        drafter.learn(3, 0)
        count += 1
    assert count == num_drafts
    for token_id in [1, 2, 3] * 6:
        drafter.push(token_id)
    assert drafter.draft(100)
    drafter.learn(3, 0)
    assert not drafter.draft(100)
    for token_id in [1, 2, 3] * 6:  # the second pause is longer
        drafter.push(token_id)
    assert not drafter.draft(100)


def load(folder: Path) -> Engine:
    path = folder / "model.onnx"
    graph = load_graph(path, is_fused=True, max_model_len=MAX_MODEL_LEN, num_threads=1)
    return Engine(graph, (STOP_TOKEN_ID,), EngineSettings(graph.max_model_len), is_exact=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


class Copying:
    """A format that makes the answer repeat a text."""

    forced = ()
    is_ending = False

    def __init__(self, text: list[int]) -> None:
        self.left = list(text)

    @property
    def is_complete(self) -> bool:
        return not self.left

    def allowed(self, logits: np.typing.NDArray[np.float32]) -> None:
        logits[:] = np.where(np.arange(len(logits)) == self.left[0], 0.0, -np.inf)

    def advance(self, token_id: int) -> None:
        assert token_id == self.left.pop(0)


def test_a_repeated_text_takes_fewer_runs_and_leaves_the_same_cache(folder: Path) -> None:
    text = list(range(10, 60))
    engine = load(folder)
    decoding = engine.start(text, GREEDY, max_tokens=60, constraint=Copying(text))
    runs, answer = 0, []
    while not decoding.is_over:
        ran = engine.step()
        runs += ran.num_rows > 0
        answer += [step.token_id for step in ran.outcomes[decoding] if isinstance(step, Token)]
    engine.end(decoding)
    assert answer == text
    assert runs < 20
    # The cache after drafts is the one after single tokens.
    drafted = engine._graph.forward(np.array([7]), len(text) + 49).copy()
    plain = load(folder)
    plain._graph.forward(np.array(text + text[:49]), 0)
    np.testing.assert_allclose(
        drafted, plain._graph.forward(np.array([7]), len(text) + 49), atol=1e-4
    )


@pytest.mark.parametrize("prompt", [[7, 8, 9] * 20, list(range(5, 50)), [200, 201] * 30])
def test_the_answer_is_the_one_without_drafts(folder: Path, prompt: list[int]) -> None:
    engine = load(folder)
    decoding = engine.start(prompt, GREEDY, max_tokens=100)
    decoding.drafter = None
    plain: list[int] = []
    while not decoding.is_over:
        steps = engine.step().outcomes[decoding]
        plain += [step.token_id for step in steps if isinstance(step, Token)]
    engine.end(decoding)
    drafted = load(folder).generate(prompt, GREEDY, max_tokens=100)
    assert [step.token_id for step in drafted if isinstance(step, Token)] == plain


def test_a_rejected_draft_is_no_part_of_the_cache(folder: Path) -> None:
    prompt = list(range(10, 40))
    text = [*prompt[:8], *range(100, 104)]
    engine = load(folder)
    decoding = engine.start(prompt, GREEDY, max_tokens=60, constraint=Copying(text))
    num_rows = 0
    while not decoding.is_over:
        num_rows += engine.step().num_rows
    engine.end(decoding)
    assert num_rows > len(text), "some draft was rejected"
    # A continuation as drafted shares the accepted tokens, and no more.
    drafted = engine.start(
        [*prompt, *prompt], GREEDY, max_tokens=2, origin=PromptOrigin(None, len(prompt))
    )
    assert drafted.num_cached == len(prompt) + 8
