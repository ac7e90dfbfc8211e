"""The build: complete bundles or none, reproducible bytes, and every failure named.

Nothing is faked: the sources are tiny random models, exported once, and a recipe configures each
build.
"""

import errno
import functools
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the build extra")

import torch
import yaml
from transformers import PreTrainedModel

from edged.builder import search
from edged.builder.gate import TOKENS_MIN
from edged.builder.install import install, staging
from edged.builder.pipeline import BuildResult, GateMissedError, build, default_cache
from edged.builder.progress import Progress
from edged.builder.verify import run_gate, verify_bundle
from edged.bundle.folder import open_bundle, write_manifest
from edged.bundle.manifest import GraphKind, KvType
from edged.errors import BuildError, ExitCode, UsageError
from tests.builder.tiny_families import tiny_model
from tests.tiny_graphs import TinyConfig
from tests.tiny_model import CHAT_TEMPLATE, STOP_TOKEN_ID, write_tiny_tokenizer

pytestmark = pytest.mark.usefixtures("forked_steps")
# The logits of a random model are flat: their error counts, not which one is the largest.
LENIENT = {"mean_kl": 1.0, "perplexity_ratio": 2.0, "argmax_agreement": 0.0}
IMPOSSIBLE = {"mean_kl": 0.0}


def write_checkpoint(folder: Path, model: PreTrainedModel) -> Path:
    """Write a model as a Hugging Face folder."""
    model.generation_config.eos_token_id = STOP_TOKEN_ID
    model.save_pretrained(folder)
    write_tiny_tokenizer(folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "README.md").write_text("---\nlicense: MIT\n---\n# Toy\n")
    return folder


def new_model(family: str = "llama") -> PreTrainedModel:
    return tiny_model(family, vocab_size=TinyConfig().vocab_size)


def with_outliers(model: PreTrainedModel) -> PreTrainedModel:
    """Make one value of each head twenty times as large without changing the function of the model.

    Then 8-bit activations with one scale lose more than those scaled in blocks, as in large models.
    """
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.v_proj.weight[::size] *= 20
            layer.self_attn.o_proj.weight[:, ::size] /= 20
    return model


@dataclass
class Workshop:
    """A recipe and the folder of its bundle."""

    folder: Path
    source: Path
    cache: Path
    gate: dict[str, float] = field(default_factory=lambda: LENIENT)
    recipe: dict[str, Any] = field(default_factory=dict)
    """Further keys."""
    pinned: str | None = None
    log: str = ""

    @property
    def output(self) -> Path:
        return self.folder / "models" / "toy"

    @property
    def failed(self) -> Path:
        return self.output.with_name("toy.failed")

    def build(self, **options: Any) -> BuildResult:  # noqa: ANN401 - build's own
        source = {"kind": "folder", "path": str(self.source)}
        source |= {"sha256": self.pinned} if self.pinned else {}
        recipe = {"name": "toy", "source": source, "gate": self.gate} | self.recipe
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        log = io.StringIO()
        given = {"output": self.output, "cache": self.cache} | options
        try:
            return build(str(path), progress=Progress(log), **given)
        finally:
            self.log = log.getvalue()

    def tries(self, folder: Path | None = None) -> list[tuple[str, str, str, bool]]:
        """The schemes tried for a bundle, in order, and whether each passed."""
        made = open_bundle(folder or self.output).manifest.tries
        return [(*one.form, one.passed) for one in made]

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.output.parent.iterdir())


