"""Check the inputs and outputs of a model's graph before anything is bound.

Rule: a graph that differs from its manifest stops the start, with the name that is wrong.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.bundle.manifest import MODEL, KvType, ModelFacts
from edged.errors import BundleError
from edged.specialists.adapter import AdapterShape, ProductShape

# The branches of a graph. For each it has an input that is true in the runs that enter it, and
# outputs of its own, named as said here and then as in a graph without branches.
PREFILL, DECODE, ADAPTED = "prefill", "decode", "adapted_"
RUN = "run."
# Inputs of the branches that take adapters, before the product's name.
DOWN, UP = "adapter.down.", "adapter.up."

_Nodes = Mapping[str, onnxruntime.NodeArg]
_CACHE_INPUT = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_CACHE_TYPES: Mapping[str, tuple["np.dtype[Any]", KvType]] = {
    "tensor(float)": (np.dtype(np.float32), KvType.FP32),
    "tensor(int8)": (np.dtype(np.int8), KvType.INT8),
}

# Of one token; it decides how much memory a prompt's hidden states take.
_MAX_HIDDEN_WIDTH = 65_536
# Of one slot's adapter, in the form in which it runs; that of SmolLM2-135M takes 4.3 MB.
_MAX_ADAPTER_BYTES = 64 << 20
_FP32_BYTES = 4
# Keys or values, in the type that the graph keeps them in.
CacheArray = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Signature:
    """The sizes and names of a graph's inputs and outputs."""

    vocab_size: int
    cache_inputs: tuple[str, ...]
    """``past_key_values.*``, in the graph's order."""
    num_kv_heads: int
    head_size: int
    cache_dtype: "np.dtype[Any]"
    kv_type: KvType
    optional_inputs: frozenset[str] = frozenset()
    """The optional inputs that it has."""
    hidden_shape: tuple[int, int] = (0, 0)
    """Layers and features of ``hidden``; zeros without that output."""
    branches: frozenset[str] = frozenset()
    """Those that it has."""
    upper_outputs: frozenset[str] = frozenset()
    """Outputs of the cache that each branch has: those of the layers that take adapters."""
    adapter_shape: AdapterShape = field(default_factory=dict)
    """The products that take adapters."""

    @property
    def cache_outputs(self) -> tuple[str, ...]:
        """``present.*``, in the order of ``cache_inputs``."""
        return tuple(name.replace("past_key_values", "present") for name in self.cache_inputs)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the cache's rows of one position."""
        num_values = len(self.cache_inputs) * self.num_kv_heads * self.head_size
        return num_values * self.cache_dtype.itemsize


def read_signature(
    session: onnxruntime.InferenceSession,
    required: Mapping[str, str],
    optional: Mapping[str, str],
    facts: ModelFacts | None,
) -> Signature:
    """Check a loaded graph and return its sizes.

    ``required`` and ``optional`` hold ONNX Runtime's type of each input by name, without the cache;
    ``facts`` are the manifest's figures, by which the memory was planned.

    Raises:
        BundleError: an input or output is missing, unknown or of another type or shape, or not what
            the manifest says.
    """
    inputs = {node.name: node for node in session.get_inputs()}
    outputs = {node.name: node for node in session.get_outputs()}
    cache = tuple(name for name in inputs if _CACHE_INPUT.fullmatch(name))
    _check_names("input", inputs, [*required, *(cache or ["past_key_values.0.key"])])
    kind = inputs[cache[0]].type
    kind = kind if kind in _CACHE_TYPES else next(iter(_CACHE_TYPES))
    branches = _branches(inputs)
    adapters = _adapter_shape(inputs) if ADAPTED + DECODE in branches else {}
    types = {
        **required,
        **optional,
        **dict.fromkeys(cache, kind),
        **dict.fromkeys([f"{RUN}{branch}" for branch in branches], "tensor(bool)"),
        **dict.fromkeys([f"{DOWN}{product}" for product in adapters], "tensor(int8)"),
        **dict.fromkeys([f"{UP}{product}" for product in adapters], "tensor(float)"),
    }
    _check_types(inputs, types)
    shapes = {tuple(inputs[name].shape[1::2]) for name in cache}
    heads, head_size = shapes.pop()
    if shapes or not (_is_size(heads) and _is_size(head_size)):
        _refuse(f"input {cache[0]!r} and its like must be [batch, heads, length, size]")
    prefixes = sorted(f"{branch}." for branch in branches) or [""]
    vocab_size = _vocab_size(outputs, prefixes)
    present = frozenset(optional.keys() & inputs.keys())
    sizes = vocab_size, cache, heads, head_size
    hidden = _hidden_shape(outputs, f"{PREFILL}." if branches else "")
    signature = Signature(
        *sizes, *_CACHE_TYPES[kind], present, hidden, branches, adapter_shape=adapters
    )
    signature = _with_upper_outputs(signature, outputs, prefixes)
    if facts is not None:
        _check_facts(signature, facts)
    return signature


