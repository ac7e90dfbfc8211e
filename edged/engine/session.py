"""Open an ONNX Runtime session: the only place with session options.

Rule: each option has its reason beside it.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

import onnxruntime

from edged.errors import BundleError

# The graph of a prepared copy; its weights lie beside it as ``prepared.onnx.data``.
PREPARED = "prepared.onnx"
_NO_FLASH = "ORT_GQA_DISABLE_FLASH_ATTENTION"


def open_session(
    model_path: Path,
    *,
    num_threads: int | None,
    has_flash: bool = True,
) -> onnxruntime.InferenceSession:
    """Load a model for the CPU provider; blocks until its weights are prepacked.

    Args:
        model_path: the graph, with its external weights beside it. One that is named ``PREPARED``
            is not optimized again.
        num_threads: threads of one matrix product; None takes ``default_num_threads()``.
        has_flash: whether attention is computed in tiles; the faster choice depends on the device.

    Raises:
        BundleError: ONNX Runtime refuses the model; its message, with the file's name.
    """
    options = session_options(num_threads)
    if model_path.name == PREPARED:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # ONNX Runtime reads this one option from the environment, while it loads.
    if not has_flash:
        os.environ[_NO_FLASH] = "1"
    try:
        return _open(model_path, options)
    finally:
        os.environ.pop(_NO_FLASH, None)


def save_prepared(model_path: Path, copy: Path) -> None:
    """Write an optimized copy of a graph, named ``PREPARED``, with prepacked weights beside it.

    Raises:
        BundleError: as ``open_session``, or the disk cannot be written.
    """
    options = session_options(None)
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
    providers = ["CPUExecutionProvider"]
    # Opening a session makes its thread flush denormals to zero, for all later arithmetic. A thread
    # of its own spares the caller that side effect.
    with ThreadPoolExecutor(1) as opener:
        opened = opener.submit(
            onnxruntime.InferenceSession, str(model_path), options, providers=providers
        )
    try:
        return opened.result()
    except Exception as error:  # the library's own have no common base
        raise BundleError(
            f"{model_path}: cannot be loaded ({error}); rebuild the bundle"
        ) from error


def default_num_threads(root: Path = Path("/")) -> int:
    """Return the CPUs this process may use: its affinity mask, limited by the cgroup v2 quota."""
    # The quota is rounded down: all threads wait for one that is throttled.
    num_cpus = len(os.sched_getaffinity(0))
    return max(1, math.floor(min([num_cpus, *_cgroup_quotas(root)])))


def session_options(num_threads: int | None) -> onnxruntime.SessionOptions:
    """Return the options of every session; see ``open_session``."""
    options = onnxruntime.SessionOptions()
    # ONNX Runtime's own default counts the machine's cores and fails under cpusets.
    options.intra_op_num_threads = num_threads or default_num_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # The arena grows to the largest prefill chunk and stays. Memory patterns would add to it: there
    # would be one for each length of a last chunk.
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    # Without spinning, decode is 40 % slower; endless spinning uses a core of an idle device.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1500")
    # Loops are cut into smaller blocks towards their end, so that threads finish together: a decode
    # step takes a tenth less.
    options.add_session_config_entry("session.dynamic_block_base", "8")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 3
    return options


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """Yield each ``cpu.max`` from this process's cgroup up to the root, in CPUs."""
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
        groups = [PurePosixPath(line[4:]) for line in lines if line.startswith("0::/")]
        for group in [above for own in groups for above in (own, *own.parents)]:
            # An OSError without a controller, a ValueError for "max" and for the root cgroup.
            with suppress(OSError, ValueError):
                limit = (root / "sys/fs/cgroup" / group / "cpu.max").read_text(encoding="ascii")
                quota, period = map(int, limit.split())
                yield quota / period
