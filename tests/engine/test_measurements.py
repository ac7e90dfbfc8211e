"""What is measured once for one model on one device, and kept on disk."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from edged.bundle.folder import Bundle
from edged.config.keys import Config, ModelConfig, StateConfig
from edged.daemon.measurements import COST_FILE, fingerprint, known_cost
from edged.scheduling.latency_model import CostEstimate

if TYPE_CHECKING:
    from edged.engine.loop import Engine

COST = CostEstimate(prefill_token_s=0.01, decode_token_s=0.1, decode_pair_s=1e-5)


@dataclass
class CountingEngine:
    """Tell how often it was measured."""

    measured: list[int] = field(default_factory=list)
    chunk_tokens: int = COST.chunk_tokens

    def measure(self) -> CostEstimate:
        self.measured.append(1)
        return COST


def bundle(sha256: str = "1") -> Bundle:
    return cast("Bundle", SimpleNamespace(sha256=sha256 * 64))


def config(folder: Path | None) -> Config:
    return Config(model=ModelConfig(path=Path("m")), state=StateConfig(folder=folder))


def cost(settings: Config, engine: CountingEngine, sha256: str = "1") -> CostEstimate:
    return known_cost(settings, bundle(sha256), cast("Engine", engine))


def test_a_device_is_measured_once_and_known_from_then_on(tmp_path: Path) -> None:
    engine = CountingEngine()
    for _ in range(3):
        assert cost(config(tmp_path), engine) == COST
    assert len(engine.measured) == 1


def test_other_pieces_of_prompts_are_measured_anew(tmp_path: Path) -> None:
    engine = CountingEngine()
    cost(config(tmp_path), engine)
    engine.chunk_tokens += 1
    cost(config(tmp_path), engine)
    assert len(engine.measured) == 2


def test_another_model_or_other_threads_are_measured_anew(tmp_path: Path) -> None:
    engine = CountingEngine()
    cost(config(tmp_path), engine)
    cost(config(tmp_path), engine, "2")
    settings = config(tmp_path)
    one_thread = replace(settings, model=replace(settings.model, num_threads=1))
    cost(one_thread, engine, "2")
    assert len(engine.measured) == 3


def test_without_a_folder_each_start_measures() -> None:
    engine = CountingEngine()
    for _ in range(2):
        cost(config(None), engine)
    assert len(engine.measured) == 2


@pytest.mark.parametrize(
    "damaged",
    [
        b"{",
        b"[]",
        b"[" * 4000,
        b'{"key": "K", "cost": {}}',
        b'{"key": "K", "cost": [1]}',
        b'{"key": "K", "cost": {"prefill_token_s": "1", "decode_token_s": 1}}',
        b'{"key": "K", "cost": {"prefill_token_s": 1, "decode_token_s": NaN}}',
        b'{"key": "K", "cost": {"prefill_token_s": 1, "decode_token_s": 1, "chunk_tokens": 0}}',
        b" " * 5000,
    ],
)
def test_a_damaged_file_costs_a_measurement_and_a_warning(
    tmp_path: Path, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    engine = CountingEngine()
    cost(config(tmp_path), engine)
    good = (tmp_path / COST_FILE).read_bytes()
    key = json.loads(good)["key"].encode()
    (tmp_path / COST_FILE).write_bytes(damaged.replace(b"K", key))
    assert cost(config(tmp_path), engine) == COST
    assert len(engine.measured) == 2
    assert "measured anew" in caplog.text
    assert (tmp_path / COST_FILE).read_bytes() == good


def test_processor_and_board_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    pi, pc = tmp_path / "pi", tmp_path / "pc"
    pi.write_text("CPU part\t: 0xd0b\nModel\t: Raspberry Pi 5\nBogoMIPS: 108\n")
    pc.write_text("model name\t: Some CPU\ncpu MHz\t: 2400\n")
    keys = [fingerprint(config(None), bundle(), path) for path in (pi, pc, tmp_path / "none")]
    assert len(set(keys)) == 3
    pc.write_text("model name\t: Some CPU\ncpu MHz\t: 1200\n")
    assert fingerprint(config(None), bundle(), pc) == keys[1]
    pi.write_text("CPU part\t: 0xd0b\nModel\t: Raspberry Pi 500\nBogoMIPS: 108\n")
    assert fingerprint(config(None), bundle(), pi) != keys[0]
