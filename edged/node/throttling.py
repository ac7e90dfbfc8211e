"""Heat and power: when a device should be spared, and background work held back first.

Rule: pure; readings come in. What begins at a limit ends only some way below it, so nothing flaps.
"""

from dataclasses import dataclass

_COOLER_C = 5.0
_FULLER = 0.05


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One look at the device; None is what it does not tell."""

    temperature_c: float | None = None
    """The hottest thermal zone."""
    throttled_share: float | None = None
    """How far the kernel slows the processors down for their heat, from 0 to 1."""
    frequency_hz: float | None = None
    """Mean of the processors."""
    max_frequency_hz: float | None = None
    battery_share: float | None = None
    on_mains: bool | None = None
    under_voltage: bool | None = None
    """Whether a Raspberry Pi's power supply is too weak now."""

    def members(self) -> dict[str, float | bool | None]:
        """Return the readings as members of ``state``."""
        return {
            "temperature_c": self.temperature_c,
            "throttled": self.throttled_share,
            "frequency_hz": self.frequency_hz,
            "max_frequency_hz": self.max_frequency_hz,
            "battery": self.battery_share,
            "on_mains": self.on_mains,
            "under_voltage": self.under_voltage,
        }


@dataclass(frozen=True, slots=True)
class StrainLimits:
    """Beyond what background work is held back; None is no limit."""

    max_temperature_c: float | None = None
    min_battery_share: float | None = None
    """Counts while the device does not run on mains."""


class Strain:
    """Remember whether the device is hot or its battery low.

    Args:
        limits: From when on it is.
    """

    def __init__(self, limits: StrainLimits) -> None:
        self._limits = limits
        self._is_hot = False
        self._is_low = False

    def look(
        self, temperature_c: float | None, battery_share: float | None, *, on_mains: bool | None
    ) -> str | None:
        """Take in a reading; say why background work is held back, or None.

        What the device does not tell is no reason.
        """
        limit_c, least = self._limits.max_temperature_c, self._limits.min_battery_share
        if limit_c is not None and temperature_c is not None:
            self._is_hot = temperature_c >= limit_c - (_COOLER_C if self._is_hot else 0.0)
            if self._is_hot:
                return f"the device is hot ({temperature_c:.0f} °C; see budget.max_temperature_c)"
        if least is not None and battery_share is not None:
            self._is_low = not on_mains and battery_share < least + (_FULLER if self._is_low else 0)
            if self._is_low:
                return f"the battery is low ({battery_share:.0%}; see budget.min_battery)"
        return None
