"""Adapters on a bundle: what PEFT trained is what runs, and answers do not depend on company."""

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edged.builder import adapter_gate, prefill_attention
from edged.builder.adapter_gate import AdapterGateError, gated_adapter, measure_adapter
from edged.builder.adapters import convert_adapter, restore_adapter
from edged.builder.kvcache import measure_peaks, write_int8_cache
from edged.builder.peft import CONFIG, WEIGHTS, read_peft
from edged.builder.progress import Progress
from edged.builder.quantize import Scaling
from edged.builder.verify import check_adapted
from edged.bundle.folder import Bundle, write_manifest
from edged.bundle.manifest import ADAPTED_MODEL, MODEL
from edged.bundle.tensor_file import Tensors, read_tensors, write_tensors
from edged.daemon.specialist_folders import Adaptable, SpecialistFolders
from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from edged.engine.steps import DecodeInput
from edged.errors import BuildError, BundleError
from edged.specialists.adapter import (
    AdaptedModel,
    Adapter,
    adapter_bytes,
    made_adapter,
    read_adapter,
)
from edged.specialists.writer import write_writer
from tests.builder.adapted_bundle import TEXTS, AdaptedBundle
from tests.peft_folder import TINY, write_peft

IDS = np.random.default_rng(0).integers(3, 150, 40)
NUM_SLOTS = 8

# Of each the second half is an answer.
SEQUENCES = [(text, [2 * index >= len(text) for index in range(len(text))]) for text in TEXTS]


def load(adapted: AdaptedBundle) -> Graph:
    path = adapted.bundle.adapted_path
    return load_graph(path, is_fused=True, max_model_len=128, num_threads=1, num_slots=NUM_SLOTS)


