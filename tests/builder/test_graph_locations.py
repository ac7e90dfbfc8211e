"""What the base install reads of a graph is compared with the onnx package."""

from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.bundle.graph_file import FIELDS, GraphFileError, check_locations
from tests.examples import num_examples

DATA = "model.onnx.data"


def messages_with_tensors() -> dict[str, dict[int, str]]:
    """Return the fields that lead to external data, as onnx declares them."""
    declared: dict[str, dict[int, str]] = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name not in declared:
            fields = [field for field in message.fields if field.message_type is not None]
            declared[message.name] = {field.number: field.message_type.name for field in fields}
            waiting += [field.message_type for field in fields]
    declared["TensorProto"] = {13: "StringStringEntryProto"}
    reaching = {"TensorProto"}
    while (
        more := {name for name, fields in declared.items() if reaching & {*fields.values()}}
        - reaching
    ):
        reaching |= more
    return {
        name: {
            number: kind
            for number, kind in declared[name].items()
            if kind in reaching or name == "TensorProto"
        }
        for name in reaching
    }


def test_every_message_that_leads_to_external_data_is_known() -> None:
    assert {name: dict(fields) for name, fields in FIELDS.items()} == messages_with_tensors()


def locations(message: Message) -> Iterator[str]:
    """Yield all paths of external data in a message, as onnx reads it."""
    if isinstance(message, onnx.TensorProto):
        yield from (entry.value for entry in message.external_data if entry.key == "location")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from locations(part)


def a_model() -> onnx.ModelProto:
    """Return a model with external data in an initializer, an attribute and a nested graph."""
    tensor = onnx.TensorProto(name="w", data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=DATA)
    tensor.external_data.add(key="length", value="4")
    inner = onnx.GraphProto(name="inner", initializer=[tensor])
    attributes = [
        onnx.helper.make_attribute("g", inner),
        onnx.AttributeProto(name="t", t=tensor, type=onnx.AttributeProto.TENSOR),
    ]
    node = onnx.NodeProto(op_type="If", attribute=attributes)
    graph = onnx.GraphProto(name="outer", node=[node], initializer=[tensor])
    return onnx.ModelProto(graph=graph)


CONTENT = a_model().SerializeToString()


def test_a_model_that_onnx_writes_is_accepted() -> None:
    assert [*locations(a_model())] == [DATA] * 3
    check_locations(CONTENT, DATA)


_CHANGE = st.tuples(
    st.integers(0, len(CONTENT) - 1),
    st.integers(0, 3),
    st.binary(max_size=3) | st.sampled_from([b"\x8a\x00", b"\x88\x00", b"/x", b"\x80", b"\x6a"]),
)


@settings(max_examples=num_examples(2000), deadline=None)
@given(st.lists(_CHANGE, min_size=1, max_size=4))
def test_where_both_read_a_graph_it_names_no_other_file(
    changes: list[tuple[int, int, bytes]],
) -> None:
    content = bytearray(CONTENT)
    for position, num_removed, added in changes:
        content[position : position + num_removed] = added
    try:
        check_locations(bytes(content), DATA)
        model = onnx.ModelProto.FromString(bytes(content))
    except (GraphFileError, DecodeError):
        return
    assert {*locations(model)} <= {DATA}
