"""Check the device: memory control, clock, temperature, power, disk."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edged.commands.doctor.finding import Finding, failure, good, warning
from edged.daemon import memory

# The kernel's command line on a Raspberry Pi, newer systems first.
COMMAND_LINES = ("boot/firmware/cmdline.txt", "boot/cmdline.txt")
_MEMORY_OPTIONS = "cgroup_enable=memory cgroup_memory=1"
# 2025-01-01, before this program was released.
_OLDEST_S = 1735689600.0
# TIME_ERROR of adjtimex(2): the clock is not synchronised.
_TIME_ERROR = 5
# Larger than ``struct timex`` on any architecture.
_TIMEX_BYTES = 512
# A Raspberry Pi starts to throttle here.
_HOT_C = 80.0
_LITTLE_DISK_BYTES = 64 << 20
_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def check_device(folders: tuple[Path, ...], root: Path = Path("/")) -> Iterator[Finding]:
    """Check everything outside of the service.

    Args:
        folders: Where the service writes.
        root: Parent of ``proc``, ``sys`` and ``boot``.
    """
    yield _memory_control(root)
    yield check_clock(time.time(), is_disciplined)
    yield from _temperature(root)
    yield from _power(root)
    for folder in folders:
        yield _disk(folder)


def check_clock(now_s: float, is_disciplined: Callable[[], bool]) -> Finding:
    """Check the wall clock; only certificates and logs depend on it."""
    said = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    if now_s < _OLDEST_S:
        return failure(
            "clock",
            f"the clock says {said}: it was never set",
            "start a time service (systemctl enable --now systemd-timesyncd); until then every TLS"
            " certificate is refused",
        )
    if not is_disciplined():
        return warning(
            "clock",
            f"{said}, not synchronised",
            "start a time service if the network has one; deadlines do not depend on it",
        )
    return good("clock", f"{said}, synchronised")


def is_disciplined() -> bool:
    """Return whether a time service keeps the kernel's clock (adjtimex(2), reading only)."""
    libc = ctypes.CDLL(None)
    return int(libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))) != _TIME_ERROR


def _memory_control(root: Path) -> Finding:
    if memory.is_memory_controller_on(root):
        return good("memory-control", "the kernel can enforce the memory limit of a service")
    for name in COMMAND_LINES:
        path = root / name
        if path.exists():
            line = path.read_text("utf-8", "replace").strip()
            advice = f"change the line in /{name} to this, and reboot: {line} {_MEMORY_OPTIONS}"
            break
    else:
        advice = f"add {_MEMORY_OPTIONS} to the kernel's command line and reboot"
    return warning(
        "memory-control",
        "the kernel cannot limit memory: MemoryMax= is shown but not enforced; LimitDATA= and"
        " edged's own memory guard still work",
        advice,
    )


def _temperature(root: Path) -> Iterator[Finding]:
    degrees = []
    for path in root.glob("sys/class/thermal/thermal_zone*/temp"):
        try:
            degrees.append(int(path.read_text("ascii")) / 1000)
        except (OSError, ValueError):
            continue  # a disabled sensor cannot be read
    if not degrees:
        return
    hottest = max(degrees)
    if hottest >= _HOT_C:
        yield warning(
            "temperature",
            f"{hottest:.0f} °C: the processor throttles, and answers get slower",
            "cool it with a heat sink, a fan or better ventilation",
            temperature_c=hottest,
        )
    else:
        yield good("temperature", f"{hottest:.0f} °C", temperature_c=hottest)


def _power(root: Path) -> Iterator[Finding]:
    # The Raspberry Pi's firmware: bit 0 is under-voltage now, bit 16 since the boot.
    try:
        bits = int((root / _THROTTLED).read_text("ascii"), 16)
    except (OSError, ValueError):
        return
    if bits & 0x1 or bits & 0x10000:
        when = "now" if bits & 0x1 else "since the boot"
        yield warning(
            "power",
            f"under-voltage {when}: the processor is throttled, and the SD card may be damaged",
            "use the power supply made for this board, and a short cable",
            throttled_bits=bits,
        )
    else:
        yield good("power", "no under-voltage", throttled_bits=bits)


def _disk(folder: Path) -> Finding:
    name = f"disk {folder}"
    place = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
    info = os.statvfs(place)
    free_bytes = info.f_bavail * info.f_frsize
    if info.f_flag & os.ST_RDONLY:
        return warning(
            name,
            f"{place} is read-only",
            "remove state.folder from the configuration, or mount a writable file system there",
        )
    if free_bytes < _LITTLE_DISK_BYTES:
        return warning(
            name,
            f"{free_bytes >> 20} MiB free at {place}",
            "free space: journalctl --vacuum-size=50M, apt-get clean, old models",
            free_bytes=free_bytes,
        )
    return good(name, f"{free_bytes >> 20} MiB free at {place}", free_bytes=free_bytes)
