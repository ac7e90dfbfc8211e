"""A Hugging Face folder of a stranger: each file is refused by its name, and no pickle is read."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the build extra")

from edged.builder.hffolder import open_folder, read_tokenizer, token_facts
from edged.errors import BuildError
from tests.tiny_model import CHAT_TEMPLATE, write_tiny_tokenizer

_INDEX = "model.safetensors.index.json"
_UNKNOWN_TOKEN = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[X]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [],
    "special_tokens": {},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_tokenizer(tmp_path / "tokenizer.json")
    put(tmp_path, "config.json", {"model_type": "llama", "eos_token_id": 2})
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def put(folder: Path, name: str, document: object) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / name).write_text(text, encoding="utf-8")


def facts(folder: Path) -> dict[str, Any]:
    return token_facts(open_folder(folder), read_tokenizer(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[" * 200_000, "config.json: not JSON"),
        ("config.json", {"quantization_config": "gptq"}, r"already quantized \(gptq\)"),
        ("tokenizer_config.json", '{"bos_token": "\\ud800"}', "tokenizer_config.json: not JSON"),
        ("generation_config.json", '{"a":' * 200_000, "generation_config.json: not JSON"),
    ],
)
def test_a_document_that_cannot_be_used_is_named(
    folder: Path, name: str, content: object, message: str
) -> None:
    put(folder, name, content)
    with pytest.raises(BuildError, match=message):
        facts(folder)


def test_a_template_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"{{ '\xe9' }}")
    with pytest.raises(BuildError, match=r"chat_template.jinja: not UTF-8 text"):
        facts(folder)


def test_a_post_processor_that_panics_is_named(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_bytes())
    put(folder, "tokenizer.json", state | {"post_processor": _UNKNOWN_TOKEN})
    with pytest.raises(BuildError, match=r"tokenizer.json: post_processor: cannot be run"):
        facts(folder)


def test_a_tokenizer_without_a_vocabulary_is_refused(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_bytes())
    state["model"] |= {"vocab": {}, "merges": []}
    put(folder, "tokenizer.json", state | {"added_tokens": []})
    with pytest.raises(BuildError, match=r"tokenizer.json: makes no tokens of a text"):
        facts(folder)


@pytest.mark.parametrize("wrong", [-1, 1 << 40, 1 << 70, True, "2"])
def test_an_id_that_is_none_is_left_out(folder: Path, wrong: object) -> None:
    put(folder, "generation_config.json", {"eos_token_id": [wrong, 2]})
    put(folder, "config.json", {"eos_token_id": wrong, "bos_token_id": wrong})
    found = facts(folder)
    assert (found["stop_token_ids"], found["bos_token"]) == ([2], None)


def test_of_several_templates_those_without_a_name_are_left_out(folder: Path) -> None:
    named: list[object] = ["a", {"name": ["x"]}, {"name": "default", "template": CHAT_TEMPLATE}]
    put(folder, "tokenizer_config.json", {"chat_template": named})
    assert facts(folder)["chat_template"] == CHAT_TEMPLATE
    put(folder, "tokenizer_config.json", {"chat_template": named[:2]})
    assert facts(folder)["chat_template"] is None


@pytest.mark.parametrize("named", ["abc", [1], {}, {"a": ".."}, {"a": "../b.safetensors"}])
def test_an_index_that_names_no_files_of_the_folder_is_refused(folder: Path, named: object) -> None:
    (folder / "model.safetensors").unlink()
    put(folder, _INDEX, {"weight_map": named})
    with pytest.raises(BuildError, match=rf"{_INDEX}: "):
        open_folder(folder)


def test_an_index_that_names_a_pickle_is_refused(folder: Path) -> None:
    """Transformers reads whatever does not end in .safetensors as a pickle."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    put(folder, _INDEX, {"weight_map": {"a": "pytorch_model.bin"}})
    with pytest.raises(BuildError, match=r"'pytorch_model.bin' is no safetensors file"):
        open_folder(folder)


def test_what_is_hashed_is_what_transformers_reads(folder: Path) -> None:
    """One file before the files of an index: else weights could be exchanged behind a hash."""
    (folder / "shard.safetensors").write_bytes(b"others")
    put(folder, _INDEX, {"weight_map": {"a": "shard.safetensors"}})
    assert open_folder(folder).weights == ("model.safetensors",)
