"""The reader of ONNX graphs: it finds each external tensor, and refuses what others read otherwise.

The differential test against the onnx package is in ``tests/builder/test_graph_locations.py``.
"""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.bundle import graph_file
from edged.bundle.graph_file import FIELDS, MAX_DEPTH, GraphFileError, check_locations
from tests.protobuf import entry, field, model, varint

DATA = "model.onnx.data"
INSIDE = entry("location", DATA) + entry("offset", "0") + entry("length", "64")
OUTSIDE = entry("location", "/etc/passwd")
KEY, VALUE = field(1, b"location"), field(2, b"/etc/passwd")


def paths() -> list[tuple[int, ...]]:
    """Return the field numbers that lead from a model to a tensor, each message once a path."""
    found: list[tuple[int, ...]] = []

    def walk(name: str, seen: tuple[str, ...], path: tuple[int, ...]) -> None:
        for number, kind in FIELDS[name].items():
            if kind == "TensorProto":
                found.append((*path, number))
            elif kind not in seen:
                walk(kind, (*seen, kind), (*path, number))

    walk("ModelProto", ("ModelProto",), ())
    return found


def wrapped(tensor: bytes, path: tuple[int, ...]) -> bytes:
    for number in reversed(path):
        tensor = field(number, tensor)
    return tensor


def test_a_graph_whose_weights_are_in_their_file_is_accepted() -> None:
    name = field(8, b"weight")
    check_locations(model(name + INSIDE), DATA)
    check_locations(model(name + field(9, bytes(64))), DATA)
    check_locations(b"", DATA)


@pytest.mark.parametrize("path", paths(), ids=str)
def test_wherever_a_tensor_is_its_file_is_looked_at(path: tuple[int, ...]) -> None:
    check_locations(wrapped(INSIDE, path), DATA)
    before = wrapped(INSIDE, path)
    with pytest.raises(GraphFileError, match=r"refers to weights outside model\.onnx\.data"):
        check_locations(before + wrapped(OUTSIDE, path), DATA)


@pytest.mark.parametrize(
    "tensor",
    [
        INSIDE + OUTSIDE,
        OUTSIDE + INSIDE,
        INSIDE + entry("location", DATA),
        entry("offset", "0"),
        entry("location", DATA) + entry("prepacked_0", "x|0;64;1"),
        field(13, KEY + field(2, DATA.encode()) + VALUE),
        field(13, field(1, b"offset") + KEY + VALUE),
        field(13, KEY),
        field(13, VALUE),
        field(13, b""),
        field(13, KEY + VALUE + field(3, b"")),
        field(13, VALUE + KEY),
        field(13, KEY + field(2, b"x" * 2000)),
        field(13, KEY + VALUE, tag_padding=1),
        field(13, field(1, b"location", tag_padding=1) + VALUE),
        field(13, field(1, b"location", size_padding=1) + VALUE),
        field(13, field(1, b"location", size_padding=4) + VALUE),
        # A tag of 33 bits, whose lower 32 are field 13.
        varint(1 << 32 | 13 << 3 | 2) + varint(len(KEY + VALUE)) + KEY + VALUE,
    ],
)
def test_what_another_reader_may_take_for_another_location_is_refused(tensor: bytes) -> None:
    with pytest.raises(GraphFileError):
        check_locations(model(tensor), DATA)


@pytest.mark.parametrize(
    "content",
    [
        b"\x02\x00",  # field 0
        b"\x0b\x0c",  # a group
        b"\x0f",  # wire type 7
        b"\x3a",  # no length
        b"\x3a\x05\x00",  # beyond the end
        b"\x3d\x00",  # four bytes, of which one is there
        b"\x39\x00",  # eight bytes
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number of eleven bytes
        b"\x08\x80",  # a number without its end
        b"\x08\x80\x00",  # a padded number
    ],
)
def test_what_is_malformed_is_refused(content: bytes) -> None:
    with pytest.raises(GraphFileError, match="malformed"):
        check_locations(content, DATA)


def test_numbers_of_all_kinds_are_skipped() -> None:
    numbers = varint(8) + varint((1 << 64) - 1) + b"\x11" + bytes(8) + b"\x1d" + bytes(4)
    check_locations(numbers + model(numbers + INSIDE), DATA)
    with pytest.raises(GraphFileError):
        check_locations(numbers + model(numbers + OUTSIDE), DATA)


def nested(depth: int) -> bytes:
    """Return graphs in attributes of nodes, so many messages deep."""
    content = b""
    for level in reversed(range(depth - 1)):
        content = field((6 if level else 7, 1, 5)[level % 3], content)
    return content


def test_depth_and_number_of_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    check_locations(nested(MAX_DEPTH), DATA)
    with pytest.raises(GraphFileError, match="more than 100 deep"):
        check_locations(nested(MAX_DEPTH + 1), DATA)
    monkeypatch.setattr(graph_file, "MAX_FIELDS", 1000)
    check_locations(model(b"\x08\x01" * 998), DATA)
    with pytest.raises(GraphFileError, match="more than 1000 fields"):
        check_locations(model(b"\x08\x01" * 999), DATA)


@given(st.binary(max_size=200) | st.lists(st.sampled_from(range(16)), max_size=60).map(bytes))
def test_any_bytes_are_a_graph_or_an_error(content: bytes) -> None:
    for data in (content, model(content), model(field(13, content))):
        with contextlib.suppress(GraphFileError):
            check_locations(data, DATA)


def test_a_large_value_is_skipped_and_not_read() -> None:
    """Weights may be in the graph: what is skipped costs nothing."""
    times_s = []
    for size in (1_000, 10_000_000):
        data = model(field(9, bytes(size)) + INSIDE)
        start_s = time.perf_counter()
        for _ in range(100):
            check_locations(data, DATA)
        times_s.append(time.perf_counter() - start_s)
    assert times_s[1] < 20 * times_s[0]
