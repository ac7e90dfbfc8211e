"""The memory budget: decided once, checked before loading, honest about who keeps it."""

from dataclasses import replace
from pathlib import Path

import pytest

from edged.bundle.folder import Bundle, open_bundle
from edged.bundle.manifest import ADAPTED_MODEL, MODEL, FileEntry, KvType, ModelLimits
from edged.config.keys import BudgetConfig, Config, ModelConfig
from edged.daemon.memory import KernelLimits
from edged.daemon.memory_plan import (
    decide_budget,
    divide_memory,
    plan_memory,
    reserve_memory,
    warnings,
)
from edged.errors import ConfigError, UnavailableError
from edged.node.limits import Limits
from edged.node.node import Node
from edged.protocol.wire import RequestDefaults, Topics
from edged.scheduling.latency_model import LatencyModel
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot
from edged.specialists.folder import DESCRIPTION
from edged.specialists.writer import WRITER
from tests.fakes import COST
from tests.tiny_model import write_tiny_bundle

MIB = 1024**2
ROOMY = MemorySnapshot(50 * MIB, 1000 * MIB)
NO_LIMITS = KernelLimits(None, None)


@pytest.fixture(autouse=True)
def small_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tests before have loaded into this process."""
    monkeypatch.setattr("edged.daemon.memory.rss_bytes", lambda: 50 * MIB)


def config(path: Path, memory_bytes: int | None = None) -> Config:
    return Config(model=ModelConfig(path=path), budget=BudgetConfig(memory_bytes=memory_bytes))


def test_the_configured_budget_wins() -> None:
    assert decide_budget(config(Path(), 300 * MIB), NO_LIMITS, ROOMY).limit_bytes == 300 * MIB


def test_without_one_the_kernels_limit_is_looked_at() -> None:
    limits = KernelLimits(500 * MIB, None)
    assert decide_budget(config(Path()), limits, ROOMY).limit_bytes == 450 * MIB


@pytest.mark.parametrize(
    ("limits", "budget_mib"),
    [
        (KernelLimits(None, None), 800),
        (KernelLimits(800 * MIB, None), 720),
        (KernelLimits(800 * MIB, 600 * MIB), 540),
        (KernelLimits(4000 * MIB, 1000 * MIB), 800),
    ],
)
def test_the_default_budget_leaves_room_below_the_limit_and_the_device(
    limits: KernelLimits, budget_mib: int
) -> None:
    at_start = MemorySnapshot(rss_bytes=100 * MIB, available_bytes=900 * MIB)
    assert decide_budget(config(Path()), limits, at_start).limit_bytes == budget_mib * MIB
    assert limits.cgroup_bytes is None or budget_mib * MIB < limits.cgroup_bytes


def test_a_model_that_does_not_fit_is_refused_with_the_keys_that_help(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    bundle = open_bundle(write_tiny_bundle(tmp_path))
    settings = config(tmp_path, 32 * MIB)
    with pytest.raises(ConfigError, match=r"^budget\.memory: .* short of .*raise it to"):
        reserve_memory(settings, bundle)
    assert divide_memory(config(tmp_path, 300 * MIB), bundle, ROOMY).problem is None
    assert reserve_memory(config(tmp_path, 2000 * MIB), bundle).budget.limit_bytes == 2000 * MIB


def test_a_budget_that_is_just_enough_has_room_for_a_full_queue(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    bundle, settings, num_slots = open_bundle(write_tiny_bundle(tmp_path)), config(tmp_path), 3
    plan = plan_memory(settings, bundle, ROOMY, num_slots)
    limits = Limits(
        RequestDefaults(Topics("edged", "kitchen")),
        MemoryBudget(plan.total_bytes),
        min(settings.model.max_model_len, bundle.manifest.limits.max_model_len),
        bundle.manifest.model.kv_bytes_per_token,
        max_waiting=settings.queue.size,
        model_id="tiny",
        num_slots=num_slots,
        plan=plan,
    )
    guard = Node(limits, LatencyModel(COST)).guard
    for _ in range(settings.queue.size + num_slots):
        assert guard.reserve() is None
    assert guard.reserve() is not None


def test_there_are_as_many_slots_as_fit_where_their_number_is_not_configured(
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnx")
    bundle = open_bundle(write_tiny_bundle(tmp_path))
    model = replace(bundle.manifest.model, kv_bytes_per_token=MIB)  # 256 MiB for each slot
    bundle = replace(bundle, manifest=replace(bundle.manifest, model=model))
    held = MemorySnapshot(50 * MIB, 2000 * MIB)

    def num_slots(memory_bytes: int, configured: int | None = None) -> int:
        chosen = ModelConfig(path=tmp_path, num_slots=configured)
        budget = BudgetConfig(memory_bytes=memory_bytes)
        return divide_memory(Config(model=chosen, budget=budget), bundle, held).num_slots

    assert [num_slots(mib * MIB) for mib in (32, 500, 700, 1000, 2000)] == [1, 1, 2, 3, 4]
    assert [num_slots(32 * MIB, 6), num_slots(2000 * MIB, 2)] == [6, 2]


def test_what_a_neighbour_holds_now_is_no_fault_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said with what helps, and with another kind of error: a start waits for it."""
    bundle = open_bundle(write_tiny_bundle(tmp_path))
    settings = config(tmp_path, 2000 * MIB)
    monkeypatch.setattr("edged.daemon.memory.available_bytes", lambda: 80 * MIB)
    with pytest.raises(UnavailableError, match=r"^budget\.min_available: .* it would fit$"):
        reserve_memory(settings, bundle)
    with pytest.raises(UnavailableError, match=r"it would fit$"):
        reserve_memory(config(tmp_path), bundle)  # a budget made of what is free
    monkeypatch.setattr("edged.daemon.memory.available_bytes", lambda: 1000 * MIB)
    reserve_memory(settings, bundle)


