"""Text to token ids, with control tokens only from the chat template.

Rule: a control token in guarded text is encoded as plain characters.
"""

import json
import re
import secrets

import tokenizers

from edged.engine.tokenizer.definition import check_definition
from edged.engine.tokenizer.template import TemplateError
from edged.errors import BundleError


class Encoder:
    """The encoding half of a tokenizer, to which a private token is added.

    Raises:
        BundleError: the token ids have gaps.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.post_processor = None  # it would add control tokens, or repeat the text
        added = tokenizer.get_added_tokens_decoder().values()
        controls = [re.escape(one.content) for one in added if one.special and len(one.content) > 1]
        # The first character of each control token, of overlapping ones, too.
        pattern = f"(?={'|'.join(controls)})." if controls else "(?!)"
        self._control = re.compile(pattern, re.DOTALL)
        # A random added token. Inserted into a control token it splits it, whatever the template
        # does with the text; it is removed from the ids.
        self._cut = f"\ufdd0{secrets.token_hex(8)}\ufdd1"
        tokenizer.add_tokens([tokenizers.AddedToken(self._cut, normalized=False)])
        self.cut_id: int = tokenizer.token_to_id(self._cut)
        """The id of the private token, which has no text."""
        if tokenizer.model.id_to_token(self.cut_id) is not None:
            raise BundleError(
                f"tokenizer.json: ids are left out below {self.cut_id}, so none is free behind "
                "them; number the tokens without gaps"
            )

    def guarded(self, text: str) -> str:
        """Return the text with each control token split after its first character."""
        return self._control.sub(lambda match: match[0] + self._cut, text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; control tokens that are not guarded become such.

        Raises:
            TemplateError: the tokenizer fails on it.
        """
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            if not is_library_failure(error):
                raise
            # Without the library's message, which may quote the text.
            problem = "the model's tokenizer fails on them; change their text, or use another model"
            raise TemplateError(f"messages: {problem}") from error
        return [token_id for token_id in ids if token_id != self.cut_id]

    def encode_plain(self, text: str) -> list[int]:
        """Return the ids of a text, without control tokens."""
        return self.encode(self.guarded(text))


def read_tokenizer(definition: str, vocab_size: int | None = None) -> tokenizers.Tokenizer:
    """Read the text of ``tokenizer.json``; see ``check_definition``.

    Raises:
        BundleError: it does not describe a tokenizer, or one that would take too much.
    """
    check_definition(definition, vocab_size)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(definition)
    except BaseException as error:
        if not is_library_failure(error):
            raise
        raise BundleError(
            f"tokenizer.json: not a tokenizer ({error}); rebuild the bundle with `edged build`"
        ) from error
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.special and token.normalized for token in added):
        # Matched after normalization, a control token could be spelled with look-alikes.
        tree = json.loads(definition)
        for token in tree["added_tokens"]:
            token["normalized"] = token["normalized"] and not token["special"]
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(tree))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def is_library_failure(error: BaseException) -> bool:
    """Whether a library that is written in Rust failed."""
    # A panic arrives as a BaseException of a module that cannot be imported.
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"
