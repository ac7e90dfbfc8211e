"""Which kernel and which pieces are fastest on a device: measured once, and never in the way."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.bundle.folder import Bundle, open_bundle, write_manifest
from edged.bundle.manifest import ADAPTED_MODEL
from edged.config.keys import Config, ModelConfig, StateConfig
from edged.daemon import measurements
from edged.daemon.measurements import TUNING_FILE, fitted_settings, known_tuning
from edged.engine.graph import Graph
from edged.engine.steps import DecodeInput
from edged.engine.tuning import Tuning, measure_tuning
from edged.specialists.writer import WRITER
from tests.damages import DAMAGES
from tests.fakes import FakeClock
from tests.tiny_graphs import TinyConfig
from tests.tiny_model import write_tiny_bundle


@dataclass
class TimedGraph(Graph):
    """A graph whose runs take what a table says."""

    clock: FakeClock
    token_s: float
    run_s: float
    vocab_size: int = 10
    max_model_len: int = 1000

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        all_rows: bool = False,
        is_prefill: bool = True,
    ) -> NDArray[np.float32]:
        self.clock.advance(self.run_s + len(token_ids) * self.token_s)
        return np.zeros((1, 10), np.float32)

    def release(self, slot: int = 0) -> None:
        raise NotImplementedError

    def _allocate(self) -> None:
        raise NotImplementedError

    def decode(self, inputs: Sequence[DecodeInput]) -> list[NDArray[np.float32]]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("flash", "plain", "expected"),
    [
        ((0.001, 0.01), (0.001, 0.02), Tuning(has_flash=True, chunk_tokens=64)),
        ((0.001, 0.01), (0.001, 0.001), Tuning(has_flash=False, chunk_tokens=64)),
        ((0.0001, 0.01), (0.001, 0.01), Tuning(has_flash=True, chunk_tokens=256)),
        ((0.1, 0.01), (0.2, 0.01), Tuning(has_flash=True, chunk_tokens=32)),
    ],
    ids=["tiles", "whole", "quick device", "slow device"],
)
def test_the_fastest_is_taken_that_keeps_nobody_waiting(
    flash: tuple[float, float], plain: tuple[float, float], expected: Tuning
) -> None:
    clock = FakeClock(0.0)

    def load(has_flash: bool) -> Graph:
        return TimedGraph(clock, *(flash if has_flash else plain))

    assert measure_tuning(load, clock) == expected


@pytest.mark.parametrize(
    ("token_s", "num_prompts"),
    [
        # Twice with each kernel, in the default chunks, and twice in each other chunk.
        (0.0001, 10),
        # Chunks of 128 take too long, so those of 256 are not timed.
        (0.001, 8),
        # As those of 64 do: the smallest are taken, whatever they take.
        (0.005, 4),
        # Nor does it take a second time to tell what takes long.
        (0.01, 2),
    ],
)
def test_a_device_reads_no_more_prompts_than_tell_something(
    token_s: float, num_prompts: int
) -> None:
    clock = FakeClock(0.0)
    measure_tuning(lambda _: TimedGraph(clock, token_s, run_s=0.0), clock)
    answers = 2 * 8
    assert clock() == pytest.approx((num_prompts * 256 + answers) * token_s)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_tiny_bundle(tmp_path / "bundle", config=TinyConfig(max_model_len=512)))


def config(folder: Path | None) -> Config:
    model = ModelConfig(path=Path("m"), num_threads=1)
    return Config(model=model, state=StateConfig(folder=folder))


def test_a_device_is_measured_by_a_child_and_known_from_then_on(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = known_tuning(config(tmp_path), bundle, bundle.model_path)
    assert found.has_flash is not None
    assert json.loads((tmp_path / TUNING_FILE).read_bytes())["tuning"]["chunk_tokens"] > 0
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("measured again"))
    assert known_tuning(config(tmp_path), bundle, bundle.model_path) == found


def test_nothing_is_measured_that_cannot_be_kept(bundle: Bundle) -> None:
    assert known_tuning(config(None), bundle, bundle.model_path) == Tuning()


def test_without_a_prepared_copy_no_second_model_is_loaded(tmp_path: Path, bundle: Bundle) -> None:
    assert known_tuning(config(tmp_path), bundle, None) == Tuning()
    assert not (tmp_path / TUNING_FILE).exists()


def test_a_child_that_fails_costs_a_line(
    tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert known_tuning(config(tmp_path), bundle, tmp_path / "absent.onnx") == Tuning()
    assert "no measurement" in caplog.text
    assert not (tmp_path / TUNING_FILE).exists(), "the next start tries again"


@pytest.mark.parametrize("damage", [*DAMAGES, "an impossible tuning"])
def test_a_damaged_file_is_measured_anew(
    tmp_path: Path,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    """And neither waited for nor read to its end."""
    path, measured = tmp_path / TUNING_FILE, Tuning(has_flash=True, chunk_tokens=32)
    monkeypatch.setattr(measurements, "_measure_in_child", lambda *_: measured)
    assert known_tuning(config(tmp_path), bundle, bundle.model_path) == measured
    if damage in DAMAGES:
        DAMAGES[damage](path)
    else:
        path.write_text(path.read_text().replace("32}", "0}"))
    assert known_tuning(config(tmp_path), bundle, bundle.model_path) == measured
    assert caplog.text.count("is measured anew") == 1


def test_the_graph_that_takes_adapters_is_run_where_a_specialist_writes(
    tmp_path: Path, bundle: Bundle
) -> None:
    """Not for another specialist, nor where the bundle has none."""
    head, writer = tmp_path / "head", tmp_path / "writer"
    head.mkdir()
    writer.mkdir()
    (writer / WRITER).write_text("{}")
    shutil.copyfile(bundle.model_path, bundle.folder / ADAPTED_MODEL)
    both = write_manifest(bundle.folder, bundle.manifest)

    def graph_of(bundle: Bundle, *folders: Path) -> Path | None:
        settings = Config(model=ModelConfig(path=bundle.folder), specialists=folders)
        return fitted_settings(settings, bundle, 1, room_bytes=0).model_path

    assert graph_of(both, head, writer) == both.adapted_path
    assert graph_of(both, head) is graph_of(both) is graph_of(bundle, writer) is None


@pytest.mark.parametrize(("chosen", "batch_tokens"), [(None, 256), (96, 96)])
def test_prompts_read_together_have_the_tokens_that_memory_is_planned_for(
    bundle: Bundle, chosen: int | None, batch_tokens: int
) -> None:
    """However short the fastest chunk is."""
    config = Config(model=ModelConfig(path=bundle.folder, prefill_chunk_tokens=chosen))
    settings = fitted_settings(config, bundle, 2, room_bytes=0)
    assert settings.batch_tokens == batch_tokens
    assert settings.prefill_chunk_tokens == (chosen or 64)
