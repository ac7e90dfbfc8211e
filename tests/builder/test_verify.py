"""The quality gate: correct figures, the right text, and a bad bundle fails."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from edged.builder import gate, verify
from edged.builder import quality as quality_module
from edged.builder.gate import TOKENS_MIN, gate_prompts, gate_sequences
from edged.builder.measure import compare, compare_marked
from edged.builder.progress import Progress
from edged.builder.quality import check_limits, relaxed, table
from edged.builder.quantize import Scheme, quantize
from edged.builder.verify import run_gate, unseen_text, verify_bundle
from edged.bundle.folder import Bundle, open_bundle, write_manifest
from edged.bundle.manifest import GraphKind, QualityFigures, QualityLimits
from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from edged.engine.steps import DecodeInput
from edged.errors import BuildError
from tests.tiny_graphs import PortableForm, TinyConfig, tiny_weights
from tests.tiny_model import write_tiny_bundle

LIMITS = QualityLimits(mean_kl=0.010, perplexity_ratio=1.010, argmax_agreement=0.95)
GOOD = QualityFigures(0.004, 0.02, 10.05, 10.0, 1.005, 0.97, tokens=5000)


class Table(Graph):
    """A graph whose logits depend on the token alone, and which records its calls."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self.logits = logits
        self.vocab_size = logits.shape[1]
        self.max_model_len = 1 << 16
        self.num_slots = 1
        self.calls: list[tuple[int, int]] = []

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        all_rows: bool = False,
        is_prefill: bool = True,
    ) -> NDArray[np.float32]:
        self.calls.append((start, len(token_ids)))
        rows = self.logits[token_ids]
        return rows if all_rows else rows[-1:]

    def release(self, slot: int = 0) -> None:
        pass

    def _allocate(self) -> None:
        raise NotImplementedError

    def decode(self, inputs: Sequence[DecodeInput]) -> list[NDArray[np.float32]]:
        self.calls += [(one.position, 1) for one in inputs]
        return [self.logits[one.token_id] for one in inputs]


def random_table(seed: int, vocab_size: int = 11) -> Table:
    values = np.random.default_rng(seed).normal(size=(vocab_size, vocab_size)) * 3
    return Table(values.astype(np.float32))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exps = np.exp(logits.astype(np.float64))
    result: NDArray[np.float64] = exps / exps.sum(axis=1, keepdims=True)
    return result


@pytest.fixture
def quiet() -> Progress:
    return Progress(stream=io.StringIO())


