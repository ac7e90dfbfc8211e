"""The graphs of the toy decoder, in both forms, from the same weights.

``onnx`` is imported when a graph is built, never when this module is imported.
"""

import importlib
import os
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tests.requirements import require

Array = NDArray[Any]


@dataclass(frozen=True)
class TinyConfig:
    """The shape of the toy."""

    vocab_size: int = 296
    num_layers: int = 2
    hidden: int = 64
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 16
    intermediate: int = 96
    max_model_len: int = 256
    fatal_token: int | None = None
    """A token at which the graph divides -2^63 by -1: on x86-64 the process ends with SIGFPE."""

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * 4 * self.num_layers * self.num_kv_heads * self.head_size


def import_onnx() -> ModuleType:
    """Return onnx; a test that needs it is skipped where only the base is installed.

    ``EDGED_TEST_TOOLS`` names a folder that has it for the tests alone: .ci/base-only makes its toy
    models with an onnx that the runtime under test cannot import.
    """
    tools = [path for path in [os.environ.get("EDGED_TEST_TOOLS")] if path]
    sys.path += tools
    try:
        return importlib.import_module("onnx")
    except ModuleNotFoundError:
        require(condition=False, reason="onnx (the `build` extra) to write the toy model")
        raise
    finally:
        del sys.path[len(sys.path) - len(tools) :]


def tiny_weights(config: TinyConfig, seed: int) -> dict[str, Array]:
    random = np.random.Generator(np.random.PCG64(seed))

    def matrix(rows: int, columns: int) -> Array:
        values: Array = random.standard_normal((rows, columns)) / np.sqrt(rows)
        return values.astype(np.float32)

    heads = config.num_heads * config.head_size
    kv_heads = config.num_kv_heads * config.head_size
    weights: dict[str, Array] = {"embed": matrix(config.vocab_size, config.hidden) * np.float32(8)}
    for layer in range(config.num_layers):
        weights |= {
            f"{layer}.norm1": np.ones(config.hidden, np.float32),
            f"{layer}.q": matrix(config.hidden, heads),
            f"{layer}.k": matrix(config.hidden, kv_heads),
            f"{layer}.v": matrix(config.hidden, kv_heads),
            f"{layer}.o": matrix(heads, config.hidden),
            f"{layer}.norm2": np.ones(config.hidden, np.float32),
            f"{layer}.gate": matrix(config.hidden, config.intermediate),
            f"{layer}.up": matrix(config.hidden, config.intermediate),
            f"{layer}.down": matrix(config.intermediate, config.hidden),
        }
    weights["norm"] = np.ones(config.hidden, np.float32)
    weights["head"] = matrix(config.hidden, config.vocab_size) * np.float32(2)
    half = config.head_size // 2
    inverse = 1.0 / (10000.0 ** (np.arange(half) / half))
    angles = np.arange(config.max_model_len + 1)[:, None] * inverse[None, :]
    return weights | {
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
    }


