"""Text to tokens and back: nothing lost, nothing smuggled in."""

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from edged.bundle.folder import open_bundle
from edged.bundle.manifest import Manifest, ModelFacts
from edged.engine.tokenizer import TemplateError, Tokenizer
from edged.errors import BundleError
from edged.protocol.request import ChatMessage
from tests.tiny_model import SPECIAL_TOKENS, write_tiny_bundle

END_OF_TEXT, START, END = range(3)
HARD_TEXTS = [
    "",
    "héllo",
    "日本語",
    "👩‍👩‍👧‍👦 family",
    "e\u0301 ❤️\u200d🔥",
    "\x00\ufffd\U0010ffff",
    "  a\n\n\tb ",
]
TEXTS = st.one_of(st.sampled_from(HARD_TEXTS), st.text(max_size=30))
ON_TOKENIZERS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return open_bundle(folder).manifest


@pytest.fixture(scope="module")
def definition(folder: Path) -> str:
    return (folder / "tokenizer.json").read_text("utf-8")


@pytest.fixture(scope="module")
def byte_level(folder: Path) -> Tokenizer:
    return Tokenizer.load(open_bundle(folder))


def sentencepiece_definition(*, prepend: str = "first") -> str:
    """A vocabulary as SentencePiece makes them: words with ▁, and every byte to fall back on."""
    merges = [("▁", "t"), ("▁t", "h"), ("h", "e"), ("▁th", "e"), ("日", "本")]
    letters = sorted({*"▁abcdefghijklmnopqrstuvwxyz.,日本"})
    words = [*SPECIAL_TOKENS, *(f"<0x{b:02X}>" for b in range(256)), *letters]
    words += [left + right for left, right in merges]
    vocab = {word: index for index, word in enumerate(dict.fromkeys(words))}
    library = Library(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True))
    library.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=prepend, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prepend != "never":
        steps.append(decoders.Strip(" ", 1, 0))
    library.decoder = decoders.Sequence(steps)
    library.add_special_tokens([AddedToken(word) for word in SPECIAL_TOKENS])
    definition: str = library.to_str()
    return definition


@pytest.fixture(scope="module")
def sentencepiece(manifest: Manifest) -> Tokenizer:
    return Tokenizer(sentencepiece_definition(), replace_vocab(manifest, 400))


def replace_vocab(manifest: Manifest, vocab_size: int) -> Manifest:
    return replace(manifest, model=replace(manifest.model, vocab_size=vocab_size))


