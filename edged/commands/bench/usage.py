"""Memory and CPU time of processes, from /proc."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

_FIELDS = {"Rss": "rss_bytes", "Pss": "pss_bytes", "Private_Dirty": "private_dirty_bytes"}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def read_memory(process_ids: Iterable[int]) -> dict[str, int]:
    """Return the memory of the processes in bytes: resident, proportional, private dirty.

    Empty without a process, or if the kernel does not report it.
    """
    held: dict[str, int] = {}
    for process_id in process_ids:
        try:
            text = Path(f"/proc/{process_id}/smaps_rollup").read_text(encoding="ascii")
        except OSError:  # gone, another user's, or a kernel before 4.14
            return {}
        for name, size_bytes in parse_rollup(text).items():
            held[name] = held.get(name, 0) + size_bytes
    return held


def parse_rollup(text: str) -> dict[str, int]:
    """Read the memory fields of ``smaps_rollup``."""
    lines = (line.split() for line in text.splitlines()[1:])
    found = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1}
    return {name: found[field] for field, name in _FIELDS.items() if field in found}


def cpu_s(process_ids: Iterable[int]) -> float:
    """Return the CPU seconds of all threads of the processes; 0 for one that has ended."""
    return sum(_cpu_s(process_id) for process_id in process_ids)


def _cpu_s(process_id: int) -> float:
    if process_id == os.getpid():
        return time.process_time()  # finer than the ticks in /proc
    try:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    # The name may contain spaces and brackets; the fields after its last bracket start with state.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