def test_more_memory_than_the_device_has_is_not_waited_for(tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path))
    greedy = BudgetConfig(memory_bytes=2000 * MIB, min_available_bytes=1 << 40)
    with pytest.raises(ConfigError, match=r"^budget\.min_available: "):
        reserve_memory(Config(model=ModelConfig(path=tmp_path), budget=greedy), bundle)


def test_a_graph_with_two_ways_is_planned_as_larger(tmp_path: Path) -> None:
    """One with a cache in int8 describes each layer twice."""
    pytest.importorskip("onnx")
    bundle = open_bundle(write_tiny_bundle(tmp_path))
    model = bundle.manifest.model

    def working_bytes(kv_type: KvType) -> int:
        manifest = replace(bundle.manifest, model=replace(model, kv_type=kv_type))
        chosen = replace(bundle, manifest=manifest)
        return plan_memory(config(tmp_path), chosen, ROOMY, 1).working_bytes

    more_bytes = working_bytes(KvType.INT8) - working_bytes(KvType.FP32)
    assert more_bytes == pytest.approx(model.num_layers * 256_000, abs=1)


def test_the_graph_that_takes_adapters_is_planned_where_a_specialist_writes(
    tmp_path: Path,
) -> None:
    """And the other one otherwise, also where the bundle has no such graph."""
    pytest.importorskip("onnx")
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle"))
    plain = bundle.manifest
    files = plain.files | {ADAPTED_MODEL: FileEntry(7 * MIB, "0" * 64)}
    both = replace(bundle, manifest=replace(plain, files=files))
    head, writer = tmp_path / "head", tmp_path / "writer"
    for folder, name in ((head, DESCRIPTION), (writer, WRITER)):
        folder.mkdir()
        (folder / name).write_text("{}")

    def planned(bundle: Bundle, *folders: Path) -> tuple[int, int]:
        settings = replace(config(tmp_path), specialists=folders)
        plan = plan_memory(settings, bundle, ROOMY, 1)
        return plan.weights_bytes, plan.working_bytes

    weights_bytes, working_bytes = planned(bundle)
    assert planned(bundle, writer) == planned(both, head) == (weights_bytes, working_bytes)
    more_bytes = 7 * MIB - plain.files[MODEL].size_bytes
    # The layers from the first adapted one on have two ways more.
    more_working_bytes = plain.model.num_layers * (800 << 10)
    expected = weights_bytes + more_bytes, working_bytes + more_working_bytes
    assert planned(both, head, writer) == expected


def test_without_a_setting_the_largest_piece_of_a_prompt_is_planned_for(tmp_path: Path) -> None:
    """Which one is the fastest is measured later, when the memory is taken already."""
    pytest.importorskip("onnx")
    bundle = open_bundle(write_tiny_bundle(tmp_path))
    roomy = replace(bundle, manifest=replace(bundle.manifest, limits=ModelLimits(4096)))

    def planned_bytes(chunk_tokens: int | None) -> int:
        model = ModelConfig(path=tmp_path, prefill_chunk_tokens=chunk_tokens)
        return plan_memory(Config(model=model), roomy, ROOMY, 1).working_bytes

    assert planned_bytes(None) == planned_bytes(256) > planned_bytes(128)


def test_a_kernel_limit_below_the_budget_is_pointed_out() -> None:
    (line,) = warnings(
        MemoryBudget(600 * MIB), KernelLimits(500 * MIB, None), is_controller_on=True
    )
    assert "500 MiB" in line
    assert "MemoryMax" in line


def test_a_kernel_without_a_memory_controller_gets_the_line_to_add() -> None:
    (line,) = warnings(MemoryBudget(600 * MIB), NO_LIMITS, is_controller_on=False)
    assert "cgroup_enable=memory cgroup_memory=1" in line


def test_a_budget_that_only_edged_keeps_says_how_to_back_it() -> None:
    (line,) = warnings(MemoryBudget(600 * MIB), NO_LIMITS, is_controller_on=True)
    assert "MemoryMax=600M" in line


def test_a_budget_the_kernel_backs_needs_no_word() -> None:
    backed = KernelLimits(600 * MIB, None)
    assert warnings(MemoryBudget(600 * MIB), backed, is_controller_on=True) == []