@pytest.fixture(autouse=True)
def short_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a few of the prompts, so that a test takes a second."""
    chosen = gate_prompts()[::8]
    monkeypatch.setattr(gate, "gate_prompts", lambda: chosen)
    monkeypatch.setattr(quality_module, "TOKENS_MIN", 500)
    text = unseen_text()[:600]
    monkeypatch.setattr(verify, "unseen_text", lambda: text)


def test_the_figures_follow_their_definitions() -> None:
    """Against the textbook formulas, over several chunks and sequences of different lengths."""
    reference, candidate = random_table(1), random_table(2)
    random = np.random.default_rng(3)
    sequences = [[i, *random.integers(0, 11, 10 + 150 * i).tolist()] for i in range(3)]
    inputs = np.concatenate([sequence[:-1] for sequence in sequences])
    targets = np.concatenate([sequence[1:] for sequence in sequences])
    p, q = softmax(reference.logits[inputs]), softmax(candidate.logits[inputs])
    kl = (p * np.log(p / q)).sum(axis=1)
    rows = np.arange(len(targets))
    result = compare(reference, candidate, sequences)
    assert result.tokens == len(targets)
    assert result.mean_kl == pytest.approx(kl.mean(), rel=1e-9)
    assert result.p99_kl == pytest.approx(np.quantile(kl, 0.99), rel=1e-9)
    assert result.reference_perplexity == pytest.approx(np.exp(-np.log(p[rows, targets]).mean()))
    assert result.perplexity == pytest.approx(np.exp(-np.log(q[rows, targets]).mean()))
    ratio = result.perplexity / result.reference_perplexity
    assert result.perplexity_ratio == pytest.approx(ratio)
    assert result.argmax_agreement == pytest.approx((p.argmax(1) == q.argmax(1)).mean())


def test_a_graph_agrees_with_itself_exactly() -> None:
    result = compare(random_table(1), random_table(1), [[1, 2, 3, 4, 5]])
    assert (result.mean_kl, result.perplexity_ratio, result.argmax_agreement) == (0.0, 1.0, 1.0)


def test_a_shared_prefix_is_run_and_counted_once() -> None:
    """Three prompts after one system prompt of 200 tokens."""
    system = [1, 2] * 100
    graph = random_table(1)
    result = compare(graph, random_table(2), [[*system, i, 5, 6] for i in (3, 4, 7)])
    assert graph.calls == [(0, 128), (128, 74), (200, 2), (200, 2)]
    assert result.tokens == 206


def test_what_is_marked_counts_for_itself_and_all_for_the_whole() -> None:
    reference, candidate = random_table(1), random_table(2)
    sequences = [[1, 2, 3, 4, 5, 6], [1, 2, 7, 8], [9, 10]]
    marked = [(ids, [index > 2 for index in range(len(ids))]) for ids in sequences]
    chosen, everything = compare_marked(reference, candidate, marked)
    # The last one has nothing marked.
    # In sums of other lengths, so the last digits may differ.
    expected = astuple(compare(reference, candidate, sequences[:2]))
    assert astuple(everything) == pytest.approx(expected, rel=1e-9)
    p, q = (softmax(table.logits[[3, 4, 5, 7]]) for table in (reference, candidate))
    assert chosen.mean_kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-9)
    # What two begin with is read once.
    assert (chosen.tokens, everything.tokens) == (4, 6)


def test_equal_sequences_still_count_positions() -> None:
    assert compare(random_table(1), random_table(2), [[1, 2, 3], [1, 2, 3]]).tokens == 3


@pytest.mark.parametrize(("bad", "who"), [(0, "reference"), (1, "quantized")])
def test_nan_logits_stop_the_comparison(bad: int, who: str) -> None:
    graphs = [random_table(1), random_table(2)]
    graphs[bad].logits[3] = np.nan
    with pytest.raises(BuildError, match=f"the {who} graph computes logits that are no numbers"):
        compare(graphs[0], graphs[1], [[1, 2, 3, 4]])


def test_a_huge_perplexity_is_finite() -> None:
    reference = random_table(1)
    candidate = Table(np.where(np.eye(11) > 0, 0, -1e30).astype(np.float32))
    assert np.isfinite(compare(reference, candidate, [[1, 2, 3]]).perplexity)


@pytest.mark.parametrize("sequences", [[], [[1]], [[1], []]])
def test_nothing_to_compare_is_an_error(sequences: Sequence[Sequence[int]]) -> None:
    with pytest.raises(BuildError, match="fewer than two tokens"):
        compare(random_table(1), random_table(2), sequences)


@pytest.mark.parametrize(
    ("change", "metric"),
    [
        ({"mean_kl": 0.0101}, "mean_kl"),
        ({"perplexity_ratio": 1.0101}, "perplexity_ratio"),
        ({"argmax_agreement": 0.9499}, "argmax_agreement"),
        ({"tokens": 499}, "tokens"),
    ],
)
def test_each_limit_alone_fails_the_gate(change: dict[str, float], metric: str) -> None:
    assert check_limits(GOOD, LIMITS, "gate").passed
    # The figures differ in type; each is set by its name.
    quality = check_limits(replace(GOOD, **change), LIMITS, "gate")  # type: ignore[arg-type]
    assert not quality.passed
    missed = [line for line in table(quality).splitlines() if line.endswith("MISS")]
    assert len(missed) == 1
    assert missed[0].startswith(metric)


def test_a_user_supplied_text_may_be_short() -> None:
    quality = check_limits(replace(GOOD, tokens=10), LIMITS, "letter.txt")
    assert quality.passed
    assert "tokens                        10" in table(quality)


def test_a_figure_on_its_limit_passes() -> None:
    on_limit = replace(GOOD, mean_kl=0.010, perplexity_ratio=1.010, argmax_agreement=0.95)
    assert check_limits(on_limit, LIMITS, "gate").passed


def test_the_second_text_has_limits_1_5_times_as_wide() -> None:
    wider = relaxed(LIMITS, 10**9)
    assert wider.mean_kl == pytest.approx(0.015)
    assert wider.perplexity_ratio == pytest.approx(1.015, abs=1e-4)
    assert wider.argmax_agreement == pytest.approx(0.925)
    # A figure within the wider limit only passes there, and is shown with that limit.
    wide = replace(GOOD, mean_kl=0.0149, tokens=10)
    quality = check_limits(GOOD, LIMITS, "gate", wide)
    assert quality.passed
    assert "on another text\nmean_kl                   0.0149  ≤ 0.0150  pass" in table(quality)
    assert not check_limits(GOOD, LIMITS, "gate", replace(wide, mean_kl=0.0151)).passed


def test_on_few_tokens_chance_is_left_room_in_the_perplexity_alone() -> None:
    few, many = relaxed(LIMITS, 1600), relaxed(LIMITS, 160_000)
    assert (few.mean_kl, few.argmax_agreement) == (many.mean_kl, many.argmax_agreement)
    # Two standard errors of the largest KL divergence allowed; a tenth of them on 100 times more.
    assert few.perplexity_ratio == pytest.approx(1.015 + 2 * math.sqrt(2 * 0.015 / 1600))
    assert many.perplexity_ratio - 1.015 == pytest.approx((few.perplexity_ratio - 1.015) / 10)


def test_the_committed_prompts_are_enough_for_any_tokenizer() -> None:
    """Three groups; more characters than four for each token that must be compared."""
    prompts = gate_prompts()
    assert len(prompts) == len(set(prompts)) == 39
    assert sum(map(len, prompts)) > 4 * TOKENS_MIN


@pytest.fixture
def reference_folder(tmp_path: Path) -> Path:
    """The toy's fp32 graph, in the exporter's form."""
    return write_tiny_bundle(tmp_path / "reference", fused=False)


@pytest.fixture
def bundle(tmp_path: Path, reference_folder: Path) -> Bundle:
    """The toy, quantized."""
    return quantized(tmp_path / "bundle", reference_folder)


def quantized(folder: Path, reference_folder: Path) -> Bundle:
    folder.mkdir()
    quantize(reference_folder, folder, Scheme.INT8_BLOCKWISE)
    return as_bundle(folder, reference_folder)


def as_bundle(folder: Path, reference_folder: Path) -> Bundle:
    tokenizer = (reference_folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(tokenizer)
    manifest = open_bundle(reference_folder).manifest
    return write_manifest(folder, replace(manifest, scheme="int8-blockwise"))


def load(folder: Path, num_slots: int = 1) -> Graph:
    path = folder / "model.onnx"
    return load_graph(path, is_fused=False, max_model_len=256, num_threads=1, num_slots=num_slots)


def test_the_answers_are_the_reference_models_greedy_ones(
    bundle: Bundle, reference_folder: Path, tmp_path: Path, quiet: Progress
) -> None:
    graph = load(reference_folder)
    with quiet.step("answers") as step:
        sequences = gate_sequences(bundle, graph, tmp_path / "cache", step)
    assert len(sequences) == len(gate.gate_prompts())
    sequence = np.array(sequences[1])
    logits = graph.forward(sequence[:-1], 0, all_rows=True)
    answer = sequence[-32:]
    assert (logits.argmax(axis=1)[-32:] == answer).all() or sequence[-1] == 2


def test_prompts_that_are_answered_together_get_the_answers_that_each_gets_alone(
    bundle: Bundle, reference_folder: Path, tmp_path: Path, quiet: Progress
) -> None:
    with quiet.step("answers") as step:
        alone, together = (
            gate_sequences(bundle, load(reference_folder, slots), tmp_path / str(slots), step)
            for slots in (1, 3)
        )
    assert len(alone) > 3
    assert together == alone


def test_an_answer_ends_with_the_stop_token(
    bundle: Bundle, tmp_path: Path, quiet: Progress
) -> None:
    always_stop = np.zeros((296, 296), np.float32)
    always_stop[:, 2] = 1
    with quiet.step("answers") as step:
        sequences = gate_sequences(bundle, Table(always_stop), tmp_path, step)
    assert all(sequence[-1] == 2 and sequence[-2] != 2 for sequence in sequences)


def test_the_answers_are_generated_once(bundle: Bundle, tmp_path: Path, quiet: Progress) -> None:
    """A second gate of the same source reads them; another source's gate does not."""
    graph = random_table(1, 296)
    with quiet.step("answers") as step:
        first = gate_sequences(bundle, graph, tmp_path, step)
        num_calls = len(graph.calls)
        assert gate_sequences(bundle, graph, tmp_path, step) == first
        assert len(graph.calls) == num_calls
        source = replace(bundle.manifest.source, sha256="1" * 64)
        other = replace(bundle, manifest=replace(bundle.manifest, source=source))
        gate_sequences(other, graph, tmp_path, step)
        assert len(graph.calls) > num_calls


