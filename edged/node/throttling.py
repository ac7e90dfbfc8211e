"""Thermal and battery throttling: when background work is held back.

Rule: pure; readings come in. What begins at a limit ends only some way below it (hysteresis).
"""

from dataclasses import dataclass

# How far below and above its limit a reading must be again.
_COOLER_C = 5.0
_FULLER = 0.05


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One look at the device, in the names of ``state``; None is what it does not tell."""

    temperature_c: float | None = None
    """The hottest thermal zone."""
    throttled: float | None = None
    """How far the kernel slows the processors down for their heat, from 0 to 1."""
    frequency_hz: float | None = None
    """Mean of the processors."""
    max_frequency_hz: float | None = None
    battery: float | None = None
    """Its charge, from 0 to 1."""
    on_mains: bool | None = None
    under_voltage: bool | None = None
    """Whether a Raspberry Pi's power supply is too weak now."""


class Throttling:
    """Remember whether the device is hot or its battery low; None is no limit."""

    def __init__(self, max_temperature_c: float | None, min_battery: float | None) -> None:
        self._max_temperature_c = max_temperature_c
        self._min_battery = min_battery
        self._is_hot = False
        self._is_low = False

    def reason(self, device: DeviceReading) -> str | None:
        """Take in a reading; say why background work is held back, or None.

        A reading that the device does not have is no reason.
        """
        limit_c, least = self._max_temperature_c, self._min_battery
        temperature_c, share = device.temperature_c, device.battery
        if limit_c is not None and temperature_c is not None:
            self._is_hot = temperature_c >= limit_c - (_COOLER_C if self._is_hot else 0.0)
            if self._is_hot:
                return f"the device is hot ({temperature_c:.0f} °C; see budget.max_temperature_c)"
        if least is not None and share is not None:
            least += _FULLER if self._is_low else 0.0
            self._is_low = not device.on_mains and share < least
            if self._is_low:
                return f"the battery is low ({share:.0%}; see budget.min_battery)"
        return None
