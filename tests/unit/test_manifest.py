"""The manifest: what is written is read back, and whatever is wrong is named by its key."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.bundle.manifest import (
    FORMAT,
    FileEntry,
    GraphKind,
    Manifest,
    ModelFacts,
    ModelLimits,
    Quality,
    QualityLimits,
    Source,
    Try,
    UnseenQuality,
)
from edged.errors import BundleError

SHA = "0123456789abcdef" * 4


def make_manifest(files: dict[str, FileEntry] | None = None) -> Manifest:
    """Return a valid manifest, for two imaginary files unless told otherwise."""
    entry = FileEntry(size_bytes=1, sha256=SHA)
    return Manifest(
        format=FORMAT,
        name="toy-1m",
        model=ModelFacts("llama", 1000, vocab_size=256, num_layers=2, kv_bytes_per_token=64),
        source=Source("folder", "/models/toy", None, SHA),
        licence="Apache-2.0",
        graph=GraphKind.FUSED,
        scheme="fp32",
        limits=ModelLimits(max_model_len=128),
        stop_token_ids=(2,),
        chat_template="{{ messages }}",
        bos_token=None,
        eos_token=None,
        add_bos_token=False,
        quality=Quality(
            limits=QualityLimits(0.01, 1.01, 0.95),
            passed=True,
            mean_kl=0.001,
            p99_kl=0.01,
            perplexity=10.1,
            reference_perplexity=10.0,
            perplexity_ratio=1.01,
            argmax_agreement=0.99,
            tokens=4000,
            text="gate",
            unseen=UnseenQuality(
                0.002, 0.02, 9.0, 9.0, 1.0, 0.98, 800, limits=QualityLimits(0.015, 1.015, 0.925)
            ),
        ),
        tools={"edged": "0.1.0"},
        files={"model.onnx": entry, "tokenizer.json": entry} if files is None else files,
        kernels={"x86_64": "avx2"},
        tries=(
            Try(
                "fp32",
                "dynamic",
                "fp32",
                passed=True,
                mean_kl=0.001,
                perplexity_ratio=1.01,
                argmax_agreement=0.99,
            ),
        ),
    )


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the valid manifest's JSON after ``change`` was applied to its tree."""
    tree = json.loads(make_manifest().to_json())
    change(tree)
    return json.dumps(tree).encode()


def assert_refused(data: bytes, *words: str) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(data)
    for word in ("manifest.json", *words):
        assert word in str(caught.value)


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    manifest = make_manifest()
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_bytes_are_canonical() -> None:
    """Equal manifests have equal bytes whatever the order of their dictionaries."""
    one, two = make_manifest(), make_manifest()
    one.tools.update({"a": "1", "b": "2"})
    two.tools.update({"b": "2", "a": "1"})
    assert one.to_json() == two.to_json()
    assert one.to_json().endswith(b"}\n")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}'])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    assert_refused(data, "not valid JSON", "edged build")


def test_a_key_that_stands_twice_is_refused() -> None:
    assert_refused(b'{"format": 2, "format": 2}', "twice")


@pytest.mark.parametrize("data", [b"[]", b"1", b"null"])
def test_the_top_level_is_an_object(data: bytes) -> None:
    assert_refused(data, "the top level must be an object")


