"""The build: whole bundles or none, the same bytes twice, and every obstacle named.

The steps before quantization are stood in for by the toy, but for the last test.
"""

import errno
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edged.builder import gate, pipeline, reference, search, verify
from edged.builder import quality as quality_module
from edged.builder.calibrate import calibration_ids
from edged.builder.export import Export
from edged.builder.fetch import Checkpoint
from edged.builder.fuse import FuseReport, NotFusable
from edged.builder.gate import gate_prompts
from edged.builder.kvcache import measure_peaks
from edged.builder.pipeline import BuildResult, GateMissedError, build, default_cache
from edged.builder.progress import Progress
from edged.builder.quantize import QuantizeReport, Scaling, Scheme, quantize
from edged.builder.recipe import DEFAULT_LIMITS, Recipe, Source, SourceKind, resolve_source
from edged.builder.verify import unseen_text, verify_bundle
from edged.bundle.folder import GraphKind, KvType, QualityLimits, open_bundle
from edged.errors import BuildError, ExitCode, UsageError
from tests.tiny_graphs import TinyConfig
from tests.tiny_model import CHAT_TEMPLATE, STOP_TOKEN_ID, write_tiny_bundle, write_tiny_tokenizer

SHA = "ab" * 32


@dataclass
class Workshop:
    """A build whose steps before quantization are stood in for."""

    folder: Path
    recipe: Recipe
    log: io.StringIO
    num_fetched: int = 0
    fuse: Callable[[Path, Path], None] | None = None

    @property
    def output(self) -> Path:
        return self.folder / "models" / "toy"

    def build(self, **options: Any) -> BuildResult:  # noqa: ANN401 - build's own
        given = {"output": self.output, "cache": self.folder / "cache"} | options
        return build("toy", progress=Progress(self.log), **given)

    def resolve_source(self, source: str) -> Recipe:
        assert source == "toy"
        return self.recipe

    def fetch(self, _recipe: Recipe, _cache: Path, _progress: Progress) -> Checkpoint:
        self.num_fetched += 1
        return Checkpoint(
            folder=self.folder / "checkpoint",
            sha256=SHA,
            name="toy",
            licence="MIT",
            stop_token_ids=(STOP_TOKEN_ID,),
            chat_template=CHAT_TEMPLATE,
            bos_token=None,
            eos_token="<|im_end|>",  # noqa: S106 - a token of text
            add_bos_token=False,
        )

    def export(self, _checkpoint: Checkpoint, _cache: Path, _progress: Progress) -> Export:
        return Export(self.folder / "export", 0.0, 1.0)

    def fuse_toy(self, _source: Path, output: Path, *, max_model_len: int) -> FuseReport:
        if self.fuse is not None:
            self.fuse(_source, output)
        write_tiny_bundle(output, fused=True)
        for name in ("manifest.json", "tokenizer.json"):
            (output / name).unlink()
        return FuseReport(2, 100, 20, None, (f"made for {max_model_len}",))

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.output.parent.iterdir())


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    source = Source(SourceKind.FOLDER, "toy", sha256=None)
    log = io.StringIO()
    workshop = Workshop(tmp_path, Recipe("toy", source), log)
    for name in ("resolve_source", "fetch", "export"):
        monkeypatch.setattr(pipeline, name, getattr(workshop, name))
    monkeypatch.setattr(reference, "fuse", workshop.fuse_toy)
    monkeypatch.setattr(pipeline, "estimate_memory_bytes", lambda _: 3 << 30)
    monkeypatch.setattr(pipeline, "count_parameters", lambda _: 12345)
    monkeypatch.setattr(pipeline, "calibration_ids", lambda *a: calibration_ids(*a)[:2])
    chosen = gate_prompts()[::12]
    monkeypatch.setattr(gate, "gate_prompts", lambda: chosen)
    monkeypatch.setattr(quality_module, "TOKENS_MIN", 100)
    monkeypatch.setattr(verify, "unseen_text", lambda: unseen_text()[:600])
    write_tiny_bundle(tmp_path / "export", fused=False)
    (tmp_path / "checkpoint").mkdir()
    shutil.copy(tmp_path / "export" / "tokenizer.json", tmp_path / "checkpoint")
    config = {"model_type": "llama", "max_position_embeddings": 200}
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(config))
    yield workshop
    log.close()