def test_only_as_many_prompts_are_answered_as_needed(
    bundle: Bundle, tmp_path: Path, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a minimum of 300 positions, two of the toy's prompts of some 200 tokens are enough."""
    monkeypatch.setattr(gate, "TOKENS_MIN", 300)
    graph = random_table(1, 296)
    graph.max_model_len = 256
    with quiet.step("answers") as step:
        sequences = gate_sequences(bundle, graph, tmp_path, step)
    assert len(sequences) == 2
    assert compare(graph, graph, sequences).tokens >= 300


def test_damaged_cached_answers_are_generated_again(
    bundle: Bundle, tmp_path: Path, quiet: Progress
) -> None:
    graph = random_table(1, 296)
    with quiet.step("answers") as step:
        first = gate_sequences(bundle, graph, tmp_path, step)
        for path in (tmp_path / "gate").iterdir():
            path.write_text("[[1, 2")
        assert gate_sequences(bundle, graph, tmp_path, step) == first


def test_a_context_without_room_for_an_answer_is_refused(
    bundle: Bundle, tmp_path: Path, quiet: Progress
) -> None:
    graph = random_table(1, 296)
    graph.max_model_len = 32
    with quiet.step("x") as step, pytest.raises(BuildError, match="leaves no room"):
        gate_sequences(bundle, graph, tmp_path, step)


def test_a_quantized_toy_passes_its_gate(
    bundle: Bundle, reference_folder: Path, tmp_path: Path, quiet: Progress
) -> None:
    quality = run_gate(bundle, reference_folder, tmp_path / "cache", quiet)
    assert quality.passed, table(quality)
    assert quality.text == "gate"
    assert 0 < quality.mean_kl < 0.01


def with_outliers(folder: Path) -> Path:
    """Write a toy with one token whose activations are far larger than all others, as in real ones.

    A direction that only the letter "e" uses makes the input of its ``down`` projection some
    hundred times larger than anybody else's.
    """
    manifest = open_bundle(write_tiny_bundle(folder, fused=False)).manifest
    config = TinyConfig()
    weights = tiny_weights(config, seed=0)
    letter = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]["e"]
    weights["embed"][:, 0] = 0.0
    weights["embed"][letter, 0] = 6.0
    for layer in range(config.num_layers):
        for name in ("gate", "up"):
            weights[f"{layer}.{name}"][0] = 3.0
        for name in ("o", "down"):
            # Random layers are noisier than trained ones: scale their part of the sum down.
            weights[f"{layer}.{name}"] *= 0.5
            weights[f"{layer}.{name}"][:, 0] = 0.0
    # Random logits are flat, and their order means nothing: let each token have a clear favourite.
    weights["head"] = 0.3 * (weights["head"] + weights["embed"].T)
    model = PortableForm(config, weights).model()
    (folder / "model.onnx.data").unlink()
    onnx.save_model(model, folder / "model.onnx")
    return write_manifest(folder, manifest).folder


