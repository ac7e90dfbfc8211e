"""A tiny bundle in the form that takes adapters, made as the builder makes one."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edged.builder.adapters import convert_adapter
from edged.builder.fuse import fuse
from edged.builder.hidden import write_hidden
from edged.builder.kvcache import measure_peaks, write_int8_cache
from edged.builder.onnx_files import read_graph, write_graph
from edged.builder.quantize import Scheme, quantize
from edged.bundle.folder import Bundle, write_manifest
from edged.bundle.manifest import MODEL, GraphKind, KvType, ModelFacts, ModelLimits, Try
from edged.specialists.adapter import AdaptedModel, Adapter, adapter_bytes, made_adapter
from edged.specialists.demanded import Demands
from edged.specialists.folder import Result
from edged.specialists.writer import Writer, WriterDescription, write_writer
from tests.builder.tiny_families import VOCAB_SIZE
from tests.peft_folder import TINY, write_peft
from tests.tiny_model import tiny_manifest, write_tiny_tokenizer

MAX_MODEL_LEN = 128
# The one of two layers that takes adapters.
LAYER = 1
ROOMS = {
    "type": "object",
    "properties": {
        "state": {"enum": ["on", "off"]},
        "room": {"type": "string", "x-inputs": {"list": "rooms", "value": "id", "say": "name"}},
    },
    "required": ["state", "room"],
    "additionalProperties": False,
}
"""The answers of a tiny writer: a room of those that come with the request is on or off."""
_RESULT = Result(0.9, 0.8, 0.95, 0.02, 40, 0.95, 0.8, 0.97, None)
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

    def description(self, name: str, **changes: Any) -> WriterDescription:  # noqa: ANN401
        """Return that of a writer of rooms, which is always sure."""
        model, schema = AdaptedModel.of(self.bundle.manifest), json.dumps(ROOMS)
        said = WriterDescription(
            format=1,
            name=name,
            base=model,
            template="Say it.",
            schema=schema,
            is_list=False,
            has_text=False,
            grounded=(),
            demands=Demands(),
            slope=1.0,
            shift=0.0,
            unsure_below=0.0,
            result=_RESULT,
            adapter_sha256="",
            mean_kl=0.0,
        )
        return replace(said, **changes)

    def writer(self, name: str, seed: int = 0, **changes: Any) -> Writer:  # noqa: ANN401
        """Return a writer with a random adapter."""
        said = self.description(name, **changes)
        return Writer(said, said.wording, self.adapter(seed, 0.5))

    def write_writer(self, folder: Path, seed: int = 0, **changes: Any) -> None:  # noqa: ANN401
        """Write a writer with a random adapter, called as its folder where no change says else."""
        adapter = adapter_bytes(self.adapter(seed, 0.5).parts)
        write_writer(folder, self.description(**{"name": folder.name, **changes}), adapter)


def write_adapted_bundle(
    export: Path, folder: Path, vocab_size: int = VOCAB_SIZE, max_model_len: int = MAX_MODEL_LEN
) -> AdaptedBundle:
    """Write a bundle of an exported tiny model into ``folder``."""
    reference, bundle = folder / "fp32", folder / "bundle"
    fuse(export, reference, max_model_len=max_model_len)
    bundle.mkdir()
    quantize(reference, bundle, Scheme.INT8_W8A8, TEXTS)
    model = read_graph(bundle)
    write_hidden(model.graph)
    write_graph(bundle, model)
    # As it is before it has branches.
    shutil.copyfile(bundle / MODEL, folder / "unsplit.onnx")
    write_int8_cache(bundle, measure_peaks(reference, TEXTS))
    write_tiny_tokenizer(bundle / "tokenizer.json")
    facts = ModelFacts("llama", 100_000, vocab_size, 2, 2 * 2 * 2 * 16, KvType.INT8)
    manifest = replace(
        tiny_manifest(facts, graph=GraphKind.FUSED),
        scheme=Scheme.INT8_W8A8.value,
        limits=ModelLimits(max_model_len),
        tries=(Try("int8-w8a8", "static", "int8", True, 0.0, 1.0, 1.0),),
    )
    return AdaptedBundle(write_manifest(bundle, manifest), reference, folder)
