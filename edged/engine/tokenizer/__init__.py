"""Text to token ids and back: the only importer of tokenizers and jinja2.

Rule: the text of a message never becomes a control token; only the chat template adds those.
"""

import os
import re
import secrets
from collections.abc import Sequence

import tokenizers

from edged.bundle.folder import Bundle
from edged.bundle.manifest import Manifest
from edged.engine.tokenizer.definition import is_library_failure, read_tokenizer
from edged.engine.tokenizer.detokenizer import Detokenizer, TokenBytes
from edged.engine.tokenizer.template import ChatTemplate, TemplateError
from edged.errors import BundleError
from edged.protocol.request import ChatMessage

# One text at a time: threads of the library's own would bring nothing, and take memory.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

__all__ = ["Detokenizer", "TemplateError", "Tokenizer"]


class Tokenizer:
    """The vocabulary and the chat template of one bundle; ``definition`` is ``tokenizer.json``.

    Raises:
        BundleError: the file is not a tokenizer, does not fit the model, or has gaps in its ids; or
            the chat template is not a template.
    """

    def __init__(self, definition: str, manifest: Manifest) -> None:
        tokenizer = self._tokenizer = read_tokenizer(definition, manifest.model.vocab_size)
        tokenizer.post_processor = None  # it would add control tokens, or repeat the text
        # The model may have more ids than there are tokens.
        self._vocab_size = manifest.model.vocab_size
        num_tokens = tokenizer.get_vocab_size(with_added_tokens=True)
        if num_tokens > self._vocab_size:
            problem = f"{num_tokens} tokens, the model knows {self._vocab_size}"
            raise BundleError(f"tokenizer.json: {problem}; rebuild the bundle with `edged build`")
        self.stop_ids = [*manifest.stop_token_ids]
        self._template: ChatTemplate | None = None
        if manifest.chat_template is not None:
            tokens = {"bos_token": manifest.bos_token, "eos_token": manifest.eos_token}
            self._template = ChatTemplate(manifest.chat_template, tokens)
        self._bos_ids = _bos_ids(tokenizer, manifest)
        bos_id = tokenizer.token_to_id(manifest.bos_token or "")
        self.beginning_ids: list[int] = [] if bos_id is None else [bos_id]
        """The token that texts of this model begin with, if it has one."""
        # A random added token. Inserted into a control token it splits it, whatever the template
        # does with the text; it is removed from the ids.
        self._cut = f"\ufdd0{secrets.token_hex(8)}\ufdd1"
        tokenizer.add_tokens([tokenizers.AddedToken(self._cut, normalized=False)])
        self._cut_id: int = tokenizer.token_to_id(self._cut)
        if tokenizer.model.id_to_token(self._cut_id) is not None:
            raise BundleError(
                f"tokenizer.json: ids are left out below {self._cut_id}, so none is free behind "
                "them; number the tokens without gaps"
            )
        self._token_bytes = TokenBytes(tokenizer, silent_id=self._cut_id)
        controls = self._token_bytes.controls
        self.control_ids = sorted(controls)
        names = [re.escape(name) for name in controls.values() if len(name) > 1]
        # The first character of each control token, of overlapping ones, too.
        pattern = f"(?={'|'.join(names)})." if names else "(?!)"
        self._control = re.compile(pattern, re.DOTALL)

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
        contents = [self._guarded(message.content) for message in messages]
        if self._template is None:
            return self._bos_ids + self._encode("\n\n".join(contents))
        pairs = zip(messages, contents, strict=True)
        turns = [{"role": message.role, "content": content} for message, content in pairs]
        return self._encode(self._template.render(turns))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of plain text, without any control token.

        Raises:
            TemplateError: the tokenizer fails on it.
        """
        return self._encode(self._guarded(text))

    def word_starts(self, text: str) -> set[int]:
        """Return where words start in a plain text, a space being the first character of its word.

        No token reaches over such a place: what stands before it has the same tokens whatever
        follows.
        """
        splitter = self._tokenizer.pre_tokenizer
        found = [] if splitter is None else splitter.pre_tokenize_str(text)
        starts = {start for _, (start, _) in found}
        if not self._token_bytes.is_byte_level:
            # Vocabularies of SentencePiece have tokens of one word, whether or not it is split off.
            starts |= {space.start() for space in re.finditer(r"(?<! ) ", text)}
        return starts

    def detokenizer(self) -> Detokenizer:
        """Return a decoder for one answer."""
        return Detokenizer(self._token_bytes)

    def vocabulary(self) -> list[bytes]:
        """Return the bytes of each id of the model, empty without text; blocks for some 100 ms."""
        tokens = [self.bytes_of(i) for i in range(self._vocab_size)]
        for token_id, name in self._token_bytes.controls.items():
            tokens[token_id] = name.encode()
        return tokens

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of a token, empty without text."""
        return self._token_bytes.read(token_id)

    def _guarded(self, text: str) -> str:
        """Return the text with each control token split after its first character."""
        return self._control.sub(lambda match: match[0] + self._cut, text)

    def _encode(self, text: str) -> list[int]:
        # Control tokens that are not guarded become such.
        try:
            # Unlike ``encode``, it lets other threads run: they would wait for a long text.
            found = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        except BaseException as error:
            if not is_library_failure(error):
                raise
            # Without the library's message, which may quote the text.
            problem = "the model's tokenizer fails on them; change their text, or use another model"
            raise TemplateError(f"messages: {problem}") from error
        return [token_id for token_id in found[0].ids if token_id != self._cut_id]


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