def test_plain_dynamic_quantization_fails_where_blockwise_passes(
    tmp_path: Path, quiet: Progress
) -> None:
    """On a model with outliers the gate refuses ONNX Runtime's one-line int8."""
    reference = with_outliers(tmp_path / "reference")
    blockwise = quantized(tmp_path / "blockwise", reference)
    plain_folder = tmp_path / "plain"
    plain_folder.mkdir()
    quantize_dynamic(
        reference / "model.onnx",
        plain_folder / "model.onnx",
        weight_type=QuantType.QInt8,
        # The toy's norm is an operator whose output type the tool does not know.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    plain = as_bundle(plain_folder, reference)
    good = run_gate(blockwise, reference, tmp_path / "cache", quiet)
    bad = run_gate(plain, reference, tmp_path / "cache", quiet)
    assert good.passed, table(good)
    assert not bad.passed, table(bad)
    assert bad.mean_kl > 10 * good.mean_kl


def test_verify_repeats_the_measurement_on_a_text(
    bundle: Bundle, reference_folder: Path, tmp_path: Path, quiet: Progress
) -> None:
    text = tmp_path / "letter.txt"
    text.write_text("Grüße aus der Küche: 3 + 4 = 7 🙂 <|im_end|> and so on. " * 30, "utf-8")
    quality = verify_bundle(bundle.folder, reference_folder, text, tmp_path / "cache", quiet)
    assert quality.text == "letter.txt"
    assert quality.tokens > 1000
    assert quality.limits == LIMITS


def test_verify_without_a_text_uses_the_gates_text(
    bundle: Bundle, reference_folder: Path, tmp_path: Path, quiet: Progress
) -> None:
    quality = verify_bundle(bundle.folder, reference_folder, None, tmp_path / "cache", quiet)
    assert quality.text == "gate"
    assert quality == run_gate(bundle, reference_folder, tmp_path / "cache", quiet)


def test_verify_puts_a_models_bos_token_before_each_window(
    bundle: Bundle, reference_folder: Path, tmp_path: Path, quiet: Progress
) -> None:
    text = tmp_path / "letter.txt"
    text.write_text("".join(np.random.default_rng(0).choice(list("bcdfgkmpqvxz"), 300)))
    manifest = replace(bundle.manifest, chat_template=None, add_bos_token=True)
    write_manifest(bundle.folder, manifest)
    quality = verify_bundle(bundle.folder, reference_folder, text, tmp_path / "cache", quiet)
    # Windows of 255 and 45 letters, each behind a BOS token, which counts once as it is shared.
    assert quality.tokens == 255 + 44


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"abc\xff", r"letter\.txt: not UTF-8 text \(byte 3\)"),
        (b"", r"letter\.txt: empty"),
        (b" \n\t", r"letter\.txt: empty"),
        (b"a", r"letter\.txt: too short"),
        (None, r"letter\.txt: cannot be read \(No such file"),
    ],
)
def test_verify_names_what_is_wrong_with_a_text(
    bundle: Bundle,
    reference_folder: Path,
    tmp_path: Path,
    quiet: Progress,
    data: bytes | None,
    complaint: str,
) -> None:
    text = tmp_path / "letter.txt"
    if data is not None:
        text.write_bytes(data)
    with pytest.raises(BuildError, match=complaint):
        verify_bundle(bundle.folder, reference_folder, text, tmp_path / "cache", quiet)


