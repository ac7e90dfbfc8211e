"""A description of this machine, to judge its figures."""

import os
import platform
from pathlib import Path

# They decide which int8 kernels are used.
_CPU_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "sve"),
)


def describe_device(proc: Path = Path("/proc"), model: Path | None = None) -> dict[str, object]:
    """Return name, CPU, memory, kernel and the load before the measurement.

    Args:
        proc: The proc file system; for tests.
        model: File with the name of the board, on Arm.
    """
    fields = _fields(proc / "cpuinfo")
    cpu = fields.get("model name") or fields.get("CPU part", platform.machine())
    flags = set((fields.get("flags") or fields.get("Features", "")).split())
    memory_kib = _fields(proc / "meminfo").get("MemTotal", "0 kB").split()[0]
    return {
        "name": _text(model or Path("/proc/device-tree/model")) or cpu,
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "cpu_flags": [flag for flag in _CPU_FLAGS if flag in flags],
        "memory_bytes": int(memory_kib) * 1024,
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": os.getloadavg()[0],
    }


def _fields(path: Path) -> dict[str, str]:
    """Read lines ``name : value``; the first one of each name counts."""
    fields: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().rstrip("\0")
    except OSError:
        return ""
