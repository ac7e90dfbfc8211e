"""``edged build`` and ``edged verify``: their output and exit codes."""

import json
import shutil
import signal
from pathlib import Path
from typing import NoReturn

import pytest

from edged import cli
from edged.builder import build_command, gate, quality, verify
from edged.builder.gate import gate_prompts
from edged.builder.pipeline import BuildResult
from edged.builder.progress import Progress
from edged.bundle.folder import open_bundle
from edged.bundle.manifest import KvType
from edged.errors import BuildError, ExitCode
from tests.tiny_model import write_tiny_bundle

FIGURES = [
    "mean_kl",
    "p99_kl",
    "perplexity",
    "reference_perplexity",
    "perplexity_ratio",
    "argmax_agreement",
    "tokens",
]


@pytest.fixture
def bundle_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(gate, "gate_prompts", lambda: gate_prompts()[::12])
    return write_tiny_bundle(tmp_path / "toy", fused=False)


def test_verify_prints_its_seven_figures_as_json(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "letter.txt"
    text.write_text("Dear Sir or Madam, the chair is broken.")
    words = ["verify", str(bundle_folder), "--reference", str(bundle_folder), "--json"]
    assert cli.main([*words, "--text", str(text)]) == ExitCode.OK
    figures = json.loads(capsys.readouterr().out)
    assert list(figures) == FIGURES
    assert (figures["mean_kl"], figures["argmax_agreement"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("tokens_min", "status", "verdict"),
    [(100, ExitCode.OK, "pass"), (10**6, ExitCode.FAILURE, "MISS")],
)
def test_verify_with_the_text_of_the_gate_applies_its_limits(
    bundle_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tokens_min: int,
    status: ExitCode,
    verdict: str,
) -> None:
    monkeypatch.setattr(quality, "TOKENS_MIN", tokens_min)
    monkeypatch.setattr(verify, "unseen_text", lambda: "A short text of another kind.")
    words = ["verify", str(bundle_folder), "--reference", str(bundle_folder)]
    assert cli.main(words) == status
    assert capsys.readouterr().out.splitlines()[len(FIGURES)].endswith(verdict)


def test_verify_refuses_a_damaged_bundle(
    bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(bundle_folder / "tokenizer.json", bundle_folder / "extra.json")
    assert cli.main(["verify", str(bundle_folder)]) == ExitCode.CONFIG
    assert "extra.json: not in the manifest" in capsys.readouterr().err


def test_build_names_a_file_that_cannot_be_read_or_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text("name: r\nsource: {kind: gguf, path: none.gguf}\n")
    assert cli.main(["build", str(tmp_path / "r.yaml")]) == ExitCode.FAILURE
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"edged build: {tmp_path / 'none.gguf'}: No such file or directory"
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "none.gguf").write_bytes(b"GGUF")
    words = ["build", str(tmp_path / "none.gguf"), "--cache", str(tmp_path / "file")]
    assert cli.main(words) == ExitCode.FAILURE
    assert capsys.readouterr().err.endswith("file/checkpoints: Not a directory\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_ended_cleans_up(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    cleaned = []

    def build(*_: object, **__: object) -> NoReturn:
        try:
            signal.raise_signal(number)
            pytest.fail("went on")
        finally:
            cleaned.append(number)

    monkeypatch.setattr(build_command, "build", build)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as end:
            cli.main(["build", "toy"])
    finally:
        signal.signal(number, before)
    assert (end.value.code, cleaned) == (128 + number, [number])


def test_build_prints_the_bundle_it_made(
    bundle_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(source: str, **options: object) -> BuildResult:
        assert source == "toy"
        assert isinstance(options.pop("progress"), Progress)
        assert options == {
            "output": bundle_folder,
            "scheme": "fp32",
            "kv_type": KvType.INT8,
            "cache": Path("/cache"),
        }
        return BuildResult(open_bundle(bundle_folder), is_reused=True)

    monkeypatch.setattr(build_command, "build", build)
    words = ["build", "toy", "--output", str(bundle_folder), "--scheme", "fp32", "--kv", "int8"]
    assert cli.main([*words, "--cache", "/cache"]) == ExitCode.OK
    assert capsys.readouterr().out == f"{bundle_folder}\n"


def test_build_reports_why_it_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object, **__: object) -> BuildResult:
        raise BuildError("models: the disk is full")

    monkeypatch.setattr(build_command, "build", build)
    assert cli.main(["build", "toy"]) == ExitCode.FAILURE
    assert capsys.readouterr().err == "edged build: models: the disk is full\n"


def test_an_unknown_source_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "no-such-model"]) == ExitCode.FAILURE
    assert "no-such-model" in capsys.readouterr().err
