"""The session: threads from what this process may use, refusals that name the file."""

import os
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
import pytest

from edged.engine.fused import FusedGraph
from edged.engine.session import default_num_threads, open_session
from edged.engine.steps import DecodeInput
from edged.errors import BundleError
from tests.tiny_model import write_tiny_bundle

NUM_CPUS = 8


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(NUM_CPUS)))


def threads(tmp_path: Path, own: str | None = "0::/a/b\n", **cpu_max: str) -> int:
    """Count threads below a cgroup tree with the given ``cpu.max`` files."""
    for name, content in cpu_max.items():
        folder = tmp_path / "sys/fs/cgroup" / name.replace("_", "/").removeprefix("top")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(content, encoding="ascii")
    if own is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(own, encoding="ascii")
    return default_num_threads(tmp_path)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("300000 100000", 3), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", NUM_CPUS)],
)
def test_a_quota_is_rounded_down_to_whole_threads(
    tmp_path: Path, quota: str, expected: int
) -> None:
    assert threads(tmp_path, a_b=quota) == expected


def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    assert threads(tmp_path, top="max 100000", a="200000 100000", a_b="400000 100000") == 2


def test_a_quota_above_the_affinity_mask_changes_nothing(tmp_path: Path) -> None:
    assert threads(tmp_path, a_b="9000000 100000") == NUM_CPUS


@pytest.mark.parametrize("own", [None, "4:cpu:/a/b\n", "0::/elsewhere\n"])
def test_without_a_known_cgroup_the_affinity_mask_counts(tmp_path: Path, own: str | None) -> None:
    assert threads(tmp_path, own, a_b="100000 100000") == NUM_CPUS


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be loaded"):
        open_session(tmp_path / "model.onnx", num_threads=1)
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be loaded"):
        open_session(tmp_path / "model.onnx", num_threads=1)


def test_a_model_without_its_weights_is_refused(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path) / "model.onnx"
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be loaded"):
        open_session(path, num_threads=1)


def test_options_are_set_on_the_session(tmp_path: Path) -> None:
    session = open_session(write_tiny_bundle(tmp_path) / "model.onnx", num_threads=None)
    options = session.get_session_options()
    assert options.intra_op_num_threads == default_num_threads()
    assert options.inter_op_num_threads == 1
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_opening_a_session_leaves_the_arithmetic_of_its_caller_alone(tmp_path: Path) -> None:
    """ONNX Runtime would flush denormals to zero in the thread that opens the session."""
    open_session(write_tiny_bundle(tmp_path) / "model.onnx", num_threads=1)
    assert np.finfo(np.float64).tiny / np.float64(4) > 0


def test_what_ends_a_run_is_raised_and_not_logged(tmp_path: Path) -> None:
    """A cancelled prompt is no error, and ONNX Runtime's own line would say it was one."""
    model_path = write_tiny_bundle(tmp_path) / "model.onnx"
    asked: list[onnxruntime.RunOptions] = []

    class Recording(FusedGraph):
        def _allocate(self) -> None:
            super()._allocate()
            self._session = cast("onnxruntime.InferenceSession", self)

        def io_binding(self) -> onnxruntime.IOBinding:
            return session.io_binding()

        def run_with_iobinding(self, _binding: object, options: onnxruntime.RunOptions) -> None:
            asked.append(options)

    session = open_session(model_path, num_threads=1)
    graph = Recording(session, max_model_len=8)
    graph.forward(np.array([1]), 0)
    graph.decode([DecodeInput(slot=0, token_id=1, position=1)])
    assert [options.log_severity_level for options in asked] == [4, 4]
