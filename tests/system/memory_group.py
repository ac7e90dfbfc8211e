"""A memory control group around a child process: the kernel kills what goes beyond its limit.

Without the right to make one there is no limit of the kernel, and a test sees the resident memory
only: RLIMIT_DATA is no substitute, for it counts what threads and arenas map and never touch.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path | None]:
    """Make a group and take it away when its processes have ended; None where it cannot be made."""
    group = _group(limit_bytes)
    try:
        yield group
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
