"""The generation loop: the same tokens however it was chunked, cached or cut off before."""

import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edged.bundle.folder import open_bundle
from edged.engine.decoding import Constraint
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.speed import measure_cost, time_requests
from edged.engine.steps import DecodeInput, EngineSettings, Prefilled, Token
from edged.protocol.request import SamplingParams
from edged.scheduling.latency_model import CostEstimate
from tests.paths import ROOT
from tests.tiny_model import MAX_MODEL_LEN, STOP_TOKEN_ID, write_tiny_bundle

if TYPE_CHECKING:
    from edged.engine.graph import Graph

GREEDY = SamplingParams()
PROMPT = list(range(5, 50))
PROMPTS = st.lists(st.integers(3, 40), min_size=1, max_size=12)
ON_ENGINES = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The toy in both forms, by whether it is fused."""
    root = tmp_path_factory.mktemp("tiny")
    return {fused: write_tiny_bundle(root / str(fused), fused=fused) for fused in (True, False)}


def load(folder: Path, *, max_model_len: int = MAX_MODEL_LEN, chunk: int = 16) -> Engine:
    engine_settings = EngineSettings(max_model_len, num_threads=1, prefill_chunk_tokens=chunk)
    return load_engine(open_bundle(folder), engine_settings)


@pytest.fixture
def engine(folders: dict[bool, Path]) -> Engine:
    """A fresh engine on the fused graph."""
    return load(folders[True])


def tokens(
    engine: Engine, prompt: Sequence[int] = PROMPT, max_tokens: int = 20, **sampling: float
) -> list[int]:
    params = replace(GREEDY, **sampling)  # type: ignore[arg-type]
    steps = engine.generate(prompt, params, max_tokens=max_tokens)
    return [step.token_id for step in steps if isinstance(step, Token)]


def cached_tokens(engine: Engine, prompt: Sequence[int], params: SamplingParams = GREEDY) -> int:
    step = next(iter(engine.generate(prompt, params, max_tokens=1)))
    assert isinstance(step, Prefilled)
    return step.cached_tokens


@pytest.fixture(scope="module")
def expected(folders: dict[bool, Path]) -> list[int]:
    """The greedy answer to ``PROMPT``, from the portable graph in one piece."""
    return tokens(load(folders[False], chunk=MAX_MODEL_LEN))


def test_the_answer_is_the_argmax_of_a_run_over_everything(
    folders: dict[bool, Path], expected: list[int]
) -> None:
    graph = load(folders[False])._graph
    logits = graph.forward(np.array(PROMPT + expected[:-1]), 0, all_rows=True)
    assert logits[len(PROMPT) - 1 :].argmax(axis=1).tolist() == expected
    assert len(set(expected)) > 5


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, 45, 128])
def test_both_forms_and_all_chunk_sizes_give_the_same_answer(
    folders: dict[bool, Path], expected: list[int], is_fused: bool, chunk: int
) -> None:
    assert tokens(load(folders[is_fused], chunk=chunk)) == expected


def test_each_chunk_is_reported_before_the_next_one_runs(engine: Engine) -> None:
    steps = list(engine.generate(PROMPT, GREEDY, max_tokens=1))
    assert steps[:3] == [Prefilled(16, 0), Prefilled(32, 0), Prefilled(45, 0)]
    assert len(steps) == 4


@ON_ENGINES
@given(first=PROMPTS, second=PROMPTS, max_tokens=st.integers(1, 5))
def test_reuse_of_a_prefix_changes_no_token(
    folders: dict[bool, Path], first: list[int], second: list[int], max_tokens: int
) -> None:
    fresh = load(folders[True])
    want = tokens(fresh, first + second, max_tokens)
    fresh.release()
    tokens(fresh, first, max_tokens)
    assert tokens(fresh, first + second, max_tokens) == want
    assert tokens(fresh, first + second, max_tokens) == want


def test_a_seeded_answer_is_computed_from_its_start(engine: Engine) -> None:
    """Rows of another run round differently, enough to tip a draw of a real model."""
    assert cached_tokens(engine, PROMPT[:10]) == 0
    assert cached_tokens(engine, PROMPT[:10], replace(GREEDY, seed=1)) == 0


def test_the_common_prefix_is_reused_and_the_last_token_never(engine: Engine) -> None:
    assert cached_tokens(engine, PROMPT[:10]) == 0
    assert cached_tokens(engine, PROMPT[:10]) == 9
    assert cached_tokens(engine, PROMPT[:15]) == 10
    assert cached_tokens(engine, [*PROMPT[:4], 200, 201]) == 4
    assert cached_tokens(engine, [9, 9]) == 0


def test_the_answer_is_part_of_the_prefix_of_the_next_turn(
    engine: Engine, expected: list[int]
) -> None:
    tokens(engine)
    # The last token was chosen, but not run.
    assert cached_tokens(engine, [*PROMPT, *expected, 7]) == len(PROMPT) + len(expected) - 1


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5])
def test_an_answer_dropped_at_any_step_leaves_the_next_one_right(
    engine: Engine, expected: list[int], num_steps: int
) -> None:
    steps = engine.generate([*PROMPT[:20], *reversed(PROMPT)], GREEDY, max_tokens=9)
    for _ in range(num_steps):
        next(steps)
    steps.close()
    assert tokens(engine) == expected


def test_a_failed_run_leaves_the_next_answer_right(engine: Engine, expected: list[int]) -> None:
    good = engine._graph.forward
    steps = engine.generate(PROMPT, GREEDY, max_tokens=9)
    next(steps)

    def fail(
        token_ids: NDArray[np.int64], start: int, *, slot: int, is_prefill: bool
    ) -> NDArray[np.float32]:
        good(token_ids[::-1] * 0, start, slot=slot, is_prefill=is_prefill)
        raise RuntimeError("out of memory")

    engine._graph.forward = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="out of memory"):
        next(steps)
    engine._graph.forward = good  # type: ignore[method-assign]
    assert tokens(engine) == expected


def test_an_answer_alone_is_alone(engine: Engine) -> None:
    old = engine.generate(PROMPT, GREEDY, max_tokens=9)
    next(old)
    with pytest.raises(RuntimeError, match="another answer"):
        next(engine.generate(PROMPT, GREEDY, max_tokens=9))
    with pytest.raises(RuntimeError, match="another answer is in progress"):
        engine.measure()


def test_release_forgets_the_prefix(engine: Engine, expected: list[int]) -> None:
    tokens(engine)
    engine.release()
    assert cached_tokens(engine, PROMPT) == 0
    assert tokens(engine) == expected


def test_max_tokens_is_a_limit(engine: Engine, expected: list[int]) -> None:
    assert tokens(engine, max_tokens=3) == expected[:3]


def test_prompt_and_answer_never_exceed_the_context(engine: Engine) -> None:
    prompt = [i % 290 for i in range(MAX_MODEL_LEN - 3)]
    assert len(tokens(engine, prompt, max_tokens=50)) == 3


def test_a_smaller_context_than_the_model_s_is_kept(folders: dict[bool, Path]) -> None:
    small = load(folders[True], max_model_len=len(PROMPT) + 2)
    assert small.max_model_len == len(PROMPT) + 2
    assert len(tokens(small)) == 2
    assert load(folders[True], max_model_len=10**6).max_model_len == MAX_MODEL_LEN


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "0 prompt tokens do not fit"),
        ([5] * MAX_MODEL_LEN, "256 prompt tokens do not fit 1 to 255"),
        ([5, 296], "outside the vocabulary of 296"),
        ([-1], "outside the vocabulary"),
    ],
)
def test_a_prompt_that_cannot_run_is_refused(
    engine: Engine, prompt: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        next(engine.generate(prompt, GREEDY, max_tokens=1))


def test_an_answer_of_no_tokens_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="max_tokens is 0"):
        next(engine.generate(PROMPT, GREEDY, max_tokens=0))


class Script:
    """A constraint that allows one token at a time."""

    forced = ()
    is_ending = False

    def __init__(self, *forced: int) -> None:
        self.left = list(forced)

    @property
    def is_complete(self) -> bool:
        return not self.left

    def allowed(self, logits: NDArray[np.float32]) -> None:
        kept = logits[self.left[0]]
        logits[:] = -np.inf
        logits[self.left[0]] = kept

    def advance(self, token_id: int) -> None:
        assert token_id == self.left.pop(0)


def forced(engine: Engine, constraint: Constraint) -> Generator[Prefilled | Token, None, None]:
    return engine.generate(PROMPT, GREEDY, max_tokens=9, constraint=constraint)


def test_a_stop_token_is_the_last_one_and_marked(engine: Engine) -> None:
    assert engine.stop_token_ids == (STOP_TOKEN_ID,)
    steps = list(forced(engine, Script(7, STOP_TOKEN_ID, 8)))
    assert steps[-2:] == [Token(7, is_stop=False), Token(STOP_TOKEN_ID, is_stop=True)]


def test_a_complete_constraint_ends_the_answer(engine: Engine) -> None:
    steps = list(forced(engine, Script(7, 8)))
    assert steps[-2:] == [Token(7, is_stop=False), Token(8, is_stop=False)]


def test_a_seed_fixes_a_sampled_answer(engine: Engine) -> None:
    first = tokens(engine, temperature=1.5, seed=1)
    assert tokens(engine, temperature=1.5, seed=1) == first
    assert tokens(engine, temperature=1.5, seed=2) != first


def test_a_measurement_leaves_the_next_answer_right(engine: Engine, expected: list[int]) -> None:
    tokens(engine)
    assert engine.measure().prefill_tok_s > 0
    assert tokens(engine) == expected


def test_a_probe_leaves_the_next_answer_right(engine: Engine, expected: list[int]) -> None:
    tokens(engine)
    assert len(engine.probe(lambda: True)) == 3
    assert tokens(engine) == expected


def test_a_probe_that_is_cut_short_leaves_a_slot_for_what_is_next(engine: Engine) -> None:
    assert engine.probe(lambda: False) == []
    assert tokens(engine)


class SlowGraph:
    """A graph that takes a fixed time for each token, on a clock of its own."""

    vocab_size, max_model_len = 10, 100

    def __init__(self, prefill_s: float, decode_s: float) -> None:
        self.now_s, self.prefill_s, self.decode_s = 0.0, prefill_s, decode_s

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        all_rows: bool = False,
        is_prefill: bool = True,
    ) -> NDArray[np.float32]:
        count = len(token_ids)
        self.now_s += self.decode_s if count == 1 else count * self.prefill_s
        return np.zeros((1, 10), np.float32)

    def decode(self, rows: Sequence[DecodeInput]) -> list[NDArray[np.float32]]:
        self.now_s += self.decode_s * (1 + 0.1 * (len(rows) - 1))
        return [np.zeros(10, np.float32) for _ in rows]

    def copy(self, source: int, target: int, length: int) -> None:
        pass


@pytest.mark.parametrize(
    ("prefill_s", "decode_s", "within"),
    [(0.001, 0.01, 0.05), (0.02, 0.1, 0.35), (0.5, 0.9, 0.35)],  # on the slow ones fewer passes
)
def test_a_measurement_finds_the_latencies_of_a_device(
    prefill_s: float, decode_s: float, within: float
) -> None:
    graph = SlowGraph(prefill_s, decode_s)
    cost = measure_cost(cast("Graph", graph), 4, 64, clock=lambda: graph.now_s)
    assert cost.prefill_s(64) == pytest.approx(64 * prefill_s, rel=within)
    assert cost.decode_s(10, 0) == pytest.approx(10 * decode_s, rel=0.05)
    # Beyond what it takes to run anything at all, the time is bounded.
    assert graph.now_s < 2 + 16 * prefill_s + decode_s


def test_short_requests_are_timed_as_the_device_is() -> None:
    graph = SlowGraph(0.002, 0.02)
    timings = time_requests(cast("Graph", graph), 0, 64, lambda: True, lambda: graph.now_s)
    cost = CostEstimate(0.002, 0.02)
    for spent in timings:
        assert spent.prefill_s == pytest.approx(spent.predicted_prefill_s(cost))
        assert spent.decode_s == pytest.approx(spent.predicted_decode_s(cost))


@pytest.mark.parametrize(("num_passes", "num_whole"), [(0, 0), (4, 0), (5, 1), (14, 2), (15, 3)])
def test_a_short_request_that_is_cut_short_is_left_out(num_passes: int, num_whole: int) -> None:
    graph, going = SlowGraph(0.002, 0.02), iter([True] * num_passes)
    timings = time_requests(cast("Graph", graph), 0, 64, lambda: next(going, False))
    assert len(timings) == num_whole


def imported(modules: str) -> set[str]:
    """What a fresh interpreter has loaded after it imported some modules."""
    code = f"import sys, {modules}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_the_runtime_cannot_import_a_build_tool() -> None:
    modules = imported("edged.engine.loading, edged.engine.tokenizer, edged.engine.grammar")
    assert "onnxruntime" in modules
    assert not {"torch", "transformers", "optimum", "onnx"} & modules


@pytest.mark.parametrize("name", ["loop", "sampling", "stopping", "schema_cost"])
def test_code_that_only_decides_loads_no_model_library(name: str) -> None:
    """The node's logic uses these modules, and its tests start without seconds of imports."""
    heavy = {"onnxruntime", "tokenizers", "llguidance", "jinja2"}
    assert not heavy & imported(f"edged.engine.{name}")
