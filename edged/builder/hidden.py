"""Give a fused graph a further output: hidden states, from which specialists decide.

They are the norms' outputs before the attention of a few layers, for the rows that the new input
``hidden_rows`` names. Without rows they cost nothing that can be measured.
"""

import re

import onnx
from onnx import TensorProto, helper

from edged.engine.fused import HIDDEN, HIDDEN_ROWS

# Where in the depth of the model: the early ones know the words, the late ones what they mean.
DEPTHS = (0.27, 0.54, 0.8, 0.94, 0.97)
_AXES = f"{HIDDEN}.axes"
_NORM = re.compile(r"model\.layers\.(\d+)\.input_layernorm\.output")


def write_hidden(graph: onnx.GraphProto) -> bool:
    """Add the output to a graph; return False where its layers are not found."""
    norms = {
        int(match[1]): name
        for node in graph.node
        for name in node.output[:1]
        if (match := _NORM.fullmatch(name))
    }
    num_layers = sum(value.name.endswith(".key") for value in graph.input)
    if sorted(norms) != list(range(num_layers)):
        return False
    layers = sorted({min(round(depth * num_layers), num_layers - 1) for depth in DEPTHS})
    rows = []
    for layer in layers:
        name = f"{HIDDEN}.{layer}"
        rows.append(name)
        index = 1 + next(i for i, node in enumerate(graph.node) if norms[layer] in node.output)
        # Directly behind the norm, so that its output need not be held until the run ends.
        chosen = f"{name}.rows"
        gather = helper.make_node("Gather", [norms[layer], HIDDEN_ROWS], [chosen], chosen, axis=1)
        graph.node.insert(index, gather)
        graph.node.insert(index + 1, helper.make_node("Unsqueeze", [chosen, _AXES], [name], name))
    graph.initializer.append(helper.make_tensor(_AXES, TensorProto.INT64, [1], [2]))
    graph.node.append(helper.make_node("Concat", rows, [HIDDEN], HIDDEN, axis=2))
    sizes = {tensor.name: tensor.dims[-1] for tensor in graph.initializer if tensor.dims}
    (norm,) = (node for node in graph.node if norms[layers[0]] in node.output)
    shape = ["batch", "num_hidden", len(layers), sizes[norm.input[-1]]]  # of its weight
    info = helper.make_tensor_value_info
    graph.input.append(info(HIDDEN_ROWS, TensorProto.INT64, ["num_hidden"]))
    graph.output.append(info(HIDDEN, TensorProto.FLOAT, shape))
    return True
