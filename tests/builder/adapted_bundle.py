"""A tiny bundle in the form that takes adapters, made as the builder makes one."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edged.builder.adapters import convert_adapter
from edged.builder.fuse import fuse
from edged.builder.hidden import write_hidden
from edged.builder.kvcache import measure_peaks, write_int8_cache
from edged.builder.onnx_files import read_graph, write_graph
from edged.builder.quantize import Scheme, quantize
from edged.bundle.folder import Bundle, write_manifest
from edged.bundle.manifest import GraphKind, KvType, ModelFacts, Try
from edged.specialists.adapter import Adapter, made_adapter
from tests.builder.tiny_families import VOCAB_SIZE
from tests.peft_folder import TINY, write_peft
from tests.tiny_model import tiny_manifest, write_tiny_tokenizer

MAX_MODEL_LEN = 128
# The upper third of two layers.
LAYER = 1
TEXTS = np.random.default_rng(1).integers(3, 150, (4, 40)).tolist()


@dataclass(frozen=True)
class AdaptedBundle:
    """A bundle and the fp32 graph that it was made of."""

    bundle: Bundle
    reference: Path
    scratch: Path

    def peft(self, seed: int = 0, strength: float = 0.1) -> Path:
        """Return a folder with a random adapter in PEFT's format."""
        folder = self.scratch / f"peft-{seed}-{strength}"
        return write_peft(folder, TINY, [LAYER], seed=seed, strength=strength)

    def adapter(self, seed: int = 0, strength: float = 0.1) -> Adapter:
        """Return a random adapter in the bundle's form."""
        folder = self.peft(seed, strength)
        return made_adapter(convert_adapter(folder, self.bundle.manifest, self.reference))


def write_adapted_bundle(export: Path, folder: Path) -> AdaptedBundle:
    """Write a bundle of an exported tiny model into ``folder``."""
    reference, bundle = folder / "fp32", folder / "bundle"
    fuse(export, reference, max_model_len=MAX_MODEL_LEN)
    bundle.mkdir()
    quantize(reference, bundle, Scheme.INT8_W8A8, TEXTS)
    model = read_graph(bundle)
    write_hidden(model.graph)
    write_graph(bundle, model)
    write_int8_cache(bundle, measure_peaks(reference, TEXTS))
    write_tiny_tokenizer(bundle / "tokenizer.json")
    facts = ModelFacts("llama", 100_000, VOCAB_SIZE, 2, 2 * 2 * 2 * 16, KvType.INT8)
    manifest = replace(
        tiny_manifest(facts, graph=GraphKind.FUSED),
        scheme=Scheme.INT8_W8A8.value,
        tries=(Try("int8-w8a8", "static", "int8", True, 0.0, 1.0, 1.0),),
    )
    return AdaptedBundle(write_manifest(bundle, manifest), reference, folder)
