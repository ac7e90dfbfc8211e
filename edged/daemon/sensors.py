"""Readings of the device beside memory: temperature, frequency, battery, energy.

Rule: what a device has no sensor for, or cannot be read, is None.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from edged.node.throttling import DeviceReading

_T = TypeVar("_T")

_SYS = Path("/sys")
_THERMAL = "class/thermal"
# Flags of a Raspberry Pi's firmware, in hexadecimal.
_FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"
_UNDER_VOLTAGE, _THROTTLED = 0b0001, 0b1110
_MICRO = 1e-6


def read_device(sys: Path = _SYS) -> DeviceReading:
    """Read the sensors below a root of sysfs; about a millisecond."""
    frequency, battery = _asked(psutil.cpu_freq), _asked(psutil.sensors_battery)
    flags = _number(sys / _FIRMWARE, lambda text: int(text, 16))
    return DeviceReading(
        temperature_c=_temperature_c(sys),
        throttled=_throttled_share(sys, is_throttled=bool(flags and flags & _THROTTLED)),
        # psutil has MHz, and 0 for unknown.
        frequency_hz=frequency and (frequency.current * 1e6 or None),
        max_frequency_hz=frequency and (frequency.max * 1e6 or None),
        battery=battery and battery.percent / 100,
        on_mains=battery and battery.power_plugged,
        under_voltage=None if flags is None else bool(flags & _UNDER_VOLTAGE),
    )


def read_joules(sys: Path = _SYS) -> float | None:
    """Read the energy counter of the processor packages (RAPL), in joules; it wraps around.

    Since Linux 5.10 only root may read it, and most boards have none.
    """
    counters = [_number(folder / "energy_uj", float) for folder in _packages(sys)]
    known = [counter for counter in counters if counter is not None]
    return sum(known) * _MICRO if known else None


@functools.cache
def _packages(sys: Path) -> tuple[Path, ...]:
    """Find the counters once: every forward pass reads them twice."""
    return tuple(sorted((sys / "class/powercap").glob("intel-rapl:[0-9]")))


def _temperature_c(sys: Path) -> float | None:
    zones = (_number(zone / "temp", float) for zone in (sys / _THERMAL).glob("thermal_zone*"))
    return max((zone / 1000 for zone in zones if zone is not None), default=None)


def _throttled_share(sys: Path, *, is_throttled: bool) -> float | None:
    """Read how far the processors' cooling devices throttle them; 0 is not at all."""
    # A firmware that throttles does not report by how much.
    shares = [1.0] if is_throttled else []
    for device in (sys / _THERMAL).glob("cooling_device*"):
        kind = _text(device / "type")
        state, most = _number(device / "cur_state", float), _number(device / "max_state", float)
        is_processor = kind == "Processor" or "cpufreq" in kind
        if is_processor and state is not None and most:
            shares.append(state / most)
    return max(shares, default=None)


def _asked(read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except (OSError, RuntimeError):  # of psutil
        return None


def _number(path: Path, parse: Callable[[str], _T]) -> _T | None:
    try:
        return parse(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
