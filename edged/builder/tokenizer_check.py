"""Check a converted tokenizer against the vocabulary that it was made from.

Rule: a failed check is an error with examples, never a warning.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer

from edged.builder.gguf import TokenType, Vocabulary
from edged.errors import BuildError

# Share of the vocabulary's plain words that must be encoded as their own single token. Even in a
# correct tokenizer the merges cannot reach a few of them.
MIN_WHOLE_WORDS = 0.98

# Texts that must be the same after encoding and decoding.
PROBES = (
    "The capital of France is Paris.",
    "Room 12: 21.5 °C, 48 % humidity at 07:30 on 2024-02-29; setpoint -3,000.25",
    "def f(x):\n\treturn {'a': [x ** 2, 0x1F]}  # done\n\n\n",
    "Привет, мир! Сколько градусов в спальне?",
    "你好\uff0c世界。今天几度\uff1f こんにちは 안녕하세요",
    "مرحبا بالعالم ١٢٣",
    "👍🏽 👩‍👩‍👧‍👦 🇫🇷 naïve café — “quoted”…",
    "a  b   c    d\t\te\r\nf\n\n g \u00a0 h\u3000i",
)

_SPACES = ("\u0120", "\u2581")  # how byte-level BPE and SentencePiece write a space
_MIN_LEN = 2
_ENOUGH = 1000
_STRIDE = 7
_EXAMPLES = 5


def check_tokenizer(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Compare a tokenizer with the vocabulary it was made from.

    Raises:
        BuildError: An id, a special token, a text of ``PROBES`` or too many words differ.
    """
    _refuse("has other ids than the file for", _wrong_ids(tokenizer, vocabulary))
    _refuse("splits the special tokens", _split_specials(tokenizer, vocabulary))
    _refuse("does not give back the texts", _lost_texts(tokenizer))
    normal = vocabulary.ids_of(TokenType.NORMAL)
    check_words(tokenizer, [(token_id, vocabulary.tokens[token_id]) for token_id in normal])


def check_words(tokenizer: Tokenizer, tokens: Iterable[tuple[int, str]]) -> None:
    """Check that words which are tokens are not split.

    Args:
        tokenizer: The tokenizer to check.
        tokens: Ids and texts of its normal tokens, as its vocabulary writes them.

    Raises:
        BuildError: Too many are split.
    """
    words = _words(tokens)
    split = [word for token_id, word in words if not _is_whole(tokenizer, word, token_id)]
    if len(split) > (1 - MIN_WHOLE_WORDS) * len(words):
        _refuse(f"splits {len(split)} of {len(words)} words of its own vocabulary:", split)


def _refuse(problem: str, found: Iterable[str]) -> None:
    examples = list(found)
    if examples:
        shown = ", ".join(repr(text) for text in examples[:_EXAMPLES])
        more = f" and {len(examples) - _EXAMPLES} more" if len(examples) > _EXAMPLES else ""
        raise BuildError(
            f"the converted tokenizer {problem} {shown}{more}; the model would talk nonsense: "
            "build from the model's Hugging Face folder instead"
        )


def _wrong_ids(tokenizer: Tokenizer, vocabulary: Vocabulary) -> list[str]:
    wrong = [
        text
        for token_id, text in enumerate(vocabulary.tokens)
        if tokenizer.token_to_id(text) != token_id or tokenizer.id_to_token(token_id) != text
    ]
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    extra = [] if size == len(vocabulary.tokens) else [f"(vocabulary of {size})"]
    return wrong + extra


def _split_specials(tokenizer: Tokenizer, vocabulary: Vocabulary) -> list[str]:
    token_ids = vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
    texts = [(token_id, vocabulary.tokens[token_id]) for token_id in token_ids]
    return [text for token_id, text in texts if text and _encode(tokenizer, text) != [token_id]]


def _lost_texts(tokenizer: Tokenizer) -> list[str]:
    return [
        text
        for text in PROBES
        if tokenizer.decode(_encode(tokenizer, text), skip_special_tokens=False) != text
    ]


def _words(tokens: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return plain words, a space and then letters: no pre-tokenizer splits these."""
    words = [
        (token_id, text[1:])
        for token_id, text in tokens
        if text[:1] in _SPACES
        and len(text) > _MIN_LEN
        and text[1:].isascii()
        and text[1:].isalpha()
    ]
    return words[::_STRIDE] if len(words) > _ENOUGH * _STRIDE else words


def _is_whole(tokenizer: Tokenizer, word: str, token_id: int) -> bool:
    # Some tokenizers put a space in front of a text, others do not.
    return any(_encode(tokenizer, text) == [token_id] for text in (f" {word}", word))


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
