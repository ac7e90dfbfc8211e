"""The price list on disk: measured once for one model on one device."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from edged.config import Config, ModelConfig, StateConfig
from edged.daemon.latency_file import FILE_NAME, cost_key, known_cost
from edged.daemon.loader import ResidentModel
from edged.scheduling.latency_model import CostEstimate

COST = CostEstimate(prefill_token_s=0.01, decode_token_s=0.1, decode_pair_s=1e-5)


@dataclass
class CountingEngine:
    """Tell how often it was measured."""

    measured: list[int] = field(default_factory=list)
    chunk_tokens: int = COST.chunk_tokens

    def measure(self) -> CostEstimate:
        self.measured.append(1)
        return COST


def model(
    engine: CountingEngine, model_id: str = "tiny@1", cost: CostEstimate | None = None
) -> ResidentModel:
    bundle = SimpleNamespace(model_id=model_id)
    return cast("ResidentModel", SimpleNamespace(engine=engine, bundle=bundle, cost=cost))


def config(folder: Path | None) -> Config:
    return Config(model=ModelConfig(path=Path("m")), state=StateConfig(folder=folder))


def test_a_device_is_measured_once_and_known_from_then_on(tmp_path: Path) -> None:
    engine = CountingEngine()
    for _ in range(3):
        assert known_cost(config(tmp_path), model(engine)) == COST
    assert len(engine.measured) == 1


def test_other_pieces_of_prompts_are_measured_anew(tmp_path: Path) -> None:
    engine = CountingEngine()
    known_cost(config(tmp_path), model(engine))
    engine.chunk_tokens += 1
    known_cost(config(tmp_path), model(engine))
    assert len(engine.measured) == 2


def test_another_model_or_other_threads_are_measured_anew(tmp_path: Path) -> None:
    engine = CountingEngine()
    known_cost(config(tmp_path), model(engine))
    known_cost(config(tmp_path), model(engine, "tiny@2"))
    settings = config(tmp_path)
    one_thread = replace(settings, model=replace(settings.model, num_threads=1))
    known_cost(one_thread, model(engine, "tiny@2"))
    assert len(engine.measured) == 3


def test_without_a_folder_each_start_measures() -> None:
    engine = CountingEngine()
    for _ in range(2):
        known_cost(config(None), model(engine))
    assert len(engine.measured) == 2


def test_a_model_that_brings_its_prices_is_not_measured(tmp_path: Path) -> None:
    engine = CountingEngine()
    assert known_cost(config(tmp_path), model(engine, cost=COST)) == COST
    assert engine.measured == []


@pytest.mark.parametrize("damaged", [b"{", b"[]", b'{"key": "K", "cost": {}}'])
def test_a_damaged_file_costs_a_measurement_and_a_warning(
    tmp_path: Path, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    key = cost_key(config(tmp_path), "tiny@1").encode()
    (tmp_path / FILE_NAME).write_bytes(damaged.replace(b'"K"', b'"' + key + b'"'))
    engine = CountingEngine()
    assert known_cost(config(tmp_path), model(engine)) == COST
    assert len(engine.measured) == 1
    assert "measured anew" in caplog.text
    assert json.loads((tmp_path / FILE_NAME).read_bytes())["key"] == key.decode()


def test_the_processor_is_part_of_the_key(tmp_path: Path) -> None:
    pi, pc = tmp_path / "pi", tmp_path / "pc"
    pi.write_text("CPU part\t: 0xd0b\nModel\t: Raspberry Pi 5\nBogoMIPS: 108\n")
    pc.write_text("model name\t: Some CPU\ncpu MHz\t: 2400\n")
    keys = [cost_key(config(None), "m", path) for path in (pi, pc, tmp_path / "none")]
    assert len(set(keys)) == 3
    pc.write_text("model name\t: Some CPU\ncpu MHz\t: 1200\n")
    assert cost_key(config(None), "m", pc) == keys[1]
