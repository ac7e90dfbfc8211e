"""Recipes: all keys are read, and a wrong one is named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from edged.builder.quantize import Scaling
from edged.builder.recipe import (
    DEFAULT_LIMITS,
    Recipe,
    SourceKind,
    bundle_name,
    load_recipe,
    resolve_source,
)
from edged.bundle.manifest import KvType, QualityLimits
from edged.errors import BuildError, ConfigError
from tests.paths import ROOT

MODELS = ROOT / "models"
MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "source": {"kind": "hub", "repository": "org/tiny", "revision": "abc123"},
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "tiny.yaml"
    document = {**MINIMAL, **changes}
    kept = {key: value for key, value in document.items() if value is not ...}
    dumped = yaml.dump(kept, Dumper=_Dumper)
    path.write_text(dumped, encoding="utf-8")
    return path


class _Dumper(yaml.SafeDumper):
    """Writes whole numbers in hexadecimal where they are too long for decimal digits."""


def _int(dumper: yaml.SafeDumper, value: int) -> yaml.ScalarNode:
    text = hex(value) if value >= 1 << 10_000 else str(value)
    return dumper.represent_scalar("tag:yaml.org,2002:int", text)


_Dumper.add_representer(int, _int)


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_shipped_recipe_is_complete_and_found_by_name(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe == resolve_source(path.stem) == resolve_source(str(path))
    assert recipe.name == path.stem
    assert recipe.licence == "Apache-2.0"
    assert recipe.gate == DEFAULT_LIMITS == QualityLimits(0.010, 1.010, 0.95)
    assert recipe.source.sha256 or recipe.source.revision


def test_optional_keys_have_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    assert recipe == Recipe("tiny", recipe.source)
    assert recipe.scheme is None
    assert recipe.max_model_len is None
    assert recipe.licence is None


def test_all_keys_are_read(tmp_path: Path) -> None:
    gate = {"mean_kl": 0.5, "perplexity_ratio": 2}
    path = write(
        tmp_path,
        licence="MIT",
        scheme="fp32",
        scaling="dynamic",
        kv_type="int8",
        max_model_len=64,
        gate=gate,
    )
    recipe = load_recipe(path)
    assert (recipe.licence, recipe.scheme, recipe.max_model_len) == ("MIT", "fp32", 64)
    assert recipe.kv_type is KvType.INT8
    assert recipe.scaling is Scaling.DYNAMIC
    assert recipe.gate == QualityLimits(0.5, 2.0, 0.95)


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_local_path_is_relative_to_the_recipe(tmp_path: Path, kind: str) -> None:
    source = load_recipe(write(tmp_path, source={"kind": kind, "path": "here/model"})).source
    assert source.path == tmp_path / "here" / "model"
    assert source.location == "model"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licens": "MIT"}, "licens: unknown key .did you mean licence"),
        ({"kv_type": "int4"}, "kv_type: 'int4' is none of fp32, int8"),
        ({"scaling": "none"}, "scaling: 'none' is none of static, dynamic"),
        ({"scheme": "int4"}, "scheme: 'int4' is none of fp32, int8-blockwise, int8-w8a8"),
        ({"zzz": 1}, "zzz: unknown key .one of name, licence"),
        ({"name": ...}, "name: is missing"),
        ({"name": "With Space"}, "name: 'With Space' does not look like"),
        ({"name": 5}, "name: must be text, not 5"),
        ({"source": ...}, "source: is missing"),
        ({"source": "hub"}, "source: must be a mapping"),
        ({"source": {}}, "source.kind: is missing"),
        ({"source": {"kind": "whee"}}, "source.kind: 'whee' is none of .*did you mean wheel"),
        ({"source": {"kind": "qqq"}}, "source.kind: 'qqq' is none of wheel, hub, folder, gguf$"),
        ({"source": {"kind": "hub", "repository": "org/tiny"}}, "source.revision: is missing"),
        (
            {"source": {**MINIMAL["source"], "revison": "x"}},
            "source.revison: unknown key .did you mean revision",
        ),
        ({"source": {**MINIMAL["source"], "sha256": "abc"}}, "source.sha256: 'abc' does not"),
        ({"source": {**MINIMAL["source"], "repository": "x"}}, "source.repository: 'x' does"),
        (
            {"source": {"kind": "wheel", "package": "../x", "version": "1.0"}},
            "source.package: '../x' does not",
        ),
        (
            {"source": {"kind": "wheel", "package": "x", "version": 1.0}},
            "source.version: must be text, not 1.0 .put it in quotes",
        ),
        ({"max_model_len": 0}, "max_model_len: must be a whole number above 0"),
        ({"max_model_len": True}, "max_model_len: must be a whole number"),
        # Too long to be shown in decimal.
        ({"max_model_len": 1 << 20_000}, "max_model_len: must be 1e.15 at most"),
        ({"source": {"kind": "gguf", "path": "a\0b"}}, "source.path: 'a.x00b' does not look like"),
        ({"gate": {"mean_kl": "low"}}, "gate.mean_kl: must be a number"),
        ({"gate": {"mean_kl": -1}}, "gate.mean_kl: must be from 0 to"),
        ({"gate": {"mean_kl": float("nan")}}, "gate.mean_kl: must be from 0 to"),
        ({"gate": {"mean_kl": 10**400}}, "gate.mean_kl: must be from 0 to"),
        ({"gate": {"mean_k": 1}}, "gate.mean_k: unknown key .did you mean mean_kl"),
    ],
)
def test_a_wrong_key_is_named_with_its_path(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe(write(tmp_path, **changes))
    assert str(error.value).startswith(str(tmp_path / "tiny.yaml"))


@pytest.mark.parametrize(
    "text",
    ["{", "- a\n- b\n", "", "\ufeff\u0000", "x: 2020-99-99", "x: !!int q", "x: " + "[" * 5000],
)
def test_a_document_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"not YAML|the document: must be a mapping"):
        load_recipe(path)


def test_an_alias_is_refused(tmp_path: Path) -> None:
    """Nine lines of them are a billion items, when an error shows them."""
    lines = ["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join([*lines, "name: *a19"]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bomb.yaml: has an alias .*; write its value out"):
        load_recipe(path)


def test_a_home_that_is_none_is_named() -> None:
    with pytest.raises(BuildError, match="~no-such-user/model: there is no such user"):
        resolve_source("~no-such-user/model")


def test_a_hub_id_needs_its_revision() -> None:
    recipe = resolve_source("HuggingFaceTB/SmolLM2-135M-Instruct@v1.0")
    assert recipe.name == "smollm2-135m-instruct"
    assert recipe.source.kind is SourceKind.HUB
    assert recipe.source.location == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert recipe.source.revision == "v1.0"
    with pytest.raises(BuildError, match="did you mean org/name@main"):
        resolve_source("org/name")


def test_a_local_folder_or_file_names_its_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "My Model_v2"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "Some.Model-Q4_1.gguf").write_bytes(b"GGUF")
    assert resolve_source(str(folder)).name == "my-model-v2"
    assert resolve_source(str(folder)).source.path == folder
    found = resolve_source(str(tmp_path / "Some.Model-Q4_1.gguf"))
    assert found.name == "some.model-q4-1"
    assert found.source.kind is SourceKind.GGUF
    assert found.source.location == "Some.Model-Q4_1.gguf"


def test_an_unknown_source_lists_the_accepted_forms() -> None:
    with pytest.raises(BuildError) as error:
        resolve_source("smollm2-135m-instrukt")
    message = str(error.value)
    for part in ("did you mean smollm2-135m-instruct?", "recipe", "folder", "REVISION", ".gguf"):
        assert part in message
    with pytest.raises(BuildError, match="not a source; a source is"):
        resolve_source("?")


def test_a_missing_or_wrong_local_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no such file"):
        resolve_source(str(tmp_path / "none.gguf"))
    with pytest.raises(BuildError, match="cannot be read: No such file"):
        resolve_source(str(tmp_path / "none.yaml"))
    with pytest.raises(BuildError, match="no Hugging Face model"):
        resolve_source(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BuildError, match="a finished bundle"):
        resolve_source(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "name"), [("A_b C", "a-b-c"), ("---", "model"), ("Qwen2.5", "qwen2.5"), ("ü", "model")]
)
def test_any_text_gives_a_bundle_name(text: str, name: str) -> None:
    assert bundle_name(text) == name
