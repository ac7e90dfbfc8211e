"""A bundle that lies or wants too much: refused with the key that is wrong, in no more memory.

Every byte of a bundle is its maker's choice, and its hashes fit. Each bundle here is one that
``edged run`` would otherwise load, with ONNX Runtime and the tokenizers library as they are.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edged.bundle.folder import Bundle, open_bundle, write_manifest
from edged.bundle.manifest import MANIFEST, MODEL, TOKENIZER, KvType, Manifest
from edged.engine.loading import load_engine
from edged.engine.steps import EngineSettings
from edged.engine.tokenizer import TemplateError, Tokenizer
from edged.errors import BundleError, ExitCode
from edged.protocol.request import ChatMessage
from tests.chat_templates import CHATML
from tests.system.broker.daemons import daemon, serve_arguments
from tests.tiny_graphs import import_onnx
from tests.tiny_model import write_tiny_bundle

NOBODY = "mqtt://127.0.0.1:1"
HELLO = (ChatMessage("user", "Hello"),)

SPLIT_BY = {
    "(a+)+b": "may take for ever",
    "(?:a*)*b": "may take for ever",
    "(a|aa)+b": "may take for ever",
    "a*a*a*b": "may take for ever",
    "a*b*c": "may take for ever",
    "a?" * 30 + "a" * 30: "may take for ever",
    "(a|a)(a|a)(a|a)b": "may take for ever",
    "(?<x>a\\g<x>)": "may take for ever",
    "(a)\\1": "may take for ever",
    "(?<=a+)b": "may take for ever",
    "(?#\\))a": "may take for ever",
    "[a[b](c+)+]": "may take for ever",
    "[]a](a+)+": "may take for ever",
    "a{1,99}": "may take for ever",
    "a{99}{99}": "may take for ever",
    "a{1,3}+b": "may take for ever",
    "x" * 2000: "may take for ever",
    "|".join("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"): "may take for ever",
}
KNOWN_SPLITS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lo}\p{M}]*[\p{Ll}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lo}]+[\p{Ll}\p{Lo}]*(?i:'s|'t)?|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    (
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "[0-9][0-9][0-9]",
    r"[\p{P}\$\+<=>\^~\|`]+",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle")


def read_manifest(folder: Path) -> Manifest:
    return Manifest.from_json((folder / MANIFEST).read_bytes())


def with_manifest(folder: Path, change: Callable[[Manifest], Manifest]) -> Bundle:
    return write_manifest(folder, change(read_manifest(folder)))


def with_facts(folder: Path, **facts: Any) -> Bundle:  # noqa: ANN401
    return with_manifest(folder, lambda m: replace(m, model=replace(m.model, **facts)))


def with_tokenizer(folder: Path, **parts: Any) -> Bundle:  # noqa: ANN401
    tree = json.loads((folder / TOKENIZER).read_text("utf-8")) | parts
    (folder / TOKENIZER).write_text(json.dumps(tree), "utf-8")
    return with_manifest(folder, lambda manifest: manifest)


def split_by(expression: str) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}
    return step | {"invert": False}


def replacing(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


# What the manifest says of the graph.


@pytest.mark.parametrize(
    ("key", "said", "found"),
    [
        ("kv_bytes_per_token", 1, 512),
        ("kv_bytes_per_token", 1 << 20, 512),
        ("vocab_size", 300, 296),
        ("num_layers", 1, 2),
        ("kv_type", KvType.INT8, "fp32"),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_a_manifest_that_says_something_else_than_the_graph_is_refused(
    tmp_path: Path, key: str, said: object, found: object, *, fused: bool
) -> None:
    bundle = with_facts(write_tiny_bundle(tmp_path / "bundle", fused=fused), **{key: said})
    with pytest.raises(BundleError) as caught:
        load_engine(bundle, EngineSettings(64))
    for words in (f"model.{key} is {said}", f"has {found}", "edged build"):
        assert words in str(caught.value)


def test_a_graph_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", fused=False)
    bundle = with_manifest(folder, lambda m: replace(m, graph=type(m.graph).FUSED))
    with pytest.raises(BundleError, match="input 'seqlens_k' is missing"):
        load_engine(bundle, EngineSettings(64))


@pytest.mark.parametrize(
    ("key", "value"), [("kv_bytes_per_token", 0), ("kv_bytes_per_token", 10**15), ("vocab_size", 0)]
)
def test_a_size_that_no_model_has_is_refused_before_anything_is_planned(
    folder: Path, key: str, value: int
) -> None:
    tree = json.loads((folder / MANIFEST).read_text("utf-8"))
    tree["model"][key] = value
    (folder / MANIFEST).write_text(json.dumps(tree), "utf-8")
    with pytest.raises(BundleError, match=rf"model\.{key} is {value}, must be from 1 to"):
        open_bundle(folder)


# The tokenizer.


@pytest.mark.parametrize("expression", SPLIT_BY, ids=[text[:20] for text in SPLIT_BY])
@pytest.mark.parametrize("where", ["pre_tokenizer", "normalizer"])
def test_an_expression_that_may_be_tried_for_ever_is_refused(
    folder: Path, expression: str, where: str
) -> None:
    step = split_by(expression)
    if where == "normalizer":
        step = replacing({"Regex": expression}, "b")
    bundle = with_tokenizer(folder, **{where: step})
    with pytest.raises(BundleError, match=f"tokenizer.json: {where}: .*{SPLIT_BY[expression]}"):
        Tokenizer.load(bundle)


@pytest.mark.parametrize("expression", KNOWN_SPLITS, ids=range(len(KNOWN_SPLITS)))
def test_the_expressions_of_real_models_are_taken(folder: Path, expression: str) -> None:
    parts = [
        split_by(expression),
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    steps = {"type": "Sequence", "pretokenizers": parts}
    tokenizer = Tokenizer.load(with_tokenizer(folder, pre_tokenizer=steps))
    detokenizer = tokenizer.detokenizer()
    text = "It's 21.5 °C in the kitchen\n\n  (now)"
    assert "".join(map(detokenizer.push, tokenizer.encode(text))) == text


@pytest.mark.parametrize(
    ("normalizer", "said"),
    [
        (replacing({"String": ""}, "aa"), "an empty text is looked for"),
        (replacing({"String": "a"}, "a" * 1000), "64 times as long"),
        (replacing({"Regex": "a"}, "a" * 1000), "64 times as long"),
        ({"type": "Prepend", "prepend": "a" * 10_000}, "64 times as long"),
        ({"type": "Sequence", "normalizers": [replacing({"String": "a"}, "aa")] * 9}, "64 times"),
        ({"type": "Sequence", "normalizers": [{"type": "NFKC"}] * 3}, "64 times as long"),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}] * 99}, "more than 16 steps"),
        ({"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "'Precompiled' is not known"),
        ({"type": "BertNormalizer"}, "'BertNormalizer' is not known"),
        ({"type": "Replace"}, "not a tokenizer"),
        ([], "not a tokenizer"),
    ],
)
def test_a_normalizer_that_lets_a_text_grow_is_refused(
    folder: Path, normalizer: object, said: str
) -> None:
    with pytest.raises(BundleError, match=f"tokenizer.json: .*{said}") as caught:
        Tokenizer.load(with_tokenizer(folder, normalizer=normalizer))
    assert "edged build" in str(caught.value)


@pytest.mark.parametrize(
    ("splitter", "said"),
    [
        ({"type": "Delimiter"}, "'Delimiter' is not known"),
        ({"type": "Sequence", "pretokenizers": [{"type": "Metaspace"}] * 2}, "more than once"),
        ({"type": "Split", "pattern": {"String": ""}}, "an empty text"),
    ],
)
def test_a_step_that_is_not_known_is_refused(folder: Path, splitter: object, said: str) -> None:
    with pytest.raises(BundleError, match=f"pre_tokenizer: .*{said}"):
        Tokenizer.load(with_tokenizer(folder, pre_tokenizer=splitter))


def added(content: str, number: int) -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return [{"id": 1000 + i, "content": f"{content}{i}", **flags} for i in range(number)]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"model": {"type": "BPE", "vocab": {str(i): i for i in range(999)}}}, "999 tokens"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "model 'WordPiece' is not known"),
        ({"model": {"type": "BPE", "vocab": {"a" * 2000: 0}, "merges": []}}, "more than 1024 char"),
        ({"added_tokens": added("x", 9000)}, "added_tokens: 9000, must be 8192"),
        ({"padding": [0] * 70_000}, "more than 67904 values"),
        ({"model": []}, "not a tokenizer"),
    ],
)
def test_a_tokenizer_larger_than_its_model_is_refused(
    folder: Path, parts: dict[str, Any], said: str
) -> None:
    tree = json.loads((folder / TOKENIZER).read_text("utf-8")) | parts
    with pytest.raises(BundleError, match=said):
        Tokenizer(json.dumps(tree), read_manifest(folder))


def test_a_file_far_too_large_for_its_model_is_not_even_read(folder: Path) -> None:
    with (folder / TOKENIZER).open("r+b") as file:
        file.truncate(2 << 20)
    with pytest.raises(BundleError, match=r"files\.tokenizer\.json\.size_bytes is 2097152, too"):
        with_manifest(folder, lambda manifest: manifest)


def test_a_key_that_stands_twice_in_the_tokenizer_is_refused(folder: Path) -> None:
    """Two readers could take different ones."""
    text = (folder / TOKENIZER).read_text("utf-8")
    twice = text.replace('"normalizer"', '"normalizer": {"type": "NFC"}, "normalizer"', 1)
    with pytest.raises(BundleError, match="a key stands twice"):
        Tokenizer(twice, open_bundle(folder).manifest)


def test_a_post_processor_cannot_repeat_the_text(folder: Path) -> None:
    plain = Tokenizer.load(open_bundle(folder)).encode("the kitchen")
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    repeated = {"type": "TemplateProcessing", "single": [piece] * 3, "pair": [piece] * 3}
    bundle = with_tokenizer(folder, post_processor=repeated | {"special_tokens": {}})
    assert Tokenizer.load(bundle).encode("the kitchen") == plain


def test_a_panic_of_the_library_is_a_bad_bundle_at_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no ``Exception``. The check before it is left out, as if it had a gap."""
    monkeypatch.setattr("edged.engine.tokenizer.definition._check_definition", lambda *_: None)
    bundle = with_tokenizer(
        folder, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    )
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(bundle)


