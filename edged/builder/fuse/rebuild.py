"""Write the fused graph: one method for each kind of block.

Rule: a node has the name of its module, and a weight the name of its node with ``.weight``, so that
a profile of the graph can be read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edged.builder.fuse.attention_nodes import write_attention, write_norm, write_sum_and_norm
from edged.builder.fuse.blocks import (
    Activation,
    ActivationKind,
    Attention,
    Block,
    Copy,
    Embedding,
    Linear,
    Norm,
    Rotary,
)
from edged.builder.fuse.decoder import Decoder
from edged.builder.fuse.emitter import Emitter, module_name
from edged.builder.fuse.plan import Pack, Plan
from edged.builder.fuse.traced import Array
from edged.builder.onnx_files import MICROSOFT, attribute

_ACTIVATIONS: Mapping[ActivationKind, tuple[str, dict[str, Any]]] = {
    ActivationKind.SILU: ("QuickGelu", {"domain": MICROSOFT, "alpha": 1.0}),
    ActivationKind.GELU: ("Gelu", {}),
    ActivationKind.GELU_TANH: ("Gelu", {"approximate": "tanh"}),
    ActivationKind.RELU: ("Relu", {}),
}


class Rebuilder:
    """Writes a decoder's blocks into an emitter."""

    def __init__(self, emitter: Emitter, decoder: Decoder, plan: Plan) -> None:
        self._emit = emitter
        self._decoder = decoder
        self._plan = plan
        self._tables = {b.weight: b for b in decoder.blocks if isinstance(b, Embedding)}
        self._packed: dict[str, str] = {}
        self._writers: dict[type[Block], Callable[[Any], None]] = {
            Activation: self._activation,
            Attention: self._attention,
            Copy: self._copy,
            Embedding: self._embedding,
            Linear: self._linear,
            Norm: self._norm,
        }

    def write(self) -> None:
        """Write all blocks, the last one's output as ``logits``."""
        last = self._decoder.attentions[-1]
        for block in self._decoder.blocks:
            if block.outputs[0] not in self._plan.done:
                self._writers[type(block)](block)
            if block is last:
                self._emit.select_rows()
        self._emit.nodes[-1].output[0] = "logits"

    def _embedding(self, block: Embedding) -> None:
        name = module_name(block.scope)
        table = self._emit.weight(f"{name}.weight", self._emit.constant(block.weight))
        self._define(block, self._emit.node("Gather", [table, "input_ids"], name, axis=0))

    def _linear(self, block: Linear) -> None:
        pack = self._plan.packs.get(block.outputs[0])
        if pack is not None:
            if pack.name not in self._packed:
                self._pack(pack)
            return
        name = module_name(block.scope)
        weight = self._transposed_table(block) or self._emit.weight(
            f"{name}.weight", self._emit.constant(block.weight)
        )
        bias = None if block.bias is None else self._emit.constant(block.bias)
        output = self._matmul(name, block.inputs[0], weight, bias)
        self._define(block, [output])
        if block.outputs[0] in self._plan.splits:
            self._split(name, output, self._plan.splits[block.outputs[0]])

    def _transposed_table(self, block: Linear) -> str | None:
        """Return the weight of a head tied to the embedding, which is stored once; else None."""
        transpose = self._emit.graph.producer(block.weight)
        table = self._tables.get(transpose.input[0]) if transpose is not None else None
        if table is None:
            return None
        source = f"{module_name(table.scope)}.weight"
        name = f"{module_name(block.scope)}.weight"
        return self._emit.node(
            "Transpose", [source], f"{name}.transpose", outputs=[name], perm=[1, 0]
        )[0]

    def _pack(self, pack: Pack) -> None:
        name = module_name(pack.name)
        weights = [self._emit.constant(linear.weight) for linear in pack.linears]
        weight = self._emit.weight(f"{name}.weight", np.concatenate(weights, axis=1))
        bias = None
        if any(linear.bias for linear in pack.linears):
            bias = np.concatenate(
                [
                    self._emit.constant(x.bias) if x.bias else np.zeros(x.width, np.float32)
                    for x in pack.linears
                ]
            )
        output = self._matmul(name, pack.linears[0].inputs[0], weight, bias)
        self._packed[pack.name] = output
        if not pack.is_attention:
            self._split(name, output, [(x.outputs[0], x.width) for x in pack.linears])

    def _matmul(self, name: str, source: str, weight: str, bias: Array | None) -> str:
        (output,) = self._emit.node("MatMul", [self._emit.value(source), weight], name)
        if bias is not None:
            terms = [output, self._emit.weight(f"{name}.bias", bias)]
            (output,) = self._emit.node("Add", terms, f"{name}.add_bias")
        return output

    def _split(self, name: str, source: str, parts: Sequence[tuple[str, int]]) -> None:
        """Split the last axis of ``source``; parts are tensors of the export and their sizes."""
        outputs = self._emit.node(
            "Split",
            [source, self._emit.shape(*(size for _, size in parts))],
            f"{name}.split",
            outputs=[f"{name}.output.{index}" for index in range(len(parts))],
            axis=-1,
        )
        for (export_name, _), output in zip(parts, outputs, strict=True):
            self._emit.define(export_name, output)

    def _norm(self, block: Norm) -> None:
        self._define(block, [write_norm(self._emit, block, self._emit.value(block.inputs[0]))])

    def _activation(self, block: Activation) -> None:
        op_type, attributes = _ACTIVATIONS[block.kind]
        sources = [self._emit.value(block.inputs[0])]
        name = module_name(block.scope)
        self._define(block, self._emit.node(op_type, sources, name, **attributes))

    def _copy(self, block: Copy) -> None:
        norm = self._plan.sums.get(block.outputs[0])
        if norm is not None:
            self._sum_and_norm(block, norm)
            return
        name = module_name(block.node.name.strip("/").replace("/", "."))
        inputs = []
        for index, item in enumerate(block.node.input):
            if self._emit.graph.resolve(item) in block.inputs:
                inputs.append(self._emit.value(item))
            elif item:
                value = self._decoder.slice_bounds.get(item)
                value = self._emit.constant(item) if value is None else value
                inputs.append(self._emit.weight(f"{name}.constant_{index}", value))
            else:
                inputs.append("")
        attributes = {a.name: attribute(block.node, a.name) for a in block.node.attribute}
        outputs = [f"{name}.output.{index}" for index in range(len(block.outputs))]
        self._emit.node(block.node.op_type, inputs, name, outputs=outputs, **attributes)
        self._define(block, outputs)

    def _sum_and_norm(self, block: Copy, norm: Norm) -> None:
        """Add the residual and norm the sum in one node."""
        total = block.outputs[0]
        is_sum_read = any(total in other.inputs for other in self._decoder.blocks if other != norm)
        sources = [self._emit.value(name) for name in block.inputs]
        normed, summed = write_sum_and_norm(self._emit, norm, sources, is_sum_read=is_sum_read)
        self._define(norm, [normed])
        if is_sum_read:
            self._define(block, [summed])

    def _attention(self, block: Attention) -> None:
        pack = self._plan.packs.get(block.inputs[0])
        if pack is not None:
            sources = [self._packed[pack.name]]
        else:
            sources = [self._emit.value(name) for name in block.inputs]
        caches = None if block.rotary is None else self._rotary_caches(block.rotary)
        self._define(block, [write_attention(self._emit, block, sources, caches)])

    def _rotary_caches(self, rotary: Rotary) -> tuple[str, str]:
        """Return the names of cosines and sines, stored once for all layers that share them."""
        index = list(self._decoder.caches).index(rotary)
        cos, sin = self._decoder.caches[rotary]
        return (
            self._emit.weight(f"rotary.{index}.cos_cache", cos),
            self._emit.weight(f"rotary.{index}.sin_cache", sin),
        )

    def _define(self, block: Block, outputs: Sequence[str]) -> None:
        for export_name, name in zip(block.outputs, outputs, strict=True):
            self._emit.define(export_name, name)
