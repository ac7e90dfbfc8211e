"""Changes to the export of a tiny llama, each with the reason for its refusal."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

Change = Callable[[onnx.GraphProto], None]


def _node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.name == name)


def _insert(graph: onnx.GraphProto, after: str, node: onnx.NodeProto) -> None:
    """Put ``node`` between the node ``after`` and its readers."""
    source = _node(graph, after).output[0]
    for reader in graph.node:
        for index, name in enumerate(reader.input):
            if name == source:
                reader.input[index] = node.output[0]
    position = [item.name for item in graph.node].index(after) + 1
    node.input.insert(0, source)
    graph.node.insert(position, node)


def _clip_queries(graph: onnx.GraphProto) -> None:
    node = helper.make_node("Relu", [], ["clipped"], "/model/layers.0/self_attn/Relu")
    _insert(graph, "/model/layers.0/self_attn/q_proj/MatMul", node)


def _shift_values(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.float32(0.5).reshape(1), "shift"))
    node = helper.make_node("Add", ["shift"], ["shifted"], "/model/layers.0/self_attn/Shift")
    _insert(graph, "/model/layers.0/self_attn/v_proj/MatMul", node)


def _scale_values(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.float32(0.5).reshape(1), "half"))
    node = helper.make_node("Mul", ["half"], ["halved"], "/model/layers.0/self_attn/Scale")
    _insert(graph, "/model/layers.0/self_attn/v_proj/MatMul", node)


def _mix_tokens(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array(1), "token_axis"))
    node = helper.make_node("CumSum", ["token_axis"], ["mixed"], "/model/layers.0/mlp/CumSum")
    _insert(graph, "/model/layers.0/mlp/up_proj/MatMul", node)


def _mix_tokens_by_a_constant(graph: onnx.GraphProto) -> None:
    ramp = np.ones((1, 4, 1), np.float32)
    graph.initializer.append(numpy_helper.from_array(ramp, "ramp"))
    node = helper.make_node("Mul", ["ramp"], ["ramped"], "/model/layers.0/mlp/Ramp")
    _insert(graph, "/model/layers.0/mlp/up_proj/MatMul", node)


def _see_the_future(graph: onnx.GraphProto) -> None:
    _node(graph, "/model/LessOrEqual").op_type = "GreaterOrEqual"


def _bias_by_distance(graph: onnx.GraphProto) -> None:
    node = _node(graph, "/model/layers.0/self_attn/Where_2")
    graph.initializer.append(numpy_helper.from_array(np.float32(-0.5), "bias"))
    node.input[1] = "bias"


def _softmax_over_queries(graph: onnx.GraphProto) -> None:
    softmax = _node(graph, "/model/layers.0/self_attn/Softmax")
    softmax.attribute[0].i = 2


def _drop_the_mask(graph: onnx.GraphProto) -> None:
    softmax = _node(graph, "/model/layers.0/self_attn/Softmax")
    softmax.input[0] = "/model/layers.0/self_attn/MatMul_output_0"


def _read_another_layers_cache(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Concat" and "past_key_values.1.value" in node.input:
            node.input[0] = "past_key_values.0.value"


def _use_positions_elsewhere(graph: onnx.GraphProto) -> None:
    node = helper.make_node("Add", ["/model/rotary_emb/Cast_4_output_0"], ["marked"], "/model/Mark")
    _insert(graph, "/model/embed_tokens/Gather", node)


def _keep_no_keys(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Concat" and "past_key_values.0.key" in node.input:
            node.op_type = "Max"


def _turn_keys_otherwise(graph: onnx.GraphProto) -> None:
    source = ["/model/rotary_emb/Sin_output_0", "/model/layers.0/self_attn/Constant_41_output_0"]
    graph.node.insert(
        0, helper.make_node("Unsqueeze", source, ["otherwise"], "/model/layers.0/self_attn/Other")
    )
    _node(graph, "/model/layers.0/self_attn/Mul_2").input[1] = "otherwise"


def _turn_by_cosines_only(graph: onnx.GraphProto) -> None:
    _node(graph, "/model/rotary_emb/Sin").op_type = "Cos"


def _turn_by_length(graph: onnx.GraphProto) -> None:
    node = helper.make_node("Softmax", [], ["relative"], "/model/rotary_emb/Softmax", axis=1)
    _insert(graph, "/model/rotary_emb/Transpose", node)


def _break_the_angles(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array([2]), "last"))
    _node(graph, "/model/rotary_emb/Unsqueeze_1").input[1] = "last"


def _rectify_scores(graph: onnx.GraphProto) -> None:
    node = helper.make_node("Relu", [], ["rectified"], "/model/layers.0/self_attn/ReluScores")
    _insert(graph, "/model/layers.0/self_attn/MatMul", node)


def _rectify_keys_in_their_module(graph: onnx.GraphProto) -> None:
    node = helper.make_node("Relu", [], ["rectified"], "/model/layers.0/self_attn/k_proj/Relu")
    _insert(graph, "/model/layers.0/self_attn/k_proj/MatMul", node)


def _vary_the_cache(graph: onnx.GraphProto) -> None:
    cache = next(item for item in graph.input if item.name == "past_key_values.1.key")
    cache.type.tensor_type.shape.dim[1].dim_value = 4


def _leave_an_attention_out(graph: onnx.GraphProto) -> None:
    _node(graph, "/model/layers.1/Add").input[1] = "/model/embed_tokens/Gather_output_0"


def _read_the_cache_elsewhere(graph: onnx.GraphProto) -> None:
    node = helper.make_node("Add", ["past_key_values.0.key"], ["marked"], "/model/layers.0/Mark")
    _insert(graph, "/model/layers.0/mlp/down_proj/MatMul", node)


def _use_weights_twice(graph: onnx.GraphProto) -> None:
    source = ["/model/layers.0/self_attn/Where_3_output_0"]
    graph.node.append(helper.make_node("Abs", source, ["weights"], "/model/layers.0/Weights"))


CHANGES: dict[str, tuple[Change, str]] = {
    "an operator on the queries": (_clip_queries, "Relu inside attention"),
    "a shift of the values": (_shift_values, "changes an operand of attention by a constant"),
    "a factor on the values": (_scale_values, "changes the values before attention"),
    "an operator over tokens in the MLP": (_mix_tokens, "CumSum outside attention"),
    "a factor by token": (_mix_tokens_by_a_constant, "Mul outside attention"),
    "a mask that is not causal": (_see_the_future, "neither causal nor a sliding window"),
    "a bias in the mask": (_bias_by_distance, "more than a mask"),
    "a softmax over queries": (_softmax_over_queries, "not one over the keys"),
    "no mask": (_drop_the_mask, "adds no mask"),
    "positions in the embedding": (_use_positions_elsewhere, "Cos outside attention"),
    "a shared cache": (_read_another_layers_cache, "another layer's cache"),
    "keys that are not kept": (_keep_no_keys, "does not append its keys"),
    "other angles for the keys": (_turn_keys_otherwise, "by different angles"),
    "no sines": (_turn_by_cosines_only, "neither of the rotary tensors is the sine"),
    "angles relative to the length": (_turn_by_length, "depend on the length"),
    "angles that cannot be computed": (_break_the_angles, "cannot be computed alone"),
    "rectified scores": (_rectify_scores, "scores in an unknown way"),
    "rectified keys": (_rectify_keys_in_their_module, "k_proj is not a projection"),
    "caches of two sizes": (_vary_the_cache, "not all of one size"),
    "an attention for nothing": (_leave_an_attention_out, "does not lead to the logits"),
    "a cache in the MLP": (_read_the_cache_elsewhere, "is used outside attention"),
    "attention weights as a result": (_use_weights_twice, "not read by one MatMul alone"),
}
"""By name: the change, and a part of the expected reason."""