def test_a_panic_of_the_library_is_a_bad_request_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.engine.tokenizer.definition._check_definition", lambda *_: None)
    tokenizer = Tokenizer.load(with_tokenizer(folder, pre_tokenizer=split_by("(a+)+b")))
    assert tokenizer.encode_chat(HELLO)
    with pytest.raises(TemplateError, match="tokenizer fails on them") as caught:
        tokenizer.encode_chat((ChatMessage("user", "a" * 40),))
    assert "aaaa" not in str(caught.value)


# All of it, as the service starts it.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: with_facts(folder, kv_bytes_per_token=1), "model.kv_bytes_per_token is 1"),
        (
            lambda folder: with_manifest(
                folder, lambda m: replace(m, chat_template="{{ 'ab ' * 100000000 }}")
            ),
            "manifest.json: chat_template",
        ),
        (
            lambda folder: with_manifest(
                folder, lambda m: replace(m, chat_template="{{ raise_exception('nobody') }}")
            ),
            "loaded and cannot answer",
        ),
        (lambda folder: with_tokenizer(folder, pre_tokenizer=split_by("(a+)+b")), "for ever"),
        (lambda folder: with_tokenizer(folder, normalizer=replacing({"String": ""}, "a")), "empty"),
    ],
    ids=["facts", "template", "refusing template", "expression", "normalizer"],
)
def test_the_service_refuses_it_with_one_line(
    tmp_path: Path, folder: Path, change: Callable[[Path], Bundle], said: str
) -> None:
    change(folder)
    with daemon(tmp_path, *serve_arguments(folder, NOBODY)) as process:
        assert said in process.until("STATUS=waiting: ")
        assert "Traceback" not in process.log
        assert process.stop() == ExitCode.OK