class Graph:
    """The layers that both forms share; a form adds its attention and its inputs."""

    def __init__(self, config: TinyConfig, weights: dict[str, Array]) -> None:
        self.onnx = import_onnx()
        self.config = config
        self.nodes: list[Any] = []
        self.initializers = [self.onnx.numpy_helper.from_array(w, n) for n, w in weights.items()]
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def constant(self, value: ArrayLike) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(
        self, op_type: str, *inputs: str, outputs: tuple[str, ...] = (), **attributes: object
    ) -> str:
        outputs = outputs or (f"{op_type}_{len(self.nodes)}",)
        node = self.onnx.helper.make_node(op_type, list(inputs), list(outputs), **attributes)
        self.nodes.append(node)
        return outputs[0]

    def value(self, name: str, kind: str, shape: list[int | str]) -> object:
        return self.onnx.helper.make_tensor_value_info(
            name, getattr(self.onnx.TensorProto, kind), shape
        )

    def norm(self, x: str, weight: str) -> str:
        return self.add("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=1e-5)

    def attention(self, layer: int, query: str, key: str, value: str) -> str:
        raise NotImplementedError

    def ids(self) -> str:
        if self.config.fatal_token is None:
            return "input_ids"
        is_fatal = self.add("Equal", "input_ids", self.constant(self.config.fatal_token))
        least, none = (self.constant(np.int64(value)) for value in (-(2**63), 0))
        zeros = self.add("Div", self.add("Where", is_fatal, least, none), self.constant([[-1]]))
        return self.add("Add", "input_ids", zeros)

    def body(self) -> str:
        x = self.add("Gather", "embed", self.ids())
        for i in range(self.config.num_layers):
            normed = self.norm(x, f"{i}.norm1")
            query, key, value = (self.add("MatMul", normed, f"{i}.{name}") for name in "qkv")
            mixed = self.add("MatMul", self.attention(i, query, key, value), f"{i}.o")
            x = self.add("Add", x, mixed)
            normed = self.norm(x, f"{i}.norm2")
            gate = self.add("MatMul", normed, f"{i}.gate")
            gate = self.add("Mul", gate, self.add("Sigmoid", gate))
            wide = self.add("Mul", gate, self.add("MatMul", normed, f"{i}.up"))
            x = self.add("Add", x, self.add("MatMul", wide, f"{i}.down"))
        return self.norm(x, "norm")

    def model(self) -> object:
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes, "tiny", self.inputs, self.outputs, initializer=self.initializers
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def cache_values(self, past: str, present: str) -> None:
        config = self.config
        for i in range(config.num_layers):
            for part in ("key", "value"):
                shape: list[int | str] = ["batch", config.num_kv_heads, past, config.head_size]
                self.inputs.append(self.value(f"past_key_values.{i}.{part}", "FLOAT", shape))
                shape = ["batch", config.num_kv_heads, present, config.head_size]
                self.outputs.append(self.value(f"present.{i}.{part}", "FLOAT", shape))


class FusedForm(Graph):
    """GroupQueryAttention over a cache that is updated in place; logits of chosen rows only."""

    def __init__(self, config: TinyConfig, weights: dict[str, Array]) -> None:
        super().__init__(config, weights)
        self.inputs += [
            self.value("input_ids", "INT64", ["batch", "sequence"]),
            self.value("seqlens_k", "INT32", ["batch"]),
            self.value("total_sequence_length", "INT32", []),
            self.value("query_seqlens", "INT32", ["batch"]),
            self.value("rows", "INT64", ["num_rows"]),
        ]
        logits_shape: list[int | str] = ["batch", "num_rows", config.vocab_size]
        self.outputs.append(self.value("logits", "FLOAT", logits_shape))
        self.cache_values("capacity", "capacity")
        picked = self.add("Gather", self.body(), "rows", axis=1)
        self.add("MatMul", picked, "head", outputs=("logits",))

    def attention(self, layer: int, query: str, key: str, value: str) -> str:
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        lengths = ["seqlens_k", "total_sequence_length", "cos", "sin"]
        pads = self.constant([0, 0, 0, 0, 1, 0])
        spared = [self.add("Pad", source, pads) for source in (query, key, value)]
        attended = self.add(
            "GroupQueryAttention",
            *(*spared, *past, *lengths, *[""] * 7, "query_seqlens"),
            outputs=(f"attention_{layer}", f"present.{layer}.key", f"present.{layer}.value"),
            domain="com.microsoft",
            num_heads=self.config.num_heads,
            kv_num_heads=self.config.num_kv_heads,
            do_rotary=1,
        )
        return self.add("Slice", attended, *(self.constant([bound]) for bound in (0, -1, 1)))


class PortableForm(Graph):
    """Plain operators and a past that grows, as the reference exporter writes them."""

    def __init__(self, config: TinyConfig, weights: dict[str, Array]) -> None:
        super().__init__(config, weights)
        self.inputs += [
            self.value("input_ids", "INT64", ["batch", "sequence"]),
            self.value("attention_mask", "INT64", ["batch", "past + sequence"]),
            self.value("position_ids", "INT64", ["batch", "sequence"]),
        ]
        logits_shape: list[int | str] = ["batch", "sequence", config.vocab_size]
        self.outputs.append(self.value("logits", "FLOAT", logits_shape))
        self.cache_values("past", "past + sequence")
        self.cos, self.sin = (
            self.add("Unsqueeze", self.add("Gather", name, "position_ids"), self.constant([1]))
            for name in ("cos", "sin")
        )
        self.bias = self.causal_bias()
        self.add("MatMul", self.body(), "head", outputs=("logits",))

    def causal_bias(self) -> str:
        """``[batch, 1, sequence, total]``: 0 where a key may be seen, else very negative."""
        total = self.add("Squeeze", self.add("Shape", "attention_mask", start=1, end=2))
        keys = self.add("Range", self.constant(np.int64(0)), total, self.constant(np.int64(1)))
        queries = self.add("Unsqueeze", "position_ids", self.constant([1, 3]))
        is_past = self.add("LessOrEqual", keys, queries)
        is_real = self.add("Cast", "attention_mask", to=self.onnx.TensorProto.BOOL)
        is_seen = self.add("And", is_past, self.add("Unsqueeze", is_real, self.constant([1, 2])))
        none, hidden = self.constant(np.float32(0)), self.constant(np.float32(-1e30))
        return self.add("Where", is_seen, none, hidden)

    def heads(self, x: str, count: int) -> str:
        shape = self.constant([0, -1, count, self.config.head_size])
        return self.add("Transpose", self.add("Reshape", x, shape), perm=[0, 2, 1, 3])

    def rotate(self, x: str) -> str:
        half = self.config.head_size // 2
        first, second = f"{x}_first", f"{x}_second"
        self.add("Split", x, self.constant([half, half]), outputs=(first, second), axis=-1)
        left = self.add("Sub", self.add("Mul", first, self.cos), self.add("Mul", second, self.sin))
        right = self.add("Add", self.add("Mul", second, self.cos), self.add("Mul", first, self.sin))
        return self.add("Concat", left, right, axis=-1)

    def repeated(self, x: str) -> str:
        """Give each query head its key or value head."""
        config = self.config
        times = config.num_heads // config.num_kv_heads
        x = self.add("Unsqueeze", x, self.constant([2]))
        x = self.add("Expand", x, self.constant([1, 1, times, 1, 1]))
        return self.add("Reshape", x, self.constant([1, config.num_heads, -1, config.head_size]))

    def attention(self, layer: int, query: str, key: str, value: str) -> str:
        config = self.config
        query = self.rotate(self.heads(query, config.num_heads))
        fresh = {
            "key": self.rotate(self.heads(key, config.num_kv_heads)),
            "value": self.heads(value, config.num_kv_heads),
        }
        for part, new in fresh.items():
            past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
            self.add("Concat", past, new, outputs=(present,), axis=2)
        keys = self.repeated(f"present.{layer}.key")
        scores = self.add("MatMul", query, self.add("Transpose", keys, perm=[0, 1, 3, 2]))
        scale = self.constant(np.float32(config.head_size**-0.5))
        scores = self.add("Add", self.add("Mul", scores, scale), self.bias)
        values = self.repeated(f"present.{layer}.value")
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), values)
        mixed = self.add("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.add("Reshape", mixed, self.constant([0, 0, -1]))
