r"""Pre-tokenizers of byte-level BPE, one for each value of ``tokenizer.ggml.pre``.

Rule: a name is listed only when golden ids of an independent implementation agree
(``scripts/make-golden-tokens``). Any other is refused: a wrong pre-tokenizer makes a model answer
nonsense without an error.

The patterns are those which the models' authors published with their tokenizers (GPT-2's
``encoder.py``, Llama 3's ``tokenizer.py``, Qwen's ``tokenization_qwen.py``), in Oniguruma's syntax.
"""

from dataclasses import dataclass

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}"
_DIGIT = r"\p{N}"
_THREE_DIGITS = r"[0-9][0-9][0-9]"
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"
_PUNCTUATION_TICK = r"[\p{P}\$\+<=>\^~\|`]+"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is split before BPE."""

    patterns: tuple[str, ...]
    """Applied in turn, each to the splits of the one before; unmatched text is a split too."""
    is_word_first: bool = False
    """Whether a split that is a token as a whole skips the merges."""
    adds_bos: bool = False
    """Whether the beginning-of-sequence token is added when the file does not say."""


_GPT2_RULE = PreTokenizer((_GPT2,))
_DIGITS_RULE = PreTokenizer((_DIGIT, _GPT2))
_LLAMA3_RULE = PreTokenizer((_LLAMA3,), is_word_first=True, adds_bos=True)

# By value of ``tokenizer.ggml.pre``.
PRE_TOKENIZERS = {
    "default": PreTokenizer((_PUNCTUATION, _GPT2, r"\p{N}+", _THREE_DIGITS)),
    "gpt-2": _GPT2_RULE,
    "phi-2": _GPT2_RULE,
    "olmo": _GPT2_RULE,
    "mpt": _GPT2_RULE,
    "exaone4": _GPT2_RULE,
    "falcon": PreTokenizer((_PUNCTUATION_TICK, _GPT2, _THREE_DIGITS)),
    "smollm": _DIGITS_RULE,
    "starcoder": _DIGITS_RULE,
    "refact": _DIGITS_RULE,
    "command-r": _DIGITS_RULE,
    "codeshell": _DIGITS_RULE,
    "exaone": _DIGITS_RULE,
    "llama-bpe": _LLAMA3_RULE,
    "llama3": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
    "falcon3": _LLAMA3_RULE,
    "falcon-h1": _LLAMA3_RULE,
    "pixtral": _LLAMA3_RULE,
    "lfm2": _LLAMA3_RULE,
    "smaug-bpe": PreTokenizer((_LLAMA3,)),
    "dbrx": PreTokenizer((_LLAMA3,)),
    "qwen2": PreTokenizer((_QWEN2,)),
    "deepseek-r1-qwen": PreTokenizer((_QWEN2,)),
    "stablelm2": PreTokenizer((_QWEN2,)),
    "megrez": PreTokenizer((_QWEN2,)),
}