def prefill(
    graph: Graph, slot: int, adapter: Adapter | None, chunks: Sequence[int] = (40,)
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Run the prompt; return the last logits, and the keys and values."""
    graph.adapt(slot, adapter)
    start = 0
    for count in chunks:
        logits = graph.forward(IDS[start : start + count], start, slot=slot).copy()
        start += count
    return logits[0], graph.read(slot)


def test_what_peft_trained_is_what_runs(adapted: AdaptedBundle) -> None:
    """Rotated, in 8 bits: as close to the adapted fp32 model as the plain one is to plain fp32."""
    peft = read_peft(adapted.peft())
    parts = convert_adapter(adapted.peft(), adapted.bundle.manifest, adapted.reference)
    args = adapted.bundle, adapted.reference, SEQUENCES
    plain = measure_adapter({}, {}, *args).answers
    own = measure_adapter(peft, parts, *args).answers
    without = measure_adapter(peft, {}, *args).answers
    assert without > 20 * own
    assert own < 3 * plain


@pytest.mark.parametrize("name", TINY)
def test_each_projection_is_adapted_alone(
    adapted: AdaptedBundle, name: str, tmp_path: Path
) -> None:
    """None is mistaken for another one of its product."""
    folder = write_peft(tmp_path, {name: TINY[name]}, [1], strength=0.3)
    parts = convert_adapter(folder, adapted.bundle.manifest, adapted.reference)
    args = adapted.bundle, adapted.reference, SEQUENCES
    own = measure_adapter(read_peft(folder), parts, *args).answers
    assert measure_adapter(read_peft(folder), {}, *args).answers > 5 * own


def test_an_adapter_of_one_scaling_is_that_of_the_other_in_its_units(
    adapted: AdaptedBundle,
) -> None:
    manifest = adapted.bundle.manifest
    last = manifest.tries[-1]
    other = replace(manifest, tries=(*manifest.tries, replace(last, scaling=Scaling.DYNAMIC)))
    own, expected = AdaptedModel.of(manifest), AdaptedModel.of(other)
    assert own != expected
    made = made_adapter(convert_adapter(adapted.peft(), manifest, adapted.reference))
    factor = expected.factor_from(own)
    assert factor is not None
    assert own.factor_from(expected) == 1 / factor
    scaled = made.scaled(factor)
    assert scaled.key == made.key
    for name, part in convert_adapter(adapted.peft(), other, adapted.reference).items():
        np.testing.assert_allclose(scaled.parts[name].down_scales, part.down_scales, rtol=1e-6)
        np.testing.assert_array_equal(scaled.parts[name].down, part.down)
    assert own.factor_from(replace(own, source="another")) is None
    assert own.factor_from(replace(own, form=own.form.replace("/int8", "/fp32"))) is None


def test_what_a_bundle_has_goes_back_to_what_peft_trained(
    adapted: AdaptedBundle, tmp_path: Path
) -> None:
    """But for the rounding to 8 bits."""
    peft = read_peft(adapted.peft())
    manifest = adapted.bundle.manifest
    parts = convert_adapter(adapted.peft(), manifest, adapted.reference)
    folder = tmp_path / "writer"
    write_writer(folder, adapted.description(name="writer"), adapter_bytes(parts))
    found = restore_adapter(folder, manifest, adapted.reference)
    assert found.keys() == peft.keys()
    for name, pair in peft.items():
        expected = pair.up @ pair.down
        off = found[name].up @ found[name].down - expected
        assert np.linalg.norm(off) < 0.03 * np.linalg.norm(expected), name
    other = replace(manifest, source=replace(manifest.source, sha256="1" * 64))
    with pytest.raises(BundleError, match="taught to another model"):
        restore_adapter(folder, other, adapted.reference)


@pytest.mark.parametrize("chunks", [(39, 1), (1,) * 40, (13, 20, 7), (2, 38)])
def test_a_prompt_has_the_same_bits_however_it_is_cut(
    adapted: AdaptedBundle, chunks: Sequence[int]
) -> None:
    graph, adapter = load(adapted), adapted.adapter(strength=0.5)
    plain, expected = prefill(graph, 0, None), prefill(graph, 0, adapter)
    found = prefill(graph, 0, adapter, chunks)
    for index in range(2):
        np.testing.assert_array_equal(found[index], expected[index])
        assert not np.array_equal(found[index], plain[index])


@pytest.mark.parametrize("slots", [(0, 1), (0, 1, 2, 3), (2, 5), tuple(range(8))])
def test_answers_have_the_same_bits_alone_and_in_company(
    adapted: AdaptedBundle, slots: Sequence[int]
) -> None:
    """Of three adapters and of the plain model, with idle slots between them."""
    graph = load(adapted)
    given = [None, *(adapted.adapter(seed, 0.5) for seed in range(3))]
    for slot in range(NUM_SLOTS):
        prefill(graph, slot, given[slot % len(given)])

    def decode(*slots: int) -> list[NDArray[np.float32]]:
        inputs = [DecodeInput(slot, 7 + slot, 40) for slot in slots]
        return [row.copy() for row in graph.decode(inputs)]

    alone = [decode(slot)[0] for slot in slots]
    for row, expected in zip(decode(*slots), alone, strict=True):
        np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("slot", [0, 1])
def test_several_tokens_at_once_have_the_bits_of_one_after_the_other(
    adapted: AdaptedBundle, slot: int
) -> None:
    graph = load(adapted)
    prefill(graph, slot, adapted.adapter(strength=0.5) if slot else None)
    prefill(graph, 2, adapted.adapter(1, 0.5))
    ids = np.array([7, 8, 9, 10, 11])
    together = graph.forward(ids, 40, slot=slot, all_rows=True, is_prefill=False).copy()
    for index, token_id in enumerate(ids):
        inputs = [DecodeInput(slot, int(token_id), 40 + index), DecodeInput(2, 5, 40)]
        np.testing.assert_array_equal(graph.decode(inputs)[0], together[index])


@pytest.mark.parametrize("slots", [(0,), (0, 1), (0, 1, 2, 3), (2, 5), tuple(range(8))])
def test_several_tokens_of_several_slots_have_the_bits_of_one_after_the_other(
    adapted: AdaptedBundle, slots: Sequence[int]
) -> None:
    """Padded to the longest, with idle slots between them that are full."""
    graph = load(adapted)
    given = [None, *(adapted.adapter(seed, 0.5) for seed in range(3))]
    counts = {slot: (1, 4, 2, 5)[slot % 4] for slot in slots}

    def fill() -> None:
        for slot in range(NUM_SLOTS):
            prefill(graph, slot, given[slot % len(given)])
            for start in range(40, 128 if slot not in slots else 0, 40):
                graph.forward(np.resize(IDS, min(40, 128 - start)), start, slot=slot)

    fill()
    idle = {slot: graph.read(slot) for slot in range(NUM_SLOTS) if slot not in slots}
    expected, held = [], []
    for slot in slots:
        for index in range(counts[slot]):
            (row,) = graph.decode([DecodeInput(slot, 7 + index, 40 + index)])
        expected.append(row.copy())
        held.append(graph.read(slot))
    fill()
    inputs = [DecodeInput(s, 7, 40, tuple(range(8, 7 + counts[s]))) for s in slots]
    for row, slot, logits, bits in zip(graph.decode(inputs), slots, expected, held, strict=True):
        np.testing.assert_array_equal(row, logits)
        np.testing.assert_array_equal(graph.read(slot), bits)
    for slot, bits in idle.items():
        np.testing.assert_array_equal(graph.read(slot), bits)


@pytest.mark.parametrize("num_prompts", [1, 2, 4, 8])
def test_prompts_have_the_same_bits_alone_and_in_company(
    adapted: AdaptedBundle, num_prompts: int
) -> None:
    """Of three adapters and of the plain model, padded to the longest."""
    graph = load(adapted)
    given = [None, *(adapted.adapter(seed, 0.5) for seed in range(3))]
    lengths = [(23, 40, 9, 31)[slot % 4] for slot in range(num_prompts)]
    alone = [prefill(graph, n, given[n % 4], (length,)) for n, length in enumerate(lengths)]
    together = graph.prefill([IDS[:length] for length in lengths], 0)
    for slot, (row, (logits, held)) in enumerate(zip(together, alone, strict=True)):
        np.testing.assert_array_equal(row, logits)
        np.testing.assert_array_equal(graph.read(slot), held)


def test_a_slot_forgets_its_adapter(adapted: AdaptedBundle, tmp_path: Path) -> None:
    """Also the products that the next one leaves alone."""
    graph, one = load(adapted), adapted.adapter(strength=0.5)
    folder = write_peft(tmp_path, {"o_proj": TINY["o_proj"]}, [1])
    other = Adapter("other", convert_adapter(folder, adapted.bundle.manifest, adapted.reference))
    plain, expected = prefill(graph, 0, None), prefill(graph, 0, other)
    prefill(graph, 0, one)
    np.testing.assert_array_equal(prefill(graph, 0, other)[1], expected[1])
    np.testing.assert_array_equal(prefill(graph, 0, None)[1], plain[1])


def test_ours_and_the_librarys_files_are_the_same(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays: Tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1], np.int8),
    }
    found, _ = read_tensors(safetensors.save(arrays))
    again = safetensors.load(write_tensors(arrays, {"format": "pt"}))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True, which cannot be served; train without DoRA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern is"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"of_a_later_version": 1}, "of_a_later_version is 1, .*; train without it"),
        ({"r": 0}, "r must be a whole number"),
        ({"r": 8}, "r is not 8"),
        ({"lora_alpha": float("1e9")}, "lora_alpha must be"),
        ({"lora_alpha": True}, "lora_alpha must be"),
    ],
)
def test_what_cannot_be_served_names_the_key(
    tmp_path: Path, config: dict[str, Any], problem: str
) -> None:
    folder = write_peft(tmp_path, TINY, [1])
    said = json.loads((folder / CONFIG).read_text()) | config
    (folder / CONFIG).write_text(json.dumps(said))
    with pytest.raises(BuildError, match=problem):
        read_peft(folder)


def test_a_key_that_is_off_and_a_scale_of_rank_are_taken(tmp_path: Path) -> None:
    """``use_rslora`` divides by the root of the rank."""
    folder = write_peft(tmp_path, TINY, [1], use_dora=False, of_a_later_version=None)
    plain = read_peft(folder)[1, "q_proj"]
    root = read_peft(write_peft(tmp_path, TINY, [1], use_rslora=True))[1, "q_proj"]
    np.testing.assert_allclose(root.up, 2 * plain.up, rtol=1e-6)  # the root of 4


@pytest.mark.parametrize(
    ("layers", "shapes", "rank", "problem"),
    [
        ([0], TINY, 4, "layers_to_transform has layer 0, the bundle adapts 1"),
        ([1], {"x_proj": (64, 64)}, 4, "target_modules has x_proj, the bundle adapts q_proj"),
        ([1], {"q_proj": (64, 32)}, 4, "q_proj of layer 1 has 64 inputs and 32 outputs, not 64"),
        ([1], TINY, 17, "r is 17, the bundle takes 16 at most"),
    ],
)
def test_what_the_bundle_does_not_adapt_is_refused(
    adapted: AdaptedBundle,
    tmp_path: Path,
    layers: list[int],
    shapes: dict[str, tuple[int, int]],
    rank: int,
    problem: str,
) -> None:
    folder = write_peft(tmp_path, shapes, layers, rank=rank)
    with pytest.raises(BuildError, match=problem):
        convert_adapter(folder, adapted.bundle.manifest, adapted.reference)


def test_a_bundle_of_another_form_takes_none(adapted: AdaptedBundle) -> None:
    manifest = replace(adapted.bundle.manifest, scheme="int8-blockwise")
    with pytest.raises(BuildError, match="takes no adapters; rebuild it with `edged build`"):
        convert_adapter(adapted.peft(), manifest, adapted.reference)


_LAYER = "base_model.model.model.layers.2.self_attn"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"base_model.model.lm_head.lora_A.weight": np.zeros((4, 64))}, "is no LoRA matrix"),
        ({"nan": np.full((4, 64), np.nan)}, "no matrix of finite numbers"),
        ({"flat": np.zeros(4)}, "no matrix of finite numbers"),
        ({"half": np.zeros((4, 64))}, "r is not 4"),
        # A billion rows of nothing, which whoever reads them would fill.
        ({"empty": np.zeros((10**9, 0))}, "no matrix of finite numbers"),
        ({f"{_LAYER}.k_proj.lora_B.weight": np.zeros((64, 4))}, "k_proj: r is not 4"),
    ],
)
def test_matrices_that_are_wrong_are_named(
    tmp_path: Path, change: dict[str, NDArray[np.float64]], problem: str
) -> None:
    folder = write_peft(tmp_path, TINY, [1])
    arrays, _ = read_tensors((folder / WEIGHTS).read_bytes())
    ((name, array),) = change.items()
    if "." not in name:
        name = f"{_LAYER}.q_proj.lora_A.weight"
    (folder / WEIGHTS).write_bytes(write_tensors(arrays | {name: array.astype(np.float32)}, {}))
    with pytest.raises(BuildError, match=problem):
        read_peft(folder)


def without_adapted(adapted: AdaptedBundle, folder: Path) -> Bundle:
    """Return the bundle as an earlier version built it."""
    shutil.copytree(adapted.bundle.folder, folder)
    (folder / ADAPTED_MODEL).unlink()
    return write_manifest(folder, adapted.bundle.manifest)


def test_the_graph_of_a_node_without_writers_has_nothing_of_adapters(
    adapted: AdaptedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is to the byte what is written for a model that takes none, and shares its weights."""
    monkeypatch.setattr(prefill_attention, "find_products", lambda _: {})
    shutil.copyfile(adapted.reference.parent / "unsplit.onnx", tmp_path / MODEL)
    write_int8_cache(tmp_path, measure_peaks(adapted.reference, TEXTS))
    assert [path.name for path in tmp_path.iterdir()] == [MODEL]
    assert (tmp_path / MODEL).read_bytes() == adapted.bundle.model_path.read_bytes()
    plain = load_graph(adapted.bundle.model_path, is_fused=True, max_model_len=128)
    assert plain.adapter_shape == {} != load(adapted).adapter_shape
    with pytest.raises(ValueError, match="takes no adapters"):
        plain.adapt(0, adapted.adapter())


def test_both_graphs_compute_the_same_bits_or_the_build_ends(
    adapted: AdaptedBundle, tmp_path: Path
) -> None:
    shown = io.StringIO()
    check_adapted(adapted.bundle, Progress(shown))
    assert "Compare the graph that takes adapters" in shown.getvalue()
    check_adapted(without_adapted(adapted, tmp_path / "old"), Progress(shown))
    shutil.copytree(adapted.bundle.folder, tmp_path / "changed")
    model = onnx.load(tmp_path / "changed" / ADAPTED_MODEL, load_external_data=False)
    branch = next(node for node in model.graph.node if node.name == "adapted_decode")
    nodes = next(way.g.node for way in branch.attribute if way.name == "then_branch")
    adding = next(node for node in nodes if node.op_type == "Add")
    adding.input[1] = adding.input[0]
    onnx.save(model, tmp_path / "changed" / ADAPTED_MODEL)
    changed = write_manifest(tmp_path / "changed", adapted.bundle.manifest)
    with pytest.raises(BuildError, match=r"adapted\.onnx: without an adapter it computes other"):
        check_adapted(changed, Progress(shown))


def test_a_bundle_of_an_earlier_version_says_what_to_do(
    adapted: AdaptedBundle, tmp_path: Path
) -> None:
    """Where an adapter is measured on it, and where a node serves a writer from it."""
    bundle = without_adapted(adapted, tmp_path / "old")
    with pytest.raises(BundleError, match=r"no adapted\.onnx, .*`edged build`"):
        gated_adapter(adapted.peft(), bundle, adapted.reference, SEQUENCES)
    adapted.write_writer(tmp_path / "home")
    shape = load_graph(bundle.model_path, is_fused=True, max_model_len=8).adapter_shape
    model = AdaptedModel.of(bundle.manifest)
    served = SpecialistFolders(adaptable=Adaptable(model, shape, lambda _: None))
    served.read([tmp_path / "home"])
    assert (
        "takes no adapters; rebuild it with this version's `edged build`"
        in (served.problems["home"])
    )


def test_the_gate_counts_the_tokens_of_answers_and_shows_the_others(
    adapted: AdaptedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the adapter makes of a prompt is not said, however far from fp32 it is."""
    args = adapted.peft(), adapted.bundle, adapted.reference
    everything = [(ids, [True] * len(ids)) for ids, _ in SEQUENCES]
    monkeypatch.setattr(adapter_gate, "MAX_MEAN_KL", 1.0)
    (_, half), (_, whole) = gated_adapter(*args, SEQUENCES), gated_adapter(*args, everything)
    assert whole.answers == whole.rows == pytest.approx(half.rows)
    assert half.answers != pytest.approx(half.rows)
    low, high = sorted(half)
    marks = SEQUENCES
    if half.answers > half.rows:  # then the prompts are the nearer part
        marks = [(ids, [not one for one in is_answer]) for ids, is_answer in SEQUENCES]
        high, low = whole.rows, gated_adapter(*args, marks)[1].answers
    monkeypatch.setattr(adapter_gate, "MAX_MEAN_KL", (low + high) / 2)
    gated_adapter(*args, marks)
    with pytest.raises(AdapterGateError):
        gated_adapter(*args, everything)


def test_an_adapter_passes_the_gate_or_says_what_to_do(
    adapted: AdaptedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = adapted.peft(), adapted.bundle, adapted.reference, SEQUENCES
    monkeypatch.setattr(adapter_gate, "MAX_MEAN_KL", 1.0)
    parts, kl = gated_adapter(*args)
    assert 0 < kl.answers < 1
    shape = load(adapted).adapter_shape
    assert read_adapter(adapter_bytes(parts), shape).key == adapted.adapter().key
    monkeypatch.setattr(adapter_gate, "MAX_MEAN_KL", 1e-9)
    with pytest.raises(
        AdapterGateError, match=r"of 0\.\d+ over .* \(0\.\d+ with .*\), 1e-09 at most; train with a"
    ):
        gated_adapter(*args)
