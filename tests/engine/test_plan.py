"""``edged plan``: the figures of the daemon's own check, without loading the model."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edged.bundle.folder import Bundle, open_bundle
from edged.bundle.manifest import GraphKind, ModelFacts
from edged.cli import main
from edged.config.keys import Config, ModelConfig
from edged.daemon.memory_plan import plan_memory
from edged.daemon.specialist_folders import planned_bytes
from edged.errors import ExitCode
from edged.scheduling.memory_budget import MemoryPlan, MemorySnapshot
from tests.tiny_model import write_tiny_bundle

MIB = 1 << 20
HELD = MemorySnapshot(70 * MIB, 1000 * MIB)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path)


def planned(
    folder: Path,
    facts: ModelFacts | None = None,
    *,
    chunk_tokens: int = 64,
    num_slots: int = 1,
    **changes: object,
) -> MemoryPlan:
    """Plan for a bundle whose manifest says something else."""
    bundle: Bundle = open_bundle(folder)
    manifest = replace(bundle.manifest, model=facts or bundle.manifest.model, **changes)  # type: ignore[arg-type]
    config = Config(model=ModelConfig(path=folder, prefill_chunk_tokens=chunk_tokens))
    return plan_memory(config, replace(bundle, manifest=manifest), HELD, num_slots)


def test_keys_and_values_are_counted_by_context_and_slot(folder: Path) -> None:
    facts = open_bundle(folder).manifest.model
    assert planned(folder).kv_bytes == 256 * facts.kv_bytes_per_token  # the bundle's own limit
    assert planned(folder, num_slots=4).kv_bytes == 4 * 256 * facts.kv_bytes_per_token
    smaller = replace(facts, kv_bytes_per_token=facts.kv_bytes_per_token // 4)
    assert planned(folder, smaller).kv_bytes == planned(folder).kv_bytes // 4


def test_working_memory_grows_with_vocabulary_layers_and_chunk(folder: Path) -> None:
    facts = ModelFacts("llama", 134_000_000, 49152, 30, 46080)
    base = planned(folder, facts).working_bytes
    assert planned(folder, replace(facts, vocab_size=151_936)).working_bytes > base + 50 * MIB
    assert planned(folder, replace(facts, num_layers=60)).working_bytes > base + 8 * MIB
    assert planned(folder, facts, chunk_tokens=256).working_bytes > base + 12 * MIB


def test_what_the_kernels_rearrange_counts_where_they_make_it_larger(folder: Path) -> None:
    weights_bytes = planned(folder).weights_bytes
    lean, fat = (planned(folder, scheme=name) for name in ("int8-w8a8", "int8-blockwise"))
    assert lean.weights_bytes == fat.weights_bytes == weights_bytes
    assert fat.working_bytes - lean.working_bytes == pytest.approx(0.37 * weights_bytes, abs=1)


def test_a_portable_graph_copies_its_cache(folder: Path) -> None:
    portable = planned(folder, graph=GraphKind.PORTABLE)
    assert portable.kv_bytes == planned(folder).kv_bytes
    assert portable.working_bytes > planned(folder).working_bytes + 2.5 * portable.kv_bytes


def test_the_parts_are_printed_and_add_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(folder), "--context", "200", "--slots", "1"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert "context 200, 1 slot" in lines[0]
    sizes = {line[2:18].strip(): int(line[18:25]) for line in lines[1:8]}
    total = sizes.pop("total")
    assert list(sizes) == [
        "weights",
        "keys and values",
        "prefix cache",
        "working memory",
        "process",
        "requests",
    ]
    assert sum(sizes.values()) == pytest.approx(total, abs=len(sizes))
    assert lines[8].startswith("device: ")
    assert lines[9] == "it fits"


def test_json_has_bytes_and_the_device(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(folder), "--slots", "3", "--json"]) == ExitCode.OK
    figures = json.loads(capsys.readouterr().out)
    parts = ("weights", "kv", "prefix_cache", "working", "process", "serving")
    assert figures["total_bytes"] == sum(figures[f"{part}_bytes"] for part in parts)
    assert figures["kv_bytes"] == 3 * 256 * figures["kv_bytes_per_token"]
    assert 0 < figures["device"]["available_bytes"] < figures["device"]["total_bytes"]
    assert figures["problem"] is None


def test_what_does_not_fit_is_said_as_the_daemon_says_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path.parent / "edged.yaml"
    file.write_text(f"model: {{path: {folder}}}\nbudget: {{memory: 40M}}\n")
    assert main(["plan", "--config", str(file)]) == ExitCode.CONFIG
    printed = capsys.readouterr().out.splitlines()[-1].removeprefix("it does not fit: ")
    assert printed.startswith("budget.memory: ")
    # A process of its own: the daemon limits for good what its process may reach.
    command = [sys.executable, "-m", "edged", "run", "--config", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == ExitCode.CONFIG
    refused = run.stderr.splitlines()[-1].removeprefix("edged run: ")
    assert re.sub(r"\d+", "N", refused) == re.sub(r"\d+", "N", printed)


def test_what_does_not_fit_beside_the_others_now_exits_75(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.daemon.memory.available_bytes", lambda: 80 * MIB)
    assert main(["plan", "--model", str(folder)]) == ExitCode.TEMPORARY_FAILURE
    assert "it does not fit: budget." in capsys.readouterr().out


def test_specialists_are_planned_and_shown(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    # The bundle's own folder holds nothing else.
    beside = tmp_path_factory.mktemp("beside")
    (beside / "taught").mkdir()
    (beside / "taught" / "arrays.npz").write_bytes(bytes(3 * MIB))
    file = beside / "edged.yaml"
    file.write_text(f"model: {{path: {folder}}}\nspecialists: [taught]\n")
    assert main(["plan", "--config", str(file), "--json"]) == ExitCode.OK
    expected = planned_bytes([beside / "taught"], 1)
    assert json.loads(capsys.readouterr().out)["specialists_bytes"] == expected > 3 * MIB
    assert main(["plan", "--config", str(file)]) == ExitCode.OK
    row = rf"^  specialists +{expected / MIB:.0f} MiB"
    assert re.search(row, capsys.readouterr().out, re.MULTILINE)
    assert main(["plan", "--model", str(folder)]) == ExitCode.OK
    assert "specialists" not in capsys.readouterr().out


def test_a_context_that_is_none_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(folder), "--context", "many"]) == ExitCode.CONFIG
    assert "model.max_model_len" in capsys.readouterr().err
