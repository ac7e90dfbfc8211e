"""Readings of memory: this process, this device, and what the kernel would allow.

Rule: the only importer of psutil. A file that cannot be read is a limit that is not there.
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
# Of a kernel limit: so that edged refuses a request before the kernel kills it.
_LIMIT_SHARE = 0.9
# Of glibc's malloc.h.
_FREE_SHARE = 0.8
_READ_BYTES = 4096
_M_ARENA_MAX = -8
_ENFORCED_WITHIN = 1.25


@dataclass(frozen=True, slots=True)
class KernelLimits:
    """What the kernel holds this process to; None where it does not."""

    cgroup_bytes: int | None
    """Smallest memory limit of the process's control group and the groups above it."""
    data_bytes: int | None
    """RLIMIT_DATA: private writable memory, touched or not."""

    def is_enforced(self, budget_bytes: int) -> bool:
        """Tell whether the kernel holds the process near the budget, whatever the process does.

        RLIMIT_DATA does not count: it leaves mapped files out, and counts what is never touched.
        """
        return (
            self.cgroup_bytes is not None and self.cgroup_bytes <= budget_bytes * _ENFORCED_WITHIN
        )


def rss_bytes() -> int:
    """Read the resident memory of this process, shared and mapped pages with it."""
    try:
        num_pages = os.pread(_open("proc/self/statm"), _READ_BYTES, 0).split()[1]
        return int(num_pages) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return int(psutil.Process().memory_info().rss)


def available_bytes() -> int:
    """Read what the device can give without swapping."""
    try:
        text = os.pread(_open("proc/meminfo"), _READ_BYTES, 0)
        return int(text.partition(b"\nMemAvailable:")[2].split(None, 1)[0]) * 1024
    except (OSError, IndexError, ValueError):  # a kernel that does not tell, so it is computed
        return int(psutil.virtual_memory().available)


@functools.cache
def _open(path: str, root: Path = Path("/")) -> int:
    """Open a file that every request looks into; it stays open."""
    return os.open(root / path, os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def limited_growth(growth_bytes: int) -> Iterator[None]:
    """Have allocations fail that would add more than this; a child started meanwhile has the limit.

    It is RLIMIT_DATA, and counts private memory from when it is reserved, touched or not.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    soft_bytes, hard_bytes = before
    limits = [limit for limit in before if limit != resource.RLIM_INFINITY]
    text = _read(Path("/proc/self/status"))
    data_kib = text.partition("\nVmData:")[2].split(None, 1)[:1]
    if data_kib:
        soft_bytes = min([int(data_kib[0]) * 1024 + growth_bytes, *limits])
    resource.setrlimit(resource.RLIMIT_DATA, (soft_bytes, hard_bytes))
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


@dataclass(frozen=True, slots=True)
class MemoryShares:
    """What of the resident memory is this process's own; None is what the kernel does not tell."""

    pss_bytes: int | None
    """With its part of the pages it shares with others."""
    uss_bytes: int | None
    """Without them: what would be free without this process."""
    stall_share: float | None
    """Share of the last 10 s in which some process waited for memory (PSI)."""

    def members(self) -> dict[str, float | None]:
        """Return them as members of ``state``."""
        return {
            "pss_bytes": self.pss_bytes,
            "uss_bytes": self.uss_bytes,
            "memory_stall": self.stall_share,
        }


def read_shares(root: Path = Path("/")) -> MemoryShares:
    """Walk the pages of this process; some milliseconds.

    Args:
        root: where ``proc`` is; another one for tests.
    """
    rollup = _read(root / "proc/self/smaps_rollup").splitlines()
    sizes = {
        name: int(size.split()[0]) * 1024
        for name, _, size in (line.partition(":") for line in rollup)
        if size.endswith("kB")
    }
    private = [size for name, size in sizes.items() if name.startswith("Private_")]
    return MemoryShares(sizes.get("Pss"), sum(private) if private else None, stall_share(root))


def stall_share(root: Path = Path("/")) -> float | None:
    """Read in which share of the last 10 s something waited for memory; None on older kernels."""
    try:
        text = os.pread(_open("proc/pressure/memory", root), _READ_BYTES, 0)
        return float(text.partition(b"avg10=")[2].split(None, 1)[0]) / 100
    except (OSError, IndexError):
        return None


def keep_one_heap() -> None:
    """Have all threads that begin from now on take their memory from one heap.

    glibc gives each a heap of its own, and ``return_freed`` cannot give back the end of such a
    one: 30 MiB after a model was loaded by a thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def return_freed() -> None:
    """Give the system what was freed: loading leaves some 30 MiB that glibc would keep."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in every C library
    if trim is not None:
        trim(0)


def kernel_limits(root: Path = Path("/")) -> KernelLimits:
    """Read the kernel's limits for this process.

    Args:
        root: where ``proc`` and ``sys`` are; another one for tests.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    data_bytes = None if soft == resource.RLIM_INFINITY else soft
    return KernelLimits(min(_cgroup_limits(root), default=None), data_bytes)


def is_memory_controller_on(root: Path = Path("/")) -> bool:
    """Tell whether the kernel can limit memory at all; Raspberry Pi OS starts with that off."""
    group = _memory_group(root)
    return group is not None and (
        group.is_v1 or "memory" in _read(group.mount / "cgroup.controllers").split()
    )


def default_budget_bytes(limits: KernelLimits, memory: MemorySnapshot) -> int:
    """Choose a budget where none is configured.

    Args:
        limits: what the kernel allows.
        memory: a reading at start, before the model is loaded.
    """
    candidates = [memory.rss_bytes + memory.available_bytes]
    shares = [_FREE_SHARE]
    for limit in (limits.cgroup_bytes, limits.data_bytes):
        if limit is not None:
            candidates.append(limit)
            shares.append(_LIMIT_SHARE)
    return min(int(size * share) for size, share in zip(candidates, shares, strict=True))


@dataclass(frozen=True, slots=True)
class _Group:
    """The control group that accounts the memory of this process."""

    mount: Path
    path: PurePosixPath
    is_v1: bool


def _memory_group(root: Path) -> _Group | None:
    """Find the group in ``/proc/self/cgroup``, as cgroups(7) describes its lines."""
    unified = None
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _Group(root / "sys/fs/cgroup/memory", PurePosixPath(path), is_v1=True)
        if hierarchy == "0":
            unified = _Group(root / "sys/fs/cgroup", PurePosixPath(path), is_v1=False)
    return unified


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Yield the limits of the group and of those above it."""
    group = _memory_group(root)
    if group is None:
        return
    name = "memory.limit_in_bytes" if group.is_v1 else "memory.max"
    for path in (group.path, *group.path.parents):
        if ".." in path.parts:  # the group lies outside this process's cgroup namespace
            continue
        text = _read(group.mount / path.relative_to("/") / name).strip()
        if text.isdecimal() and int(text) < _UNLIMITED_BYTES:  # v2 writes "max"
            yield int(text)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