def test_another_format_is_named_before_anything_else() -> None:
    assert_refused(b'{"format": 1, "new": true}', "format 1 is not known", "reads format 2")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("format", "1", "format must be a whole number"),
        ("format", True, "format must be a whole number"),
        ("name", 3, "name must be a string"),
        ("name", "../x", "name must match"),
        ("name", "", "name must match"),
        ("scheme", "a b", "scheme must match"),
        ("graph", "magic", "graph must be one of fused, portable"),
        ("graph", 1, "graph must be one of"),
        ("add_bos_token", 0, "add_bos_token must be true or false"),
        ("chat_template", 0, "chat_template must be a string"),
        ("stop_token_ids", 2, "stop_token_ids must be a list"),
        ("stop_token_ids", [2, "x"], "stop_token_ids[1] must be a whole number"),
        ("stop_token_ids", [], "stop_token_ids must hold from 1 to 256 ids"),
        ("stop_token_ids", [2] * 257, "stop_token_ids must hold from 1 to 256 ids"),
        (
            "chat_template",
            "x" * 65537,
            "chat_template has 65537 characters, must have 65536 at most",
        ),
        ("stop_token_ids", [256], "stop_token_ids holds an id outside"),
        ("tools", [], "tools must be an object"),
        ("tools", {"ort": 1}, "tools.ort must be a string"),
        ("unheard_of", 1, "unheard_of is not a known key"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(key: str, value: object, complaint: str) -> None:
    assert_refused(changed(lambda tree: tree.update({key: value})), complaint)


@pytest.mark.parametrize(
    ("section", "key", "value", "complaint"),
    [
        ("model", "vocab_size", -1, "model.vocab_size must be a whole number"),
        ("model", "kv_type", "int4", "model.kv_type must be one of fp32, int8"),
        ("model", "colour", 1, "model.colour is not a known key"),
        ("source", "sha256", "abc", "source.sha256 must match"),
        ("limits", "max_model_len", 0, "limits.max_model_len is 0, must be from 1"),
        (
            "limits",
            "max_model_len",
            10**12,
            "limits.max_model_len is 1000000000000, must be from 1",
        ),
        ("model", "parameters", 0, "model.parameters is 0, must be from 1"),
        ("model", "vocab_size", 10**9, "model.vocab_size is 1000000000, must be from 1 to 1048576"),
        ("model", "num_layers", 0, "model.num_layers is 0, must be from 1 to 1024"),
        ("quality", "perplexity", 10**400, "quality.perplexity must be a finite number"),
        ("model", "kv_bytes_per_token", 0, "model.kv_bytes_per_token is 0, must be from 1"),
        ("model", "kv_bytes_per_token", 10**12, "model.kv_bytes_per_token is 1000000000000, must"),
        (
            "files",
            "tokenizer.json",
            {"size_bytes": 2 << 20, "sha256": SHA},
            "files.tokenizer.json.size_bytes is 2097152, too much for a model of 256 tokens",
        ),
        ("quality", "mean_kl", "0", "quality.mean_kl must be a finite number"),
        ("quality", "tokens", 1.5, "quality.tokens must be a whole number"),
        ("quality", "limits", [], "quality.limits must be an object"),
        ("files", "model.onnx", {}, "files.model.onnx.size_bytes is missing"),
        ("files", "../evil", {"size_bytes": 1, "sha256": SHA}, "'../evil'"),
        ("files", "a/b.onnx", {"size_bytes": 1, "sha256": SHA}, "'a/b.onnx'"),
    ],
)
def test_a_wrong_nested_value_is_named_by_its_path(
    section: str, key: str, value: object, complaint: str
) -> None:
    assert_refused(changed(lambda tree: tree[section].update({key: value})), complaint)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_bundle_lists_its_graph_and_its_tokenizer(name: str) -> None:
    assert_refused(changed(lambda tree: tree["files"].pop(name)), f"files.{name} is missing")


def test_a_number_too_large_for_a_float_is_refused() -> None:
    data = make_manifest().to_json().replace(b"10.1", b"1e999")
    assert_refused(data, "quality.perplexity must be a finite number")


@given(st.data())
def test_no_missing_key_goes_unnoticed(data: st.DataObject) -> None:
    """Whatever key is taken out of the tree, the error says its path."""
    tree = json.loads(make_manifest().to_json())
    path = ""
    node = tree
    while True:
        free = {"tools", "files", "kernels"}
        key = data.draw(st.sampled_from(sorted(set(node) - free)))
        path = f"{path}.{key}".lstrip(".")
        if not isinstance(node[key], dict) or data.draw(st.booleans()):
            break
        node = node[key]
    del node[key]
    assert_refused(json.dumps(tree).encode(), f"{path} is missing")
