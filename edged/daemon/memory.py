"""Readings of memory: this process, this device, and what the kernel would allow.

Rule: a file that cannot be read is a limit that is not there.
"""

import contextlib
import ctypes
import functools
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from edged.scheduling.memory_budget import MemorySnapshot

# cgroup v1 writes "no limit" as the largest multiple of a page below 2**63.
_UNLIMITED_BYTES = 2**60
_READ_BYTES = 4096
# Of glibc's malloc.h.
_M_ARENA_MAX = -8
# A limit this far above the budget still stops a leak before the device runs out of memory.
_ENFORCED_WITHIN = 1.25


@dataclass(frozen=True, slots=True)
class KernelLimits:
    """Limits of the kernel for this process; None where there is none."""

    cgroup_bytes: int | None
    """Smallest memory limit of the process's control group and the groups above it."""
    data_bytes: int | None
    """RLIMIT_DATA: private writable memory, touched or not."""

    def is_enforced(self, budget_bytes: int) -> bool:
        """Return whether the kernel limits the process near the budget."""
        # RLIMIT_DATA does not count: it ignores mapped files, and counts what is never touched.
        limit_bytes = self.cgroup_bytes
        return limit_bytes is not None and limit_bytes <= budget_bytes * _ENFORCED_WITHIN


def rss_bytes() -> int:
    """Read the resident memory of this process, shared and mapped pages with it."""
    # Not with psutil: a flood of requests reads it a hundred times a second.
    num_pages = os.pread(_open("proc/self/statm"), _READ_BYTES, 0).split()[1]
    return int(num_pages) * resource.getpagesize()


def available_bytes() -> int:
    """Read what the device can give without swapping."""
    text = os.pread(_open("proc/meminfo"), _READ_BYTES, 0)
    return int(text.partition(b"\nMemAvailable:")[2].split(None, 1)[0]) * 1024


@functools.cache
def _open(path: str, root: Path = Path("/")) -> int:
    """Open a file that is read at every request, once."""
    return os.open(root / path, os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def limited_growth(growth_bytes: int) -> Iterator[None]:
    """Have allocations of the block fail that exceed this, and those of its child processes.

    The limit is RLIMIT_DATA: private memory, counted from when it is reserved.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in before if limit != resource.RLIM_INFINITY]
    data_kib = _read(Path("/proc/self/status")).partition("\nVmData:")[2].split(None, 1)[0]
    soft_bytes = min([int(data_kib) * 1024 + growth_bytes, *limits])
    resource.setrlimit(resource.RLIMIT_DATA, (soft_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def total_bytes() -> int:
    """Read how much memory the device has."""
    return int(psutil.virtual_memory().total)


def snapshot() -> MemorySnapshot:
    """Read what decisions need; well under a millisecond."""
    return MemorySnapshot(rss_bytes(), available_bytes(), stall_share() or 0.0)


def read_shares(root: Path = Path("/")) -> dict[str, float | None]:
    """Read the process's own part of its memory, as members of ``state``; some milliseconds.

    ``pss_bytes`` has its part of the pages that it shares, ``uss_bytes`` only pages of its own.
    What the kernel does not report is None.
    """
    rollup = _read(root / "proc/self/smaps_rollup").splitlines()
    sizes = {
        name: int(size.split()[0]) * 1024
        for name, _, size in (line.partition(":") for line in rollup)
        if size.endswith("kB")
    }
    private = [size for name, size in sizes.items() if name.startswith("Private_")]
    return {
        "pss_bytes": sizes.get("Pss"),
        "uss_bytes": sum(private) if private else None,
        "memory_stall": stall_share(root),
    }


def stall_share(root: Path = Path("/")) -> float | None:
    """Read in which share of the last 10 s some process waited for memory (PSI), if it is known."""
    try:
        text = os.pread(_open("proc/pressure/memory", root), _READ_BYTES, 0)
        return float(text.partition(b"avg10=")[2].split(None, 1)[0]) / 100
    except (OSError, IndexError):
        return None


def keep_one_heap() -> None:
    """Have all threads that are started from now on allocate from one heap."""
    # glibc gives each thread a heap of its own, whose freed end ``return_freed`` cannot give back:
    # 30 MiB after a model was loaded by a thread.
    _call_glibc("mallopt", _M_ARENA_MAX, 1)


def return_freed() -> None:
    """Return freed memory to the system: loading leaves some 30 MiB that glibc would keep."""
    _call_glibc("malloc_trim", 0)


def _call_glibc(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)  # not in every C library
    if function is not None:
        function(*arguments)


def kernel_limits(root: Path = Path("/")) -> KernelLimits:
    """Read the kernel's limits for this process, from ``proc`` and ``sys`` below a root."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    data_bytes = None if soft == resource.RLIM_INFINITY else soft
    return KernelLimits(min(_cgroup_limits(root), default=None), data_bytes)


def is_memory_controller_on(root: Path = Path("/")) -> bool:
    """Return whether the kernel can limit memory at all; Raspberry Pi OS starts with that off."""
    group = _memory_group(root)
    if group is None:
        return False
    mount, _, is_v1 = group
    return is_v1 or "memory" in _read(mount / "cgroup.controllers").split()


def _memory_group(root: Path) -> tuple[Path, PurePosixPath, bool] | None:
    """Return mount point, path and whether it is v1, of the group that limits memory here."""
    unified = None
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return root / "sys/fs/cgroup/memory", PurePosixPath(path), True
        if hierarchy == "0":
            unified = root / "sys/fs/cgroup", PurePosixPath(path), False
    return unified


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Yield the limits of the group and of those above it."""
    group = _memory_group(root)
    if group is None:
        return
    mount, own_path, is_v1 = group
    for path in (own_path, *own_path.parents):
        if ".." in path.parts:  # the group lies outside this process's cgroup namespace
            continue
        name = "memory.limit_in_bytes" if is_v1 else "memory.max"
        text = _read(mount / path.relative_to("/") / name).strip()
        if text.isdecimal() and int(text) < _UNLIMITED_BYTES:  # v2 writes "max"
            yield int(text)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
