"""Convert token ids to text while they arrive.

Rule: emitted text is final and holds whole characters; joined, it is the text of all ids.
"""

import codecs
import json
import re
from functools import lru_cache
from typing import Any

import tokenizers

from edged.errors import BundleError

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """The bytes of each token id, for both kinds of vocabulary in use.

    Byte-level BPE writes each byte as a printable character (GPT-2's table); SentencePiece writes
    text with ``▁`` for a space, and bytes that are not valid text as ``<0xAB>``. Control tokens
    and ``silent_id`` have no text.

    Raises:
        BundleError: its decoder is of another kind.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, silent_id: int) -> None:
        decoder = tokenizer.decoder
        whole = json.loads(decoder.__getstate__()) if decoder is not None else {"decoders": []}
        steps = whole.get("decoders", [whole])
        kinds = {step["type"] for step in steps}
        self.is_byte_level = "ByteLevel" in kinds
        if not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
            raise BundleError(
                f"tokenizer.json: decoder {sorted(kinds)} is not known; "
                "edged reads byte-level and SentencePiece vocabularies"
            )
        self.is_first_space_dropped = any(_drops_first_space(step) for step in steps)
        self._tokenizer = tokenizer
        self.controls: dict[int, str] = {
            token_id: token.content
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        """The names of the control tokens, which have no text."""
        self._silent_id = silent_id

    def read(self, token_id: int) -> bytes:
        """Return a token's bytes; none for an id without text."""
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None or token_id in self.controls or token_id == self._silent_id:
            return b""
        if self.is_byte_level:
            try:
                return bytes(map(_byte_level_table().__getitem__, piece))
            except KeyError:  # an added token is written as plain text
                return bytes(piece.encode())
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return str(piece).replace("▁", " ").encode()


class Detokenizer:
    """The text of one answer, token by token."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_space_due = token_bytes.is_first_space_dropped

    def push(self, token_id: int) -> str:
        """Return the characters that became complete with this token; often none."""
        return self._trimmed(self._decoder.decode(self._token_bytes.read(token_id)))

    def flush(self) -> str:
        """Return the rest at the end: U+FFFD for an incomplete character."""
        return self._trimmed(self._decoder.decode(b"", final=True))

    def _trimmed(self, text: str) -> str:
        if text and self._is_space_due:
            self._is_space_due = False
            return text.removeprefix(" ")
        return text


def _drops_first_space(step: dict[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        return step.get("prepend_scheme") != "never"
    return step["type"] == "Strip" and (step["content"], step["start"]) == (" ", 1)


@lru_cache(maxsize=1)
def _byte_level_table() -> dict[str, int]:
    """Return GPT-2's character for each byte: itself where printable, else from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}
