"""The fused graph in progress: its nodes, its weights, and the selection of ``rows``.

Rule: weights are written to the data file at once and not kept in memory. After the last attention
each tensor is reduced to the selected rows when it is read, so the last MLP and the output
projection compute no other rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edged.builder.fuse.traced import Array, NotFusable, TracedGraph
from edged.builder.onnx_files import MICROSOFT, GraphWriter

_OPSET_MIN = 20  # Gelu
_IR_VERSION = 10


class Emitter:
    """Collects the nodes of the fused graph and writes its weights."""

    def __init__(self, graph: TracedGraph, writer: GraphWriter) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self._writer = writer
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._values: dict[str, str] = {"input_ids": "input_ids"}
        self._selected: dict[str, str] = {}
        self._all_rows: frozenset[str] = frozenset()

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        name: str,
        *,
        outputs: Sequence[str] | None = None,
        **attributes: Any,  # noqa: ANN401 - ONNX's attributes have many types
    ) -> list[str]:
        """Add a node and return its outputs; ``domain`` may be among the attributes."""
        names = [f"{name}.output"] if outputs is None else list(outputs)
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name, **attributes))
        return names

    def weight(self, name: str, values: Array) -> str:
        """Store a constant once, and return its name."""
        if name not in self._initializers:
            self._initializers[name] = self._writer.add(name, values)
        return name

    def constant(self, name: str) -> Array:
        """Return the value of a constant of the export.

        Raises:
            NotFusable: It is not constant.
        """
        value = self.graph.constant(name)
        if value is None:
            raise NotFusable(f"{name} is not a constant")
        return value

    def define(self, export_name: str, name: str) -> None:
        """Record which tensor of the fused graph replaces one of the export."""
        self._values[export_name] = name

    def value(self, export_name: str) -> str:
        """Return the tensor that replaces one of the export, reduced to the selected rows."""
        name = self._values[self.graph.resolve(export_name)]
        if name not in self._all_rows:
            return name
        if name not in self._selected:
            selected = f"{name}.rows"
            self.node("Gather", [name, "rows"], selected, outputs=[selected], axis=1)
            self._selected[name] = selected
        return self._selected[name]

    def select_rows(self) -> None:
        """Reduce every tensor written so far to the selected rows when it is read."""
        self._all_rows = frozenset(self._values.values())

    def finish(self, cache_dims: tuple[int, int], num_layers: int, vocab_size: int) -> None:
        """Write the graph with the inputs and outputs of a fused graph."""
        cache = ["batch", cache_dims[0], "capacity", cache_dims[1]]
        names = [f"{i}.{kind}" for i in range(num_layers) for kind in ("key", "value")]
        integers, floats = TensorProto.INT64, TensorProto.FLOAT
        info = helper.make_tensor_value_info
        inputs = [
            info("input_ids", integers, ["batch", "tokens"]),
            info("seqlens_k", TensorProto.INT32, ["batch"]),
            info("total_sequence_length", TensorProto.INT32, []),
            info("query_seqlens", TensorProto.INT32, ["batch"]),
            info("rows", integers, ["num_rows"]),
            *(info(f"past_key_values.{name}", floats, cache) for name in names),
        ]
        outputs = [
            info("logits", floats, ["batch", "num_rows", vocab_size]),
            *(info(f"present.{name}", floats, cache) for name in names),
        ]
        opsets = [
            helper.make_opsetid("", max(self.graph.opset, _OPSET_MIN)),
            helper.make_opsetid(MICROSOFT, 1),
        ]
        model = helper.make_model(
            helper.make_graph(self.nodes, "edged", inputs, outputs),
            opset_imports=opsets,
            ir_version=_IR_VERSION,
        )
        self._writer.finish(model, self._initializers.values())

    def shape(self, *dims: int) -> str:
        """Return a constant shape."""
        return self.weight("shape_" + "_".join(map(str, dims)), np.array(dims, np.int64))


def module_name(scope: str) -> str:
    """Return the fused graph's name of a module of the export."""
    return scope.replace(".self_attn", ".attn")