@pytest.fixture(scope="module")
def from_scratch(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A bundle built without a cache; all others use its cached export."""
    folder = tmp_path_factory.mktemp("scratch")
    source = write_checkpoint(folder / "llama", with_outliers(new_model()))
    workshop = Workshop(folder, source, folder / "cache")
    workshop.build()
    return workshop


@pytest.fixture
def workshop(from_scratch: Workshop, tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, from_scratch.source, from_scratch.cache)


Divergences = dict[tuple[str, str, str], float]


@pytest.fixture(scope="module")
def measured(from_scratch: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Divergences:
    """The mean KL divergence of each form of the model, on the gate's prompts."""
    folder = tmp_path_factory.mktemp("measured")
    workshop = Workshop(folder, from_scratch.source, from_scratch.cache, IMPOSSIBLE)
    in_full = functools.partial(run_gate, in_full=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "run_gate", lambda *given, **_: in_full(*given))
        with pytest.raises(GateMissedError):
            workshop.build()
    return {one.form: one.mean_kl for one in open_bundle(workshop.failed).manifest.tries}


def between(passing: float, *missing: float) -> dict[str, float]:
    """Return limits that one figure passes and the others fail."""
    assert passing < min(missing)
    return LENIENT | {"mean_kl": (passing + min(missing)) / 2}


def test_a_build_produces_a_verified_bundle(workshop: Workshop) -> None:
    result = workshop.build(kv_type=KvType.INT8)
    assert not result.is_reused
    assert open_bundle(workshop.output) == result.bundle
    manifest = result.bundle.manifest
    assert manifest.quality.passed
    assert manifest.quality.unseen is not None
    assert manifest.quality.unseen.tokens > 1000
    assert manifest.quality.unseen.mean_kl != manifest.quality.mean_kl
    assert (manifest.graph, manifest.scheme) == (GraphKind.FUSED, "int8-w8a8")
    assert len(manifest.source.sha256) == 64
    assert (manifest.licence, manifest.stop_token_ids) == ("MIT", (STOP_TOKEN_ID,))
    num_parameters = sum(weight.numel() for weight in new_model().parameters())
    assert (manifest.model.parameters, manifest.model.vocab_size) == (num_parameters, 296)
    # Two layers, keys and values, two heads of 16.
    assert (manifest.model.num_layers, manifest.model.kv_bytes_per_token) == (2, 2 * 2 * 2 * 16)
    assert manifest.model.kv_type is KvType.INT8
    assert manifest.kernels == {"x86_64": "avx2", "aarch64": "asimd"}
    assert workshop.tries() == [("int8-w8a8", "static", "int8", True)]
    assert manifest.limits.max_model_len == 256
    assert workshop.leftovers() == ["toy"]
    # The daemon runs as another user.
    assert workshop.output.stat().st_mode & 0o777 == 0o755


def test_another_user_may_read_a_bundle_whatever_the_umask_is(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        with staging(tmp_path / "toy", 0) as partial:
            (partial / "model.onnx").write_bytes(b"1")
            install(partial, tmp_path / "toy")
    finally:
        os.umask(umask)
    assert (tmp_path / "toy" / "model.onnx").stat().st_mode & 0o777 == 0o644


def test_the_kv_cache_stays_fp32_if_int8_fails_the_gate(
    workshop: Workshop, measured: Divergences
) -> None:
    """The build falls back by itself, reports it, and records both; the weights are the same."""
    *missing, passing = [kl for (scheme, *_), kl in measured.items() if scheme == "int8-w8a8"]
    workshop.gate = between(passing, *missing)
    plain = workshop.build(kv_type=KvType.FP32, output=workshop.folder / "plain").bundle
    bundle = workshop.build(kv_type=KvType.INT8).bundle
    manifest = bundle.manifest
    assert (manifest.model.kv_type, manifest.model.kv_bytes_per_token) == (KvType.FP32, 512)
    assert workshop.tries() == [
        ("int8-w8a8", "static", "int8", False),
        ("int8-w8a8", "dynamic", "int8", False),
        ("int8-w8a8", "static", "fp32", False),
        ("int8-w8a8", "dynamic", "fp32", True),
    ]
    assert manifest.files == plain.manifest.files
    assert "int8-w8a8, norms scaled token by token, keys and values in int8:" in workshop.log


def test_a_form_that_misses_the_second_text_is_not_compared_on_the_gates_prompts(
    workshop: Workshop,
) -> None:
    """But for the last one, which is kept with all figures."""
    workshop.gate = IMPOSSIBLE
    workshop.recipe = {"scheme": "int8-w8a8"}
    with pytest.raises(GateMissedError):
        workshop.build()
    num_tries = len(workshop.tries(workshop.failed))
    assert num_tries > 1
    assert workshop.log.count("Compare on another text: ") == num_tries
    assert workshop.log.count("Compare with fp32: ") == 1
    assert open_bundle(workshop.failed).manifest.quality.tokens >= TOKENS_MIN


def test_norms_are_scaled_per_token_if_one_scale_fails_the_gate(
    workshop: Workshop, measured: Divergences
) -> None:
    """Slower operators are tried before a cache of four times the size."""
    static, dynamic = (measured["int8-w8a8", scaling, "int8"] for scaling in ("static", "dynamic"))
    workshop.gate = between(dynamic, static)
    workshop.build(kv_type=KvType.INT8)
    assert workshop.tries() == [
        ("int8-w8a8", "static", "int8", False),
        ("int8-w8a8", "dynamic", "int8", True),
    ]
    assert workshop.build(kv_type=KvType.INT8).is_reused


def test_a_recipe_leaves_out_the_scaling_that_is_known_to_miss(workshop: Workshop) -> None:
    workshop.recipe = {"scaling": "dynamic"}
    workshop.build(kv_type=KvType.INT8)
    assert workshop.tries() == [("int8-w8a8", "dynamic", "int8", True)]
    assert workshop.build(kv_type=KvType.INT8).is_reused


def test_without_a_named_scheme_the_next_one_is_tried(
    workshop: Workshop, measured: Divergences
) -> None:
    """A recipe that names a scheme gets that one or an error."""
    *missing, passing, _ = measured.values()
    workshop.gate = between(passing, *missing)
    manifest = workshop.build().bundle.manifest
    assert manifest.scheme == "int8-blockwise"
    assert manifest.kernels["aarch64"] == "asimddp"
    assert [made.scheme for made in manifest.tries] == ["int8-w8a8"] * 4 + ["int8-blockwise"]
    workshop.recipe = {"scheme": "int8-w8a8"}
    with pytest.raises(GateMissedError):
        workshop.build()


def test_a_cheaper_form_that_was_not_requested_is_tried_later(workshop: Workshop) -> None:
    fp32 = workshop.build(kv_type=KvType.FP32).bundle.manifest
    assert fp32.model.kv_type is KvType.FP32
    assert workshop.build(kv_type=KvType.FP32).is_reused
    int8 = workshop.build().bundle.manifest
    assert int8.model.kv_type is KvType.INT8
    assert int8.model.kv_bytes_per_token * 4 == fp32.model.kv_bytes_per_token
    assert workshop.build().is_reused


def test_a_build_reports_its_steps(from_scratch: Workshop) -> None:
    """Each step with its time, the memory estimate, the gate's table."""
    for text in (
        "An export of this model takes about 0.4 GiB of memory",
        "Export to ONNX (fp32): ",
        "Fuse: ",
        "Quantize to int8-w8a8: ",
        "mean_kl ",
        "pass\n",
    ):
        assert text in from_scratch.log


def test_two_builds_give_the_same_bytes(workshop: Workshop, from_scratch: Workshop) -> None:
    workshop.cache = workshop.folder / "cache"
    shutil.copytree(from_scratch.cache / "exports", workshop.cache / "exports")
    assert workshop.build().bundle.sha256 == open_bundle(from_scratch.output).sha256


def test_an_up_to_date_bundle_is_reused(workshop: Workshop) -> None:
    first = workshop.build()
    second = workshop.build()
    assert second.is_reused
    assert second.bundle == first.bundle
    assert "already built (toy-int8-w8a8@" in workshop.log


def test_a_pinned_source_is_not_even_fetched_again(workshop: Workshop) -> None:
    workshop.pinned = workshop.build().bundle.manifest.source.sha256
    workshop.source = workshop.folder / "gone"
    assert workshop.build().is_reused


def damage(workshop: Workshop) -> None:
    with (workshop.output / "model.onnx.data").open("r+b") as file:
        file.write(b"x")


def tighten(workshop: Workshop) -> None:
    workshop.gate = LENIENT | {"mean_kl": 0.9}


def shorten(workshop: Workshop) -> None:
    workshop.recipe = {"max_model_len": 150}


def change_tools(workshop: Workshop) -> None:
    manifest = open_bundle(workshop.output).manifest
    write_manifest(workshop.output, replace(manifest, tools={"edged": "0"}))


@pytest.mark.parametrize("change", [damage, tighten, shorten, change_tools])
def test_a_changed_input_causes_a_new_build(
    workshop: Workshop, change: Callable[[Workshop], None]
) -> None:
    tools = workshop.build().bundle.manifest.tools
    change(workshop)
    result = workshop.build()
    assert not result.is_reused
    assert workshop.leftovers() == ["toy"]
    assert result.bundle.manifest.tools == tools
    wanted = workshop.recipe.get("max_model_len", 256)
    assert result.bundle.manifest.limits.max_model_len == wanted


def test_a_failed_gate_installs_nothing(workshop: Workshop) -> None:
    """Exit code 1, the table, and the bundle kept next to its target for inspection."""
    workshop.gate, workshop.recipe = IMPOSSIBLE, {"scheme": "int8-blockwise"}
    with pytest.raises(GateMissedError, match=r"kept in .*toy\.failed") as caught:
        workshop.build()
    assert caught.value.exit_code is ExitCode.FAILURE
    assert "MISS" in workshop.log
    assert workshop.leftovers() == ["toy.failed"]
    assert not open_bundle(workshop.failed).manifest.quality.passed


def test_a_failed_gate_keeps_the_older_bundle(workshop: Workshop) -> None:
    workshop.recipe = {"scheme": "int8-blockwise"}
    first = workshop.build()
    workshop.gate = IMPOSSIBLE
    with pytest.raises(GateMissedError):
        workshop.build()
    assert open_bundle(workshop.output) == first.bundle


@pytest.fixture
def fused(workshop: Workshop) -> Path:
    """The fused graph of a source, in a cache that tests may damage."""
    sha256 = workshop.build().bundle.manifest.source.sha256
    workshop.cache = shutil.copytree(workshop.cache, workshop.folder / "cache")
    return workshop.cache / "fused" / sha256 / "model.onnx"


def test_a_fused_graph_is_cached(workshop: Workshop, fused: Path) -> None:
    """A second build of the source, for another scheme, starts from the cached one."""
    before = fused.stat()
    result = workshop.build(scheme="fp32", output=workshop.folder / "fp32")
    assert result.bundle.manifest.scheme == "fp32"
    assert result.bundle.manifest.quality.mean_kl == 0.0
    assert fused.stat().st_ino == before.st_ino
    assert "Fuse" not in workshop.log


def test_a_damaged_fused_graph_is_rebuilt(workshop: Workshop, fused: Path) -> None:
    whole = fused.read_bytes()
    fused.write_bytes(whole[: len(whole) // 2])
    assert workshop.build(output=workshop.folder / "again").bundle.manifest.quality.passed
    assert "Fuse: " in workshop.log
    assert fused.read_bytes() == whole


def write_half(output: Path, error: OSError) -> None:
    """Begin to write a bundle of 12 MB, interrupted by an error of the system."""
    with staging(output, 12_000_000) as partial:
        (partial / "model.onnx.data").write_bytes(b"half")
        raise error


@pytest.mark.parametrize(
    ("number", "complaint"),
    [
        (errno.ENOSPC, r"models: the disk is full: the bundle needs about 12 MB there, \d+ MB"),
        (errno.EROFS, r"models: cannot be written \(Read-only"),
    ],
)
def test_an_unwritable_disk_is_named(tmp_path: Path, number: int, complaint: str) -> None:
    output = tmp_path / "models" / "toy"
    with pytest.raises(BuildError, match=complaint) as caught:
        write_half(output, OSError(number, "Read-only file system"))
    assert "--output" in str(caught.value)
    assert not list(output.parent.iterdir())


def test_other_system_errors_are_raised_unchanged(tmp_path: Path) -> None:
    output = tmp_path / "models" / "toy"
    with pytest.raises(OSError, match="broken"):
        write_half(output, OSError(errno.EIO, "broken"))
    assert not list(output.parent.iterdir())


def test_too_little_disk_space_is_detected_before_anything_is_written(
    workshop: Workshop, small_disk: Path
) -> None:
    with pytest.raises(BuildError, match="the disk is full"):
        workshop.build(output=small_disk / "toy")
    assert "Quantize" not in workshop.log
    assert not list(small_disk.iterdir())


def test_a_stop_token_that_the_model_lacks_is_named_before_anything_is_quantized(
    workshop: Workshop,
) -> None:
    copy = workshop.folder / "llama"
    shutil.copytree(workshop.source, copy)
    (copy / "generation_config.json").write_text('{"eos_token_id": 9999}')
    workshop.source = copy
    with pytest.raises(BuildError, match=r"llama: eos_token_id 9999 is outside the vocabulary of"):
        workshop.build()
    assert "Quantize" not in workshop.log
    assert not workshop.output.exists()


def test_a_folder_that_is_no_bundle_is_never_replaced(workshop: Workshop) -> None:
    workshop.output.mkdir(parents=True)
    (workshop.output / "thesis.txt").write_text("years of work")
    workshop.source = workshop.folder / "never looked at"
    with pytest.raises(BuildError, match="exists and is not a bundle"):
        workshop.build()
    assert (workshop.output / "thesis.txt").read_text() == "years of work"


def test_a_file_is_never_replaced(workshop: Workshop) -> None:
    workshop.output.parent.mkdir()
    workshop.output.write_text("mine")
    with pytest.raises(BuildError, match="exists and is not a bundle"):
        workshop.build()


def test_an_empty_folder_can_become_a_bundle(workshop: Workshop) -> None:
    workshop.output.mkdir(parents=True)
    assert workshop.build().bundle.folder == workshop.output


def test_an_unknown_scheme_is_refused_with_the_known_ones(workshop: Workshop) -> None:
    with pytest.raises(UsageError, match=r"scheme 'int5' is not known; one of fp32, int8-blockwis"):
        workshop.build(scheme="int5")


def test_another_scheme_is_written_to_its_own_folder(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    assert workshop.build(output=None).bundle.folder == Path("models/toy")
    assert workshop.build(output=None, scheme="fp32").bundle.folder == Path("models/toy-fp32")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/srv/cache", "/srv/cache/edged"), ("", "~/.cache/edged"), ("relative", "~/.cache/edged")],
)
def test_the_cache_follows_the_xdg_rules(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert default_cache() == Path(expected).expanduser()


@pytest.mark.parametrize(
    ("family", "graph"), [("llama", GraphKind.FUSED), ("gpt2", GraphKind.PORTABLE)]
)
def test_verify_finds_the_reference_of_a_bundle(
    workshop: Workshop, family: str, graph: GraphKind
) -> None:
    """It takes Optimum's export, whether the build could fuse it or not."""
    if family != "llama":
        workshop.source = write_checkpoint(workshop.folder / family, new_model(family))
    bundle = workshop.build().bundle
    assert bundle.manifest.graph is graph
    assert bundle.manifest.model.family == family
    says_why = "Not fused, so the slower portable graph is taken: " in workshop.log
    assert says_why == (graph is GraphKind.PORTABLE)
    log = Progress(io.StringIO())
    quality = verify_bundle(bundle.folder, None, None, workshop.cache, log)
    assert quality.mean_kl == pytest.approx(bundle.manifest.quality.mean_kl, rel=0.05)