def _with_upper_outputs(
    signature: Signature, outputs: _Nodes, prefixes: Sequence[str]
) -> Signature:
    upper = [name for name in signature.cache_outputs if name not in outputs]
    for prefix in prefixes:
        _check_names("output", outputs, [f"{prefix}{name}" for name in upper])
    return replace(signature, upper_outputs=frozenset(upper))


def _vocab_size(outputs: _Nodes, prefixes: Sequence[str]) -> int:
    _check_names("output", outputs, [f"{prefix}logits" for prefix in prefixes])
    sizes = {outputs[f"{prefix}logits"].shape[-1] for prefix in prefixes}
    if len(sizes) != 1 or not all(map(_is_size, sizes)):
        _refuse("output 'logits' must end in the vocabulary's size")
    return int(sizes.pop())


def _branches(inputs: _Nodes) -> frozenset[str]:
    known = {PREFILL, DECODE, ADAPTED + PREFILL, ADAPTED + DECODE}
    found = frozenset(branch for branch in known if f"{RUN}{branch}" in inputs)
    if found not in (frozenset(), {PREFILL, DECODE}, known):
        _refuse(f"it has the branches {', '.join(sorted(found))} only")
    return found


def _adapter_shape(inputs: _Nodes) -> dict[str, ProductShape]:
    shape, size_bytes = {}, 0
    for name, node in inputs.items():
        if not name.startswith(DOWN):
            continue
        product = name.removeprefix(DOWN)
        _check_names("input", inputs, [f"{UP}{product}"])
        down, up = node.shape[1:], inputs[f"{UP}{product}"].shape[1:]
        if not all(map(_is_size, (*down, *up))) or (len(down), len(up)) != (2, 4):
            _refuse(f"inputs {name!r} and its like must have sizes")
        sizes = ProductShape(down[0], down[1] // up[2], *up[1:])
        if up[0] != 1 or down[1] % up[2] or sizes.inners not in {1, sizes.blocks}:
            _refuse(f"input {name!r} does not fit {UP}{product}")
        size_bytes += down[0] * down[1] + _FP32_BYTES * sizes.blocks * sizes.rank * sizes.width
        shape[product] = sizes
    if size_bytes > _MAX_ADAPTER_BYTES:
        _refuse(f"an adapter has {size_bytes} bytes, {_MAX_ADAPTER_BYTES} at most")
    return shape


def _hidden_shape(outputs: _Nodes, prefix: str) -> tuple[int, int]:
    if f"{prefix}hidden" not in outputs:
        return 0, 0
    layers, features = outputs[f"{prefix}hidden"].shape[-2:]
    is_sized = _is_size(layers) and _is_size(features)
    if not is_sized or layers * features > _MAX_HIDDEN_WIDTH:
        _refuse(f"output 'hidden' must end in layers and features, {_MAX_HIDDEN_WIDTH} at most")
    return layers, features


def _check_facts(signature: Signature, facts: ModelFacts) -> None:
    found = {
        "vocab_size": signature.vocab_size,
        "num_layers": len(signature.cache_inputs) // 2,
        "kv_bytes_per_token": signature.kv_bytes_per_token,
        "kv_type": signature.kv_type,
    }
    for key, value in found.items():
        said = getattr(facts, key)
        if said != value:
            raise BundleError(
                f"manifest.json: model.{key} is {said}, and {MODEL} has {value}; do not use this "
                "bundle, rebuild it with `edged build`"
            )


def _check_names(kind: str, nodes: _Nodes, names: Iterable[str]) -> None:
    for name in names:
        if name not in nodes:
            _refuse(f"{kind} {name!r} is missing")


def _check_types(inputs: _Nodes, types: Mapping[str, str]) -> None:
    for name, node in inputs.items():
        if name not in types:
            _refuse(f"input {name!r} is not known")
        if node.type != types[name]:
            _refuse(f"input {name!r} is {node.type}, not {types[name]}")


def _is_size(dimension: object) -> bool:
    return isinstance(dimension, int) and dimension > 0


def _refuse(complaint: str) -> NoReturn:
    raise BundleError(f"model.onnx: {complaint}; rebuild the bundle with `edged build`")
