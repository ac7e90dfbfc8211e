"""The metadata of a hostile .gguf file: lengths that are no lengths, values of other types."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the build extra")

from edged.builder.gguf import read_gguf
from edged.builder.gguf_tokenizer import build_tokenizer
from edged.errors import BuildError
from tests.builder import tiny_gguf

_HUGE = 1 << 60
_U32, _STRING, _ARRAY = 4, 8, 9
_KEY = struct.pack("<Q", 1) + b"x"
_ARRAYS_IN_ARRAYS = struct.pack("<IIQ", _ARRAY, _ARRAY, 1) + struct.pack("<IQ", _ARRAY, 1) * 5000


def write(path: Path, pairs: bytes = b"", *, num_tensors: int = 0, num_pairs: int = 1) -> Path:
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_pairs) + pairs)
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"num_tensors": _HUGE, "num_pairs": 0},
        {"num_pairs": _HUGE},
        {"pairs": struct.pack("<Q", _HUGE) + b"x"},
        {"pairs": _KEY + struct.pack("<IQ", _STRING, _HUGE)},
        # The library takes each item behind the end for an empty one.
        {"pairs": _KEY + struct.pack("<IIQ", _ARRAY, _U32, _HUGE)},
        {"pairs": _KEY + struct.pack("<IIQ", _ARRAY, _U32, 1000)},
        {"pairs": _KEY + struct.pack("<IIQ", _ARRAY, _STRING, _HUGE)},
        {"pairs": _KEY + struct.pack("<IIQ", _ARRAY, 99, 1)},
        {"pairs": _KEY + _ARRAYS_IN_ARRAYS},
    ],
)
def test_a_length_that_is_not_the_files_is_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    with pytest.raises(BuildError, match=r"x.gguf: not a readable .gguf file: .*download it again"):
        read_gguf(write(tmp_path / "x.gguf", **header))


def test_an_array_that_is_larger_than_any_vocabulary_is_refused(tmp_path: Path) -> None:
    """An object of each of its bytes would take a hundred times the size of the file."""
    pairs = _KEY + struct.pack("<IIQ", _ARRAY, 0, 5_000_000) + bytes(5_000_000)
    with pytest.raises(BuildError, match="its arrays have more than 4194304 items"):
        read_gguf(write(tmp_path / "x.gguf", pairs))


def test_a_file_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    pair = struct.pack(">Q", 20) + b"general.architecture" + struct.pack(">IQ", _STRING, 5)
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + pair + b"llama")
    with pytest.raises(BuildError, match="the file holds no tokenizer"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"eos_token_id": "2"}, "eos_token_id is not of type int"),
        ({"eot_token_id": 2.0}, "eot_token_id is not of type int"),
        ({"add_bos_token": "no"}, "add_bos_token is not of type bool"),
        ({"pre": 3}, "pre is not of type str"),
        ({"merges": 3}, "merges is no array of str"),
        ({"scores": "0.5"}, "scores is no array of float"),
    ],
)
def test_a_value_of_another_type_is_refused(
    tmp_path: Path, extra: dict[str, Any], message: str
) -> None:
    tiny = replace(tiny_gguf.byte_level(None), merges=[], eos_id=None, extra=extra)
    path = tiny_gguf.write(tmp_path / "x.gguf", tiny, weights=False)
    with pytest.raises(BuildError, match=f"x.gguf: tokenizer.ggml.{message}; take another file"):
        read_gguf(path)


def test_a_token_that_would_take_hours_to_split_is_refused(tmp_path: Path) -> None:
    tiny = tiny_gguf.byte_level("smollm")
    path = tmp_path / "x.gguf"
    tiny_gguf.write(path, replace(tiny, tokens=[*tiny.tokens[:-1], "x" * 1025]), weights=False)
    with pytest.raises(BuildError, match="a token has 1025 characters, at most 1024 are allowed"):
        read_gguf(path)


def test_scores_that_give_no_order_are_refused(tmp_path: Path) -> None:
    tiny = tiny_gguf.sentencepiece()
    path = tmp_path / "x.gguf"
    tiny_gguf.write(path, replace(tiny, scores=[float("nan")] * len(tiny.scores)), weights=False)
    with pytest.raises(BuildError, match="scores has one that is no number"):
        build_tokenizer(read_gguf(path).vocabulary)