def with_huge_sum(folder: Path, size: int) -> None:
    """Have the graph of a bundle make so many numbers in each run."""
    onnx = import_onnx()
    model = onnx.load(folder / MODEL, load_external_data=False)
    logits = model.graph.output[0].name
    last = next(node for node in model.graph.node if logits in node.output)
    last.output[list(last.output).index(logits)] = "before"
    shape = onnx.helper.make_tensor("huge.shape", onnx.TensorProto.INT64, [1], [size])
    model.graph.initializer.append(shape)
    node = onnx.helper.make_node
    model.graph.node.extend(
        [
            node("ConstantOfShape", ["huge.shape"], ["huge"]),
            node("ReduceMax", ["huge"], ["nothing"], keepdims=0),
            node("Add", ["before", "nothing"], [logits]),
        ]
    )
    (folder / MODEL).write_bytes(model.SerializeToString())
    with_manifest(folder, lambda manifest: manifest)


@pytest.mark.parametrize("size", [1 << 28, 1 << 31])
def test_a_graph_that_wants_more_than_the_budget_is_stopped_at_twice_of_it(
    tmp_path: Path, folder: Path, size: int
) -> None:
    """A gigabyte is made while it is loaded, more with the first answer."""
    with_huge_sum(folder, size)
    budget = tmp_path / "edged.yaml"
    budget.write_text("budget:\n  memory: 300M\n")
    arguments = [*serve_arguments(folder, NOBODY), "--config", str(budget)]
    with daemon(tmp_path, *arguments) as process:
        waiting = process.until("STATUS=waiting: ")
        assert "alloc" in waiting
        assert "bundle" in waiting
        assert "Traceback" not in process.log
        assert process.stop() == ExitCode.OK


def test_a_real_template_starts(tmp_path: Path, folder: Path) -> None:
    with_manifest(folder, lambda m: replace(m, chat_template=CHATML))
    with daemon(tmp_path, *serve_arguments(folder, NOBODY)) as process:
        process.until("READY=1")
        assert process.stop() == 0


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from edged.bundle.folder import open_bundle
from edged.errors import BundleError
from edged.engine.tokenizer import Tokenizer
bundle = open_bundle(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_AS, (700 << 20,) * 2)
try:
    Tokenizer.load(bundle).encode("a" * 10_000)
except BundleError:
    print("refused")
"""


def test_a_text_that_would_fill_the_memory_is_never_begun(folder: Path) -> None:
    steps = [replacing({"String": "a"}, "a" * 64)] * 6
    with_tokenizer(folder, normalizer={"type": "Sequence", "normalizers": steps})
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
