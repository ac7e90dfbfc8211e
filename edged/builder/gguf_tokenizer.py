"""Build a tokenizer from a .gguf file's own vocabulary, so that its ids are the model's ids.

Rule: refuse an algorithm that is not known to be right. With a slightly wrong tokenizer a model
answers nonsense fluently, and no later step notices.
"""

import math

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edged.builder.gguf import TokenType, Vocabulary
from edged.builder.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from edged.errors import BuildError

_ESSENTIAL = "\t\n" + "".join(map(chr, range(0x20, 0x7F)))
_SPACE = "\u2581"  # what SentencePiece writes for a space


def build_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Build the tokenizer that a .gguf file describes.

    Raises:
        BuildError: The algorithm or its pre-tokenizer is not known, or parts are missing.
    """
    if vocabulary.model == "gpt2":
        tokenizer = _byte_level(vocabulary, pre_tokenizer_of(vocabulary))
    elif vocabulary.model == "llama":
        tokenizer = _sentencepiece(vocabulary)
    else:
        raise BuildError(
            f"tokenizer.ggml.model is {vocabulary.model!r}; only gpt2 (byte-level BPE) and llama "
            "(SentencePiece BPE) can be converted: build from the model's Hugging Face folder"
        )
    _add_special(tokenizer, vocabulary)
    return tokenizer


def pre_tokenizer_of(vocabulary: Vocabulary) -> PreTokenizer:
    """Return the pre-tokenizer of a byte-level vocabulary.

    Raises:
        BuildError: The file names none, or one that is not known.
    """
    if vocabulary.pre in PRE_TOKENIZERS:
        return PRE_TOKENIZERS[vocabulary.pre]
    problem = f"is {vocabulary.pre!r}, which is not known" if vocabulary.pre else "is missing"
    raise BuildError(
        f"tokenizer.ggml.pre {problem}, so text would be split wrongly (known: "
        f"{', '.join(sorted(PRE_TOKENIZERS))}): build from the model's Hugging Face folder"
    )


def adds_bos(vocabulary: Vocabulary) -> bool:
    """Return whether a plain prompt starts with the beginning-of-sequence token."""
    if vocabulary.add_bos is not None or vocabulary.bos_id is None:
        return bool(vocabulary.add_bos) and vocabulary.bos_id is not None
    return vocabulary.model == "llama" or pre_tokenizer_of(vocabulary).adds_bos


def _byte_level(vocabulary: Vocabulary, rule: PreTokenizer) -> Tokenizer:
    if not vocabulary.merges:
        raise BuildError("tokenizer.ggml.merges is missing, so words would fall into letters")
    ids = {text: token_id for token_id, text in enumerate(vocabulary.tokens)}
    # Real vocabularies lack tokens for bytes that their training text never had (SmolLM2: some
    # control characters and lead bytes); every implementation drops those. ASCII must be there.
    missing = [char for char in _ESSENTIAL if _as_token(char) not in ids]
    if missing:
        raise BuildError(f"the vocabulary has no token for the character {missing[0]!r}")
    merges = [_split_merge(merge, ids) for merge in vocabulary.merges]
    tokenizer = Tokenizer(models.BPE(ids, merges, ignore_merges=rule.is_word_first))
    splits = [pre_tokenizers.Split(Regex(text), "isolated") for text in rule.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _as_token(char: str) -> str:
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return str(to_bytes.pre_tokenize_str(char)[0][0])


def _split_merge(merge: str, ids: dict[str, int]) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not {left, right, left + right} <= ids.keys():
        raise BuildError(f"the merge {merge!r} needs a token that is not in the vocabulary")
    return left, right


def _sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    if len(vocabulary.scores) != len(vocabulary.tokens):
        raise BuildError("tokenizer.ggml.scores does not have one score for each token")
    if not all(map(math.isfinite, vocabulary.scores)):
        raise BuildError("tokenizer.ggml.scores has one that is no number, so merges have no order")
    bytes_found = {vocabulary.tokens[token_id] for token_id in vocabulary.ids_of(TokenType.BYTE)}
    missing = {f"<0x{byte:02X}>" for byte in range(256)} - bytes_found
    if missing:
        raise BuildError(
            f"the vocabulary has no token for {len(missing)} of the 256 bytes, so some text "
            "could not be encoded"
        )
    ids = {text: token_id for token_id, text in enumerate(vocabulary.tokens)}
    unknown = vocabulary.text(vocabulary.unknown_id)
    model = models.BPE(
        ids, merges_of_scores(vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    has_prefix = vocabulary.add_space_prefix is not False
    prefix = [normalizers.Prepend(_SPACE)] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def merges_of_scores(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Derive BPE merges from SentencePiece scores, the merge into the best token first.

    Among the merges into one token, the pair with the better scores comes first, as in Hugging
    Face's conversion of SentencePiece models.
    """
    score_of = {
        text: score
        for text, score, kind in zip(
            vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True
        )
        if kind not in {TokenType.BYTE, TokenType.CONTROL, TokenType.UNKNOWN}
    }
    ranked = []
    for text, score in score_of.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in score_of and right in score_of:
                ranked.append((-score, -score_of[left], -score_of[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _add_special(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    special = vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN)
    user = vocabulary.ids_of(TokenType.USER_DEFINED)
    for token_ids, is_special in ((special, True), (user, False)):
        added = [
            AddedToken(vocabulary.tokens[token_id], normalized=False, special=is_special)
            for token_id in token_ids
            if vocabulary.tokens[token_id]
        ]
        if is_special:
            tokenizer.add_special_tokens(added)
        else:
            tokenizer.add_tokens(added)