def test_verify_reports_where_it_looked_for_a_reference(
    bundle: Bundle, tmp_path: Path, quiet: Progress
) -> None:
    with pytest.raises(BuildError, match=r"no fp32 export of toy in .*--reference DIR"):
        verify_bundle(bundle.folder, None, None, tmp_path / "cache", quiet)


def test_verify_names_a_reference_folder_without_a_graph(
    bundle: Bundle, tmp_path: Path, quiet: Progress
) -> None:
    with pytest.raises(BuildError, match=r"no model\.onnx there"):
        verify_bundle(bundle.folder, tmp_path / "nowhere", None, tmp_path / "cache", quiet)


def test_verify_refuses_the_reference_of_another_model(
    bundle: Bundle, tmp_path: Path, quiet: Progress
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    config = replace(TinyConfig(), vocab_size=300)
    onnx.save_model(PortableForm(config, tiny_weights(config, 0)).model(), other / "model.onnx")
    text = tmp_path / "letter.txt"
    text.write_text("some text")
    with pytest.raises(BuildError, match=r"has 296 logits, the reference has 300"):
        verify_bundle(bundle.folder, other, text, tmp_path / "cache", quiet)


def test_a_fused_reference_is_recognised(tmp_path: Path, quiet: Progress) -> None:
    """Both forms of the toy compute the same, so one can be the reference of the other."""
    reference = write_tiny_bundle(tmp_path / "fused", fused=True)
    bundle = open_bundle(write_tiny_bundle(tmp_path / "portable", fused=False))
    assert bundle.manifest.graph is GraphKind.PORTABLE
    quality = run_gate(bundle, reference, tmp_path / "cache", quiet)
    assert quality.mean_kl < 1e-6
