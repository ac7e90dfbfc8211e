"""Text to token ids and back: the only importer of tokenizers and jinja2.

Rule: the text of a message never becomes a control token; only the chat template adds those.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tokenizers

from edged.bundle.folder import Bundle
from edged.bundle.manifest import Manifest
from edged.engine.tokenizer.detokenizer import Detokenizer, TokenBytes
from edged.engine.tokenizer.encoder import Encoder, read_tokenizer
from edged.engine.tokenizer.template import ChatTemplate, TemplateError
from edged.errors import BundleError
from edged.protocol.request import ChatMessage

__all__ = ["Detokenizer", "TemplateError", "Tokenizer", "Vocabulary"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a model, with the attributes that llguidance reads of a tokenizer."""

    tokens: list[bytes]
    """The bytes of each id of the model; empty where an id has no text."""
    special_token_ids: list[int]
    stop_ids: list[int]
    eos_token_id: int
    encode: Callable[[str], list[int]]
    bos_token_id: None = None

    def __call__(self, text: str) -> list[int]:
        """Return the token ids of plain text."""
        return self.encode(text)


class Tokenizer:
    """The vocabulary and the chat template of one bundle; ``definition`` is ``tokenizer.json``.

    Raises:
        BundleError: the file is not a tokenizer, does not fit the model, or the chat template is
            not a template.
    """

    def __init__(self, definition: str, manifest: Manifest) -> None:
        tokenizer = read_tokenizer(definition, manifest.model.vocab_size)
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        """Tokens that have text; the model may have more ids."""
        self._model_vocab_size = manifest.model.vocab_size
        if self.vocab_size > self._model_vocab_size:
            problem = f"{self.vocab_size} tokens, the model knows {self._model_vocab_size}"
            raise BundleError(f"tokenizer.json: {problem}; rebuild the bundle with `edged build`")
        self._stop_ids = manifest.stop_token_ids
        self._template: ChatTemplate | None = None
        if manifest.chat_template is not None:
            tokens = {"bos_token": manifest.bos_token, "eos_token": manifest.eos_token}
            self._template = ChatTemplate(manifest.chat_template, tokens)
        self._bos_ids = _bos_ids(tokenizer, manifest)
        self._encoder = Encoder(tokenizer)
        self._token_bytes = TokenBytes(tokenizer, silent_id=self._encoder.cut_id)

    @classmethod
    def load(cls, bundle: Bundle) -> "Tokenizer":
        """Load the bundle's tokenizer; blocks for some 100 ms.

        Raises:
            BundleError: ``tokenizer.json`` or the chat template is wrong.
        """
        try:
            definition = bundle.tokenizer_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{bundle.tokenizer_path}: cannot be read ({error})") from error
        return cls(definition, bundle.manifest)

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the prompt's token ids, up to where the answer begins.

        Without a chat template the contents are joined by blank lines and continued as plain text.

        Raises:
            TemplateError: the chat template refuses a role or an order of roles, or the template or
                the tokenizer fails.
        """
        contents = [self._encoder.guarded(message.content) for message in messages]
        if self._template is None:
            return self._bos_ids + self._encoder.encode("\n\n".join(contents))
        pairs = zip(messages, contents, strict=True)
        turns = [{"role": message.role, "content": content} for message, content in pairs]
        return self._encoder.encode(self._template.render(turns))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of plain text, without any control token.

        Raises:
            TemplateError: the tokenizer fails on it.
        """
        return self._encoder.encode_plain(text)

    def detokenizer(self) -> Detokenizer:
        """Return a decoder for one answer."""
        return Detokenizer(self._token_bytes)

    def vocabulary(self) -> Vocabulary:
        """Return every token's bytes; blocks for some 100 ms."""
        tokens = [self._token_bytes.read(i) for i in range(self._model_vocab_size)]
        controls = self._token_bytes.controls
        for token_id, text in controls.items():
            tokens[token_id] = text.encode()
        # Not a method of this object: what llguidance holds must not keep the tokenizer alive.
        encode = self._encoder.encode_plain
        return Vocabulary(tokens, sorted(controls), [*self._stop_ids], self._stop_ids[0], encode)


def _bos_ids(tokenizer: tokenizers.Tokenizer, manifest: Manifest) -> list[int]:
    if not manifest.add_bos_token:
        return []
    token_id = tokenizer.token_to_id(manifest.bos_token or "")
    if token_id is None:
        raise BundleError(
            f"manifest.json: bos_token {manifest.bos_token!r} is not in tokenizer.json; "
            "rebuild the bundle with `edged build`"
        )
    return [token_id]
