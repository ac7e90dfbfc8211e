"""Read the metadata of a .gguf file: vocabulary, chat template and hyperparameters.

Rule: only the file's own metadata is used, never another converter's result.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import gguf

from edged.builder.gguf_header import check_lengths
from edged.engine.tokenizer.definition import MAX_TOKEN_CHARACTERS
from edged.errors import BuildError


class TokenType(IntEnum):
    """Kinds of vocabulary entries, as numbered by ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# By key, the type of its value, or of each item of its array.
_VALUES: dict[str, type] = {
    "tokenizer.chat_template": str,
    "tokenizer.ggml.model": str,
    "tokenizer.ggml.pre": str,
    "tokenizer.ggml.bos_token_id": int,
    "tokenizer.ggml.eos_token_id": int,
    "tokenizer.ggml.eot_token_id": int,
    "tokenizer.ggml.eom_token_id": int,
    "tokenizer.ggml.unknown_token_id": int,
    "tokenizer.ggml.add_bos_token": bool,
    "tokenizer.ggml.add_space_prefix": bool,
}
_ARRAYS: dict[str, type] = {
    "tokenizer.ggml.tokens": str,
    "tokenizer.ggml.token_type": int,
    "tokenizer.ggml.merges": str,
    "tokenizer.ggml.scores": float,
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokenizer metadata of a .gguf file."""

    model: str
    """Algorithm: ``gpt2`` is byte-level BPE, ``llama`` SentencePiece BPE with scores."""
    tokens: tuple[str, ...]
    """Text of each token, by id."""
    types: tuple[int, ...]
    pre: str | None = None
    """Name of the pre-tokenizer; None when the file does not say."""
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    bos_id: int | None = None
    eos_id: int | None = None
    unknown_id: int | None = None
    end_ids: tuple[int, ...] = ()
    """Ids of end of turn and end of message, where the file has them."""
    add_bos: bool | None = None
    add_space_prefix: bool | None = None
    chat_template: str | None = None

    def text(self, token_id: int | None) -> str | None:
        """Return the text of a token, None for None."""
        return None if token_id is None else self.tokens[token_id]

    def ids_of(self, *types: TokenType) -> list[int]:
        """Return the ids of all tokens of these types, ascending."""
        return [token_id for token_id, kind in enumerate(self.types) if kind in types]


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The contents of a .gguf file without its weights."""

    architecture: str
    vocabulary: Vocabulary
    licence: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    """The architecture's keys, without its name as prefix."""
    tensor_sizes: dict[str, int] = field(default_factory=dict)
    """Number of elements of each tensor."""


def read_gguf(path: Path) -> GgufFile:
    """Read the metadata of a .gguf file; takes seconds for a large vocabulary.

    Raises:
        BuildError: It is not a readable .gguf file, or has no tokenizer.
    """
    try:
        check_lengths(path)
        reader = gguf.GGUFReader(str(path))
        values = {key: item.contents() for key, item in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OSError, OverflowError, MemoryError) as error:
        raise BuildError(
            f"{path}: not a readable .gguf file: {error}; download it again, or take another one"
        ) from error
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise BuildError(f"{path}: the file does not say general.architecture")
    prefix = f"{architecture}."
    licence = values.get("general.license")
    return GgufFile(
        architecture=architecture,
        vocabulary=_read_vocabulary(values, path),
        licence=licence if isinstance(licence, str) else None,
        hyperparameters={
            key.removeprefix(prefix): value
            for key, value in values.items()
            if key.startswith(prefix)
        },
        tensor_sizes={tensor.name: int(tensor.n_elements) for tensor in reader.tensors},
    )


def _read_vocabulary(values: dict[str, Any], path: Path) -> Vocabulary:
    _check_types(values, path)
    known = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in values.items()
        if key.startswith("tokenizer.ggml.")
    }
    if not known.get("model") or not known.get("tokens"):
        raise BuildError(f"{path}: the file holds no tokenizer (tokenizer.ggml.model and .tokens)")
    tokens = tuple(known["tokens"])
    ends = (known.get("eot_token_id"), known.get("eom_token_id"))
    vocabulary = Vocabulary(
        model=known["model"],
        tokens=tokens,
        types=tuple(known.get("token_type") or [TokenType.NORMAL] * len(tokens)),
        pre=known.get("pre"),
        merges=tuple(known.get("merges") or ()),
        scores=tuple(known.get("scores") or ()),
        bos_id=known.get("bos_token_id"),
        eos_id=known.get("eos_token_id"),
        unknown_id=known.get("unknown_token_id"),
        end_ids=tuple(end for end in ends if end is not None),
        add_bos=known.get("add_bos_token"),
        add_space_prefix=known.get("add_space_prefix"),
        chat_template=values.get("tokenizer.chat_template"),
    )
    _check(vocabulary, path)
    return vocabulary


def _check_types(values: dict[str, Any], path: Path) -> None:
    for key in values.keys() & _VALUES.keys():
        kind = _VALUES[key]
        if type(values[key]) is not kind:
            raise BuildError(f"{path}: {key} is not of type {kind.__name__}; take another file")
    for key in values.keys() & _ARRAYS.keys():
        kind, items = _ARRAYS[key], values[key]
        if type(items) is not list or any(type(item) is not kind for item in items):
            raise BuildError(f"{path}: {key} is no array of {kind.__name__}; take another file")


def _check(vocabulary: Vocabulary, path: Path) -> None:
    count = len(vocabulary.tokens)
    if len(vocabulary.types) != count:
        raise BuildError(f"{path}: {len(vocabulary.types)} token types for {count} tokens")
    ids = (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unknown_id, *vocabulary.end_ids)
    for token_id in ids:
        if token_id is not None and not 0 <= token_id < count:
            raise BuildError(f"{path}: special token id {token_id} is outside the {count} tokens")
    longest = max(map(len, vocabulary.tokens))
    if longest > MAX_TOKEN_CHARACTERS:
        raise BuildError(
            f"{path}: a token has {longest} characters, at most {MAX_TOKEN_CHARACTERS} are allowed"
        )
    if len(set(vocabulary.tokens)) != count:
        twice = next(text for text, uses in Counter(vocabulary.tokens).items() if uses > 1)
        raise BuildError(f"{path}: the vocabulary holds the token {twice!r} twice")
