"""Plan which blocks are fused: projections of one input, residual sums with norms, slices.

Rule: the plan follows the blocks (same input, same parent), never the names of the modules.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edged.builder.fuse.blocks import Block, Copy, Linear, Norm
from edged.builder.fuse.decoder import Decoder

_PAIR = 2


@dataclass(frozen=True, slots=True)
class Pack:
    """Projections of one input, fused into one MatMul."""

    name: str
    linears: tuple[Linear, ...]
    is_attention: bool
    """Whether the attention reads the packed output."""


@dataclass(slots=True)
class Plan:
    """The fusions, each by the output of a block that is replaced."""

    packs: dict[str, Pack] = field(default_factory=dict)
    """By the output of each of the packed projections."""
    sums: dict[str, Norm] = field(default_factory=dict)
    """By residual sum: the norm in the same node."""
    splits: dict[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    """By projection: names and sizes of the slices that partition it."""
    done: set[str] = field(default_factory=set)
    """Outputs of blocks that are written with another block."""


def plan_fusions(decoder: Decoder) -> Plan:
    """Return the fusions of a decoder."""
    plan = Plan()
    readers = _readers(decoder.blocks)
    linears = {b.outputs[0]: b for b in decoder.blocks if isinstance(b, Linear)}
    for attention in decoder.attentions:
        if all(len(readers[name]) == 1 for name in attention.inputs):
            _add_pack(plan, [linears[name] for name in attention.inputs], is_attention=True)
    for group in _siblings(b for name, b in linears.items() if name not in plan.packs):
        _add_pack(plan, group, is_attention=False)
    _plan_sums(plan, decoder.blocks)
    for linear in linears.values():
        if linear.outputs[0] not in plan.packs:
            _plan_split(plan, decoder, linear, readers.get(linear.outputs[0], []))
    return plan


def _readers(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    """Return the blocks that read each tensor."""
    readers: dict[str, list[Block]] = {}
    for block in blocks:
        for name in block.inputs:
            readers.setdefault(name, []).append(block)
    return readers


def _siblings(linears: Iterable[Linear]) -> list[list[Linear]]:
    """Group projections by input and parent module."""
    groups: dict[tuple[str, str], list[Linear]] = {}
    for linear in linears:
        groups.setdefault((linear.inputs[0], _parent(linear)), []).append(linear)
    return list(groups.values())


def _add_pack(plan: Plan, linears: Sequence[Linear], *, is_attention: bool) -> None:
    """Pack projections if there are several, all of one input and one parent module."""
    if len(linears) < _PAIR or len(_siblings(linears)) != 1:
        return
    stems = [linear.scope.rpartition(".")[2].removesuffix("_proj") for linear in linears]
    is_short = all(len(stem) == 1 for stem in stems)
    name = f"{_parent(linears[0])}.{('' if is_short else '_').join(stems)}_proj"
    pack = Pack(name, tuple(linears), is_attention)
    plan.packs.update({linear.outputs[0]: pack for linear in linears})


def _parent(linear: Linear) -> str:
    """Return the module that a projection belongs to."""
    return linear.scope.rpartition(".")[0]


def _plan_sums(plan: Plan, blocks: Sequence[Block]) -> None:
    """Fuse each sum of two activations with the first norm that reads it."""
    sums = {
        block.outputs[0]
        for block in blocks
        if isinstance(block, Copy)
        and block.node.op_type == "Add"
        and len(set(block.inputs)) == _PAIR
    }
    for block in blocks:
        if isinstance(block, Norm) and block.inputs[0] in sums - plan.sums.keys():
            plan.sums[block.inputs[0]] = block
            plan.done.add(block.outputs[0])


def _plan_split(plan: Plan, decoder: Decoder, linear: Linear, readers: Sequence[Block]) -> None:
    """Plan one Split for a projection's slices, if they partition it and are its only readers."""
    parts: list[tuple[int, int, str]] = []
    for block in readers:
        if not isinstance(block, Copy) or block.node.op_type != "Slice":
            return
        start, end, _, *step = (
            int(decoder.slice_bounds[name].reshape(-1)[0]) for name in block.node.input[1:]
        )
        if step not in ([], [1]):
            return
        start, end = (i + linear.width if i < 0 else min(i, linear.width) for i in (start, end))
        parts.append((start, end, block.outputs[0]))
    parts.sort()
    edges = [0, *(end for _, end, _ in parts)]
    if edges[-1] == linear.width and edges[:-1] == [start for start, _, _ in parts]:
        plan.splits[linear.outputs[0]] = tuple((name, end - start) for start, end, name in parts)
        plan.done.update(name for _, _, name in parts)
