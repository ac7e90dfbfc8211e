"""Open an ONNX Runtime session: the only place with session options.

Rule: every option here was measured or paid for; say why beside it.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from edged.errors import BundleError

PREPARED = "prepared.onnx"
"""The graph of a prepared copy; its weights lie beside it as ``prepared.onnx.data``."""
_NO_FLASH = "ORT_GQA_DISABLE_FLASH_ATTENTION"
_SPIN_DURATION_US = 1500
_DYNAMIC_BLOCK_BASE = 8
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_LOAD_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def open_session(
    model_path: Path,
    *,
    num_threads: int | None,
    has_flash: bool = True,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Load a model for the CPU provider; blocks until its weights are prepacked.

    Args:
        model_path: the graph; its external weights lie beside it. One that is called ``PREPARED``
            is taken as it is.
        num_threads: threads of one matrix product; None takes ``default_num_threads()``.
        has_flash: whether attention may be computed in tiles; the other way is faster in places.
        profile: what the files of ONNX Runtime's profiler begin with; None leaves it off.

    Raises:
        BundleError: ONNX Runtime refuses the model; the message is its own, with the file's name.
    """
    options = _session_options(num_threads)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if model_path.name == PREPARED:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # The one option that ONNX Runtime takes from the environment only; it looks while it loads.
    with _environment(_NO_FLASH, None if has_flash else "1"):
        return _open(model_path, options)


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.get(name)
    if value is None:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def save_prepared(model_path: Path, copy: Path) -> None:
    """Write a graph as it is after optimization, with its weights also as the kernels want them.

    Args:
        model_path: the graph.
        copy: is called ``PREPARED``; its weights are written beside it.

    Raises:
        BundleError: as ``open_session``; a disk that cannot be written is one of its reasons.
    """
    options = _session_options(None)
    options.optimized_model_filepath = str(copy)
    for key, value in (
        ("session.save_external_prepacked_constant_initializers", "1"),
        ("session.optimized_model_external_initializers_file_name", f"{copy.name}.data"),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
    ):
        options.add_session_config_entry(key, value)
    _open(model_path, options)


def _open(model_path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    onnxruntime.disable_telemetry_events()
    # Flushing denormals to zero is also switched on for the thread that opens the session, and all
    # that it computes later: a side effect on our caller. So a thread of its own opens it.
    with ThreadPoolExecutor(1) as opener:
        opened = opener.submit(
            onnxruntime.InferenceSession,
            str(model_path),
            options,
            providers=["CPUExecutionProvider"],
        )
    try:
        return opened.result()
    except _LOAD_ERRORS as error:
        raise BundleError(
            f"{model_path}: cannot be loaded ({error}); rebuild the bundle"
        ) from error


def default_num_threads(cgroup_root: Path = _CGROUP_ROOT, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Return the CPUs this process may use: its affinity mask, cut to the cgroup v2 quota.

    A quota is rounded down: a thread that is throttled makes all others wait for it.
    """
    num_cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(cgroup_root, own_cgroup)
    return max(1, min(num_cpus, math.floor(quota)) if quota is not None else num_cpus)


def _session_options(num_threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # ONNX Runtime's own default counts the machine's cores and fails under cpusets.
    options.intra_op_num_threads = num_threads or default_num_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # The arena grows to the largest prefill chunk and stays. Patterns are kept for every length of
    # a last chunk, and would add to it.
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    # Spinning off costs 40 % of decode; spinning for ever burns a core of an idle device.
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_DURATION_US))
    # Loops are cut into smaller pieces towards their end, so that no thread waits long for another:
    # a decode step takes a tenth less.
    options.add_session_config_entry("session.dynamic_block_base", str(_DYNAMIC_BLOCK_BASE))
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 3
    return options


def _cgroup_quota(cgroup_root: Path, own_cgroup: Path) -> float | None:
    """Return the smallest ``cpu.max`` from this process's cgroup up to the root, in CPUs."""
    try:
        lines = own_cgroup.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if path is None:
        return None
    folder = cgroup_root / path
    folders = [folder, *folder.parents]
    quotas = [_read_quota(f / "cpu.max") for f in folders if f.is_relative_to(cgroup_root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _read_quota(path: Path) -> float | None:
    try:
        quota, period = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no controller here, or the root cgroup
        return None
    return None if quota == "max" else int(quota) / int(period)