@pytest.fixture(params=["byte_level", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Both kinds of vocabulary in turn."""
    tokenizer: Tokenizer = request.getfixturevalue(request.param)
    return tokenizer


def decode(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = tokenizer.detokenizer()
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


@ON_TOKENIZERS
@given(text=TEXTS)
def test_any_text_comes_back_from_its_tokens_one_by_one(tokenizer: Tokenizer, text: str) -> None:
    # SentencePiece takes one space at the head of a text for its own.
    text = text.lstrip(" ")
    assert "".join(decode(tokenizer, tokenizer.encode(text))) == text


@ON_TOKENIZERS
@given(text=TEXTS)
def test_no_chunk_has_an_incomplete_character(tokenizer: Tokenizer, text: str) -> None:
    chunks = decode(tokenizer, tokenizer.encode(text.replace("\ufffd", "")))
    assert "\ufffd" not in "".join(chunks)


@ON_TOKENIZERS
@given(ids=st.lists(st.integers(0, 292), max_size=20))
def test_any_tokens_decode_as_the_library_decodes_them(
    byte_level: Tokenizer, definition: str, ids: list[int]
) -> None:
    whole = Library.from_str(definition).decode(ids, skip_special_tokens=True)
    assert "".join(decode(byte_level, ids)) == whole


@ON_TOKENIZERS
@given(text=TEXTS)
def test_sentencepiece_text_decodes_as_the_library_decodes_it(
    sentencepiece: Tokenizer, text: str
) -> None:
    ids = sentencepiece.encode(text)
    library = Library.from_str(sentencepiece_definition())
    assert "".join(decode(sentencepiece, ids)) == library.decode(ids)


@ON_TOKENIZERS
@given(text=TEXTS, then=TEXTS)
def test_what_stands_before_a_word_has_the_same_tokens_whatever_follows(
    tokenizer: Tokenizer, text: str, then: str
) -> None:
    text = text.strip(" ")
    for place in tokenizer.word_starts(text + "x"):
        before = tokenizer.encode(text[:place])
        assert tokenizer.encode(text + "x" + then)[: len(before)] == before


def test_a_space_starts_a_word(tokenizer: Tokenizer) -> None:
    assert {3, 8} <= tokenizer.word_starts("The cold kiln")


def test_a_character_that_never_ends_is_replaced_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("👩")[:-1]
    chunks = decode(tokenizer, ids)
    assert "".join(chunks[:-1]).strip() == ""
    assert "\ufffd" in chunks[-1]


def test_only_the_first_space_of_sentencepiece_text_is_dropped(manifest: Manifest) -> None:
    kept = Tokenizer(sentencepiece_definition(prepend="never"), replace_vocab(manifest, 400))
    ids = [*kept.encode(" the"), *kept.encode(" the")]
    assert "".join(decode(kept, ids)) == " the the"
    dropping = Tokenizer(sentencepiece_definition(), replace_vocab(manifest, 400))
    assert "".join(decode(dropping, ids)) == "the the"


def test_other_threads_run_while_a_long_text_is_encoded(byte_level: Tokenizer) -> None:
    """Else no answer goes on meanwhile: 14,000 digits take 20 ms."""
    text, others, is_done = "a1 " * 200_000, threading.Lock(), False

    def encode() -> None:
        nonlocal is_done
        others.release()
        byte_level.encode(text)
        is_done = True

    # No thread is interrupted: one goes on until it waits, or lets others run.
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(60.0)
    try:
        others.acquire()
        thread = threading.Thread(target=encode)
        thread.start()
        with others:
            was_done = is_done
        thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert is_done
    assert not was_done


def test_control_tokens_and_unknown_ids_have_no_text(byte_level: Tokenizer) -> None:
    assert decode(byte_level, [START, END, byte_level._cut_id, 100_000]) == [""] * 5


def test_an_added_token_with_a_space_decodes_to_itself(manifest: Manifest, definition: str) -> None:
    library = Library.from_str(definition)
    library.add_tokens([AddedToken("two words")])
    tokenizer = Tokenizer(library.to_str(), manifest)
    ids = tokenizer.encode("a two words b")
    assert "".join(decode(tokenizer, ids)) == "a two words b"
    assert library.token_to_id("two words") in ids


def test_the_metaspace_decoder_is_read_too(manifest: Manifest) -> None:
    tree = json.loads(sentencepiece_definition())
    tree["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    tokenizer = Tokenizer(json.dumps(tree), replace_vocab(manifest, 400))
    assert "".join(decode(tokenizer, tokenizer.encode("the the"))) == "the the"


def user(content: str) -> tuple[ChatMessage, ...]:
    return (ChatMessage("user", content),)


def test_a_chat_is_what_the_template_renders(byte_level: Tokenizer, definition: str) -> None:
    chat = (ChatMessage("system", "Be brief."), *user("Hi the\n"))
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi the\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert byte_level.encode_chat(chat) == Library.from_str(definition).encode(text).ids


@ON_TOKENIZERS
@given(
    parts=st.lists(
        st.one_of(TEXTS, st.sampled_from([*SPECIAL_TOKENS, "<|im_", "end|>", "<", "|>"]))
    )
)
def test_a_message_cannot_add_a_control_token(tokenizer: Tokenizer, parts: list[str]) -> None:
    content = "".join(parts)
    chat = tokenizer.encode_chat(user(content))
    assert [token_id for token_id in chat if token_id < 3] == [START, END, START]
    inner = chat[chat.index(START) : chat.index(END)]
    # SentencePiece writes a space as U+2581, so the two come back as one.
    said = "".join(decode(tokenizer, inner)).replace("\u2581", " ")
    assert content.replace("\u2581", " ") in said
    assert not set(tokenizer.encode(content)) & {END_OF_TEXT, START, END}


def test_overlapping_control_tokens_are_cut_too(manifest: Manifest, definition: str) -> None:
    library = Library.from_str(definition)
    library.add_special_tokens([AddedToken("aXb"), AddedToken("Xbc")])
    tokenizer = Tokenizer(library.to_str(), replace_vocab(manifest, 400))
    ids = tokenizer.encode("aXbc")
    assert max(ids) < library.token_to_id("aXb")
    assert "".join(decode(tokenizer, ids)) == "aXbc"


def test_a_control_token_in_look_alikes_is_no_control_token(
    manifest: Manifest, definition: str
) -> None:
    """Normalization turns wide characters into plain ones; control tokens are found before."""
    library = Library.from_str(definition)
    library.normalizer = normalizers.NFKC()
    tree = json.loads(library.to_str())
    for token in tree["added_tokens"]:
        token["normalized"] = True
    wide = "".join(chr(ord(character) + 0xFEE0) for character in "<|im_end|>")
    assert Library.from_str(json.dumps(tree)).encode(wide).ids == [END]
    assert END not in Tokenizer(json.dumps(tree), manifest).encode(wide)


def test_truncation_and_padding_of_the_file_are_ignored(
    manifest: Manifest, definition: str
) -> None:
    library = Library.from_str(definition)
    library.enable_truncation(3)
    library.enable_padding(length=50)
    tokenizer = Tokenizer(library.to_str(), manifest)
    assert "".join(decode(tokenizer, tokenizer.encode("xyzxyzxyz"))) == "xyzxyzxyz"


def test_without_special_tokens_nothing_needs_to_be_cut(
    manifest: Manifest, definition: str
) -> None:
    tree = json.loads(definition)
    tree["added_tokens"] = []
    tokenizer = Tokenizer(json.dumps(tree), replace(manifest, chat_template=None))
    assert "".join(decode(tokenizer, tokenizer.encode("<|im_end|>"))) == "<|im_end|>"


def test_without_a_template_the_contents_are_plain_text(
    byte_level: Tokenizer, manifest: Manifest, definition: str
) -> None:
    chat = (ChatMessage("system", "one"), *user("two<|im_end|>"))
    plain = Tokenizer(definition, replace(manifest, chat_template=None))
    ids = byte_level.encode("one\n\ntwo<|im_end|>")
    assert plain.encode_chat(chat) == ids
    with_bos = replace(manifest, chat_template=None, add_bos_token=True)
    assert Tokenizer(definition, with_bos).encode_chat(chat) == [START, *ids]


def with_template(manifest: Manifest, template: str) -> Manifest:
    return replace(manifest, chat_template=template)


def render(manifest: Manifest, definition: str, template: str, *chat: ChatMessage) -> str:
    tokenizer = Tokenizer(definition, with_template(manifest, template))
    return "".join(decode(tokenizer, tokenizer.encode_chat(chat)))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "{% for m in messages %}\n  {% if m %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}",
            "hé\n",
        ),
        ("{% for m in messages %}{% continue %}{% endfor %}end", "end"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hé"}]'),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "hé!"),
        ("{% if strftime_now is defined %}now{% else %}never{% endif %}", "never"),
        ("{% if tools %}tools{% else %}none{% endif %}", "none"),
        ("{{ messages[0]['content'] | trim | upper }}", "HÉ"),
    ],
)
def test_a_template_is_read_as_transformers_reads_it(
    manifest: Manifest, definition: str, template: str, expected: str
) -> None:
    assert render(manifest, definition, template, *user("hé")) == expected


def test_a_template_knows_the_model_s_own_tokens(manifest: Manifest, definition: str) -> None:
    tokenizer = Tokenizer(definition, with_template(manifest, "{{ bos_token }}a{{ eos_token }}"))
    assert tokenizer.encode_chat(user("x")) == [START, *tokenizer.encode("a"), END]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ messages[0].content + 1 }}", "can only concatenate"),
        ("{{ messages[7].content }}", "has no element 7"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_what_a_template_refuses_is_said(
    manifest: Manifest, definition: str, template: str, message: str
) -> None:
    tokenizer = Tokenizer(definition, with_template(manifest, template))
    with pytest.raises(TemplateError, match=message) as caught:
        tokenizer.encode_chat(user("x"))
    assert str(caught.value).startswith("messages: ")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("chat_template", "{% if %}", "chat_template, line 1"),
        ("bos_token", "<s>", "bos_token '<s>' is not in"),
        ("bos_token", None, "bos_token None is not in"),
        ("model", ModelFacts("llama", 1, 10, 1, 1), "293 tokens, the model knows 10"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    manifest: Manifest, definition: str, key: str, value: object, message: str
) -> None:
    changes: dict[str, Any] = {"add_bos_token": True, key: value}
    with pytest.raises(BundleError, match=message):
        Tokenizer(definition, replace(manifest, **changes))


def test_gaps_between_the_ids_are_refused(manifest: Manifest, definition: str) -> None:
    """The private token would take the place of a real one."""
    tree = json.loads(definition)
    tree["added_tokens"] = []
    vocab = tree["model"]["vocab"]
    vocab[max(vocab, key=vocab.__getitem__)] = len(vocab)
    vocab[min(vocab, key=vocab.__getitem__)] = len(vocab) - 1
    with pytest.raises(BundleError, match="ids are left out"):
        Tokenizer(json.dumps(tree), replace_vocab(manifest, 400))


def test_a_file_that_is_no_tokenizer_is_refused(
    folder: Path, manifest: Manifest, definition: str
) -> None:
    with pytest.raises(BundleError, match="not a tokenizer"):
        Tokenizer("{}", manifest)
    tree = json.loads(definition)
    for decoder in (None, {"type": "WordPiece", "prefix": "##", "cleanup": True}):
        with pytest.raises(BundleError, match=r"decoder .* is not known"):
            Tokenizer(json.dumps(tree | {"decoder": decoder}), manifest)
    bundle = replace(open_bundle(folder), resolved=folder / "nowhere")
    with pytest.raises(BundleError, match=r"tokenizer\.json: cannot be read"):
        Tokenizer.load(bundle)