def test_a_build_ends_with_a_checked_bundle(workshop: Workshop) -> None:
    result = workshop.build(kv_type=KvType.INT8)
    assert not result.is_reused
    assert open_bundle(workshop.output) == result.bundle
    manifest = result.bundle.manifest
    assert manifest.quality.passed
    assert (manifest.graph, manifest.scheme) == (GraphKind.FUSED, "int8-w8a8")
    assert (manifest.source.sha256, manifest.licence) == (SHA, "MIT")
    assert (manifest.model.parameters, manifest.model.vocab_size) == (12345, 296)
    assert (manifest.model.num_layers, manifest.model.kv_bytes_per_token) == (2, 128)
    assert manifest.model.kv_type is KvType.INT8
    assert manifest.kernels == {"x86_64": "avx2", "aarch64": "asimd"}
    tries = [(*made.form, made.passed) for made in manifest.tries]
    assert tries == [("int8-w8a8", "dynamic", "int8", True)]
    assert manifest.limits.max_model_len == 200
    assert workshop.leftovers() == ["toy"]
    # The daemon runs as another user.
    assert workshop.output.stat().st_mode & 0o777 == 0o755


def test_keys_and_values_stay_fp32_where_int8_misses_the_gate(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build falls back by itself, says so, and records both; the weights are the same."""
    plain = workshop.build(kv_type=KvType.FP32, output=workshop.folder / "plain").bundle
    monkeypatch.setattr(
        search, "measure_peaks", lambda *a: {name: 0.1 * p for name, p in measure_peaks(*a).items()}
    )
    bundle = workshop.build(kv_type=KvType.INT8).bundle
    manifest = bundle.manifest
    assert (manifest.model.kv_type, manifest.model.kv_bytes_per_token) == (KvType.FP32, 512)
    tries = [(*made.form, made.passed) for made in manifest.tries]
    assert tries == [
        ("int8-w8a8", "dynamic", "int8", False),
        ("int8-w8a8", "dynamic", "fp32", True),
    ]
    assert manifest.files == plain.manifest.files
    said = "int8-w8a8, norms scaled token by token, keys and values in int8:"
    assert said in workshop.log.getvalue()


def test_norms_are_scaled_by_token_where_one_scale_misses_the_gate(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dearer operators come before a cache of four times the size."""

    def half_damaged(
        source: Path,
        output: Path,
        scheme: Scheme,
        texts: Sequence[Sequence[int]],
        scaling: Scaling,
    ) -> QuantizeReport:
        report = quantize(source, output, scheme, texts, scaling)
        if scaling is Scaling.STATIC:
            (output / "model.onnx.data").write_bytes(bytes(report.size_bytes))
        return replace(report, scaling=scaling)

    monkeypatch.setattr(search, "quantize", half_damaged)
    bundle = workshop.build(kv_type=KvType.INT8).bundle
    tries = [(*made.form, made.passed) for made in bundle.manifest.tries]
    assert tries == [
        ("int8-w8a8", "static", "int8", False),
        ("int8-w8a8", "dynamic", "int8", True),
    ]
    assert workshop.build(kv_type=KvType.INT8).is_reused


def test_without_a_chosen_scheme_the_next_one_is_tried(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that names a scheme gets that one or an error."""

    def damaged(
        source: Path,
        output: Path,
        scheme: Scheme,
        texts: Sequence[Sequence[int]],
        scaling: Scaling,
    ) -> QuantizeReport:
        texts = [[1] * 8] if scheme is Scheme.INT8_W8A8 else texts
        report = quantize(source, output, scheme, texts, scaling)
        if scheme is Scheme.INT8_W8A8:
            data = bytearray((output / "model.onnx.data").read_bytes())
            data[::3] = bytes(len(data[::3]))
            (output / "model.onnx.data").write_bytes(data)
        return report

    monkeypatch.setattr(search, "quantize", damaged)
    manifest = workshop.build().bundle.manifest
    assert manifest.scheme == "int8-blockwise"
    assert manifest.kernels["aarch64"] == "asimddp"
    assert [made.scheme for made in manifest.tries] == ["int8-w8a8"] * 2 + ["int8-blockwise"]
    workshop.recipe = replace(workshop.recipe, scheme="int8-w8a8")
    with pytest.raises(GateMissedError):
        workshop.build()


def test_a_cheaper_form_that_was_not_asked_for_is_tried_later(workshop: Workshop) -> None:
    fp32 = workshop.build(kv_type=KvType.FP32).bundle.manifest
    assert fp32.model.kv_type is KvType.FP32
    assert workshop.build(kv_type=KvType.FP32).is_reused
    int8 = workshop.build().bundle.manifest
    assert int8.model.kv_type is KvType.INT8
    assert int8.model.kv_bytes_per_token * 4 == fp32.model.kv_bytes_per_token
    assert workshop.build().is_reused


def test_the_second_text_alone_can_fail_the_gate(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no formality: what is fine on the prompts and wrong there is not installed."""
    monkeypatch.setattr(quality_module, "_UNSEEN_FACTOR", 0.0)
    with pytest.raises(GateMissedError):
        workshop.build()
    quality = open_bundle(workshop.output.with_name("toy.failed")).manifest.quality
    assert quality.mean_kl <= quality.limits.mean_kl
    assert quality.unseen is not None
    assert quality.unseen.mean_kl > quality.unseen.limits.mean_kl


def test_a_build_tells_what_it_does(workshop: Workshop) -> None:
    """Each step with its time, the memory estimate, the notes of fuse, the gate's table."""
    workshop.build()
    log = workshop.log.getvalue()
    for text in (
        "An export of this model takes about 3.0 GiB of memory",
        "made for 200",
        "Quantize to int8-w8a8: ",
        "mean_kl ",
        "pass\n",
    ):
        assert text in log


def test_two_builds_give_the_same_bytes(workshop: Workshop) -> None:
    first = workshop.build().bundle
    again = workshop.build(output=workshop.folder / "b", cache=workshop.folder / "cache2").bundle
    assert again.sha256 == first.sha256


def test_an_up_to_date_bundle_is_reused(workshop: Workshop) -> None:
    first = workshop.build()
    second = workshop.build()
    assert second.is_reused
    assert second.bundle == first.bundle
    assert "already built (toy-int8-w8a8@" in workshop.log.getvalue()


def test_a_pinned_source_is_not_even_fetched_again(workshop: Workshop) -> None:
    pinned = replace(workshop.recipe.source, sha256=SHA)
    workshop.recipe = replace(workshop.recipe, source=pinned)
    workshop.build()
    assert workshop.build().is_reused
    assert workshop.num_fetched == 1


def damage(workshop: Workshop) -> None:
    with (workshop.output / "model.onnx.data").open("r+b") as file:
        file.write(b"x")


def tighten(workshop: Workshop) -> None:
    workshop.recipe = replace(workshop.recipe, gate=replace(DEFAULT_LIMITS, mean_kl=0.009))


def shorten(workshop: Workshop) -> None:
    workshop.recipe = replace(workshop.recipe, max_model_len=150)


@pytest.mark.parametrize("change", [damage, tighten, shorten])
def test_whatever_changed_is_built_again(
    workshop: Workshop, change: Callable[[Workshop], None]
) -> None:
    workshop.build()
    change(workshop)
    result = workshop.build()
    assert not result.is_reused
    assert workshop.leftovers() == ["toy"]
    assert result.bundle.manifest.limits.max_model_len == (workshop.recipe.max_model_len or 200)


def test_another_tool_version_builds_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.build()
    monkeypatch.setattr(pipeline, "tool_versions", lambda: {"edged": "9"})
    result = workshop.build()
    assert not result.is_reused
    assert result.bundle.manifest.tools == {"edged": "9"}


def test_a_gate_that_misses_installs_nothing(workshop: Workshop) -> None:
    """Exit code 1, the table, and the bundle kept beside its place to be looked at."""
    workshop.recipe = replace(workshop.recipe, gate=replace(DEFAULT_LIMITS, mean_kl=1e-9))
    with pytest.raises(GateMissedError, match=r"kept in .*toy\.failed") as caught:
        workshop.build()
    assert caught.value.exit_code is ExitCode.FAILURE
    assert "MISS" in workshop.log.getvalue()
    assert workshop.leftovers() == ["toy.failed"]
    assert not open_bundle(workshop.output.with_name("toy.failed")).manifest.quality.passed


def test_a_missed_gate_leaves_an_older_bundle_alone(workshop: Workshop) -> None:
    first = workshop.build()
    workshop.recipe = replace(workshop.recipe, gate=replace(DEFAULT_LIMITS, mean_kl=1e-9))
    with pytest.raises(GateMissedError):
        workshop.build()
    assert open_bundle(workshop.output) == first.bundle


def test_a_model_that_does_not_fuse_is_built_as_exported(workshop: Workshop) -> None:
    def refuse(_source: Path, _output: Path) -> None:
        raise NotFusable("head size 20 is not a multiple of 8")

    workshop.fuse = refuse
    result = workshop.build()
    assert result.bundle.manifest.graph is GraphKind.PORTABLE
    assert result.bundle.manifest.quality.passed
    assert "portable graph is taken: head size 20" in workshop.log.getvalue()


def test_a_fused_graph_is_made_once(workshop: Workshop) -> None:
    """A second build of the source, for another scheme, starts from the cached one."""
    workshop.build()

    def refuse(_source: Path, _output: Path) -> None:
        pytest.fail("fused again")

    workshop.fuse = refuse
    result = workshop.build(scheme="fp32", output=workshop.folder / "fp32")
    assert result.bundle.manifest.scheme == "fp32"
    assert result.bundle.manifest.quality.mean_kl == 0.0


def test_a_half_written_fused_graph_is_not_used(workshop: Workshop) -> None:
    def stop(_source: Path, output: Path) -> None:
        (output / "model.onnx").write_bytes(b"half")
        raise KeyboardInterrupt

    workshop.fuse = stop
    with pytest.raises(KeyboardInterrupt):
        workshop.build()
    workshop.fuse = None
    assert workshop.build().bundle.manifest.quality.passed


def failing(error: OSError) -> Callable[..., None]:
    def quantize(_source: Path, output: Path, *_: object) -> None:
        (output / "model.onnx.data").write_bytes(b"half")
        raise error

    return quantize


@pytest.mark.parametrize(
    ("number", "complaint"),
    [
        (errno.ENOSPC, r"models: the disk is full: the bundle needs about \d+ MB there, \d+ MB"),
        (errno.EROFS, r"models: cannot be written \(Read-only"),
    ],
)
def test_a_disk_that_does_not_take_the_bundle_is_named(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, number: int, complaint: str
) -> None:
    error = OSError(number, "Read-only file system")
    monkeypatch.setattr(search, "quantize", failing(error))
    with pytest.raises(BuildError, match=complaint) as caught:
        workshop.build()
    assert "--output" in str(caught.value)
    assert workshop.leftovers() == []


def test_another_error_of_the_system_is_not_dressed_up(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "quantize", failing(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        workshop.build()
    assert workshop.leftovers() == []


def test_too_little_space_is_seen_before_anything_is_written(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_SIZE_SHARE", dict.fromkeys(Scheme, 1e12))
    monkeypatch.setattr(search, "quantize", lambda *_: pytest.fail("started"))
    with pytest.raises(BuildError, match="the disk is full"):
        workshop.build()


def test_a_folder_that_is_no_bundle_is_never_replaced(workshop: Workshop) -> None:
    workshop.output.mkdir(parents=True)
    (workshop.output / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="exists and is not a bundle"):
        workshop.build()
    assert workshop.num_fetched == 0
    assert (workshop.output / "thesis.txt").read_text() == "years of work"


def test_a_file_is_never_replaced(workshop: Workshop) -> None:
    workshop.output.parent.mkdir()
    workshop.output.write_text("mine")
    with pytest.raises(BuildError, match="exists and is not a bundle"):
        workshop.build()


def test_an_empty_folder_is_a_place_for_a_bundle(workshop: Workshop) -> None:
    workshop.output.mkdir(parents=True)
    assert workshop.build().bundle.folder == workshop.output


def test_an_unknown_scheme_is_refused_with_the_known_ones(workshop: Workshop) -> None:
    with pytest.raises(UsageError, match=r"scheme 'int5' is not known; one of fp32, int8-blockwis"):
        workshop.build(scheme="int5")


def test_another_scheme_goes_to_a_folder_of_its_own(
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


def write_checkpoint(folder: Path, family: str) -> Path:
    """Write a tiny random model of a family as a Hugging Face folder."""
    from tests.builder.tiny_families import tiny_model  # noqa: PLC0415 - needs the build extra

    model = tiny_model(family, vocab_size=TinyConfig().vocab_size)
    model.generation_config.eos_token_id = STOP_TOKEN_ID
    model.save_pretrained(folder)
    write_tiny_tokenizer(folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.mark.parametrize(
    ("family", "graph"), [("llama", GraphKind.FUSED), ("gpt2", GraphKind.PORTABLE)]
)
def test_a_real_checkpoint_goes_all_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, graph: GraphKind
) -> None:
    """Optimum's own export of a tiny model becomes an int8 bundle, and verify finds its reference.

    A random model's logits are flat, so its gate is judged by divergence, not by argmax.
    """
    pytest.importorskip("optimum")
    monkeypatch.setattr(gate, "gate_prompts", lambda: gate_prompts()[::12])
    monkeypatch.setattr(quality_module, "TOKENS_MIN", 100)
    monkeypatch.setattr(verify, "unseen_text", lambda: unseen_text()[:600])
    recipe = resolve_source(str(write_checkpoint(tmp_path / family, family)))
    lenient = replace(recipe, gate=QualityLimits(0.05, 1.05, 0.5))
    monkeypatch.setattr(pipeline, "resolve_source", lambda _: lenient)
    progress = Progress(io.StringIO())
    cache = tmp_path / "cache"
    bundle = build(family, output=tmp_path / "out", cache=cache, progress=progress).bundle
    assert bundle.manifest.graph is graph
    assert bundle.manifest.model.family == family
    quality = verify_bundle(bundle.folder, None, None, cache, progress)
    assert quality.mean_kl == pytest.approx(bundle.manifest.quality.mean_kl, rel=0.05)
