"""A limit of the kernel around a child process: a control group, or RLIMIT_DATA without one."""

import contextlib
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limit:
    """What a process can be put under."""

    limit_bytes: int
    group: Path | None
    """The control group; None where this process may not make one."""

    def hold(self, pid: int) -> None:
        if self.group is not None:
            (self.group / "cgroup.procs").write_text(str(pid))
        else:
            both = (self.limit_bytes, self.limit_bytes)
            psutil.Process(pid).rlimit(resource.RLIMIT_DATA, both)


@contextlib.contextmanager
def limited(limit_bytes: int) -> Iterator[Limit]:
    """Make a limit, and take it away when its processes have ended."""
    group = _group(limit_bytes)
    try:
        yield Limit(limit_bytes, group)
    finally:
        if group is not None:
            group.rmdir()


def _group(limit_bytes: int) -> Path | None:
    """Make a group of either version."""
    is_v1 = (_ROOT / "memory").is_dir()
    parent = _ROOT / "memory" if is_v1 else _ROOT
    group = parent / f"edged-test-{os.getpid()}"
    try:
        if not is_v1:
            (parent / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        name = "memory.limit_in_bytes" if is_v1 else "memory.max"
        (group / name).write_text(str(limit_bytes))
    except OSError:
        return None
    return group
