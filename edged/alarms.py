"""What operators are told of memory, as it happens: short, given up, held without a plan.

Rule: each is told when it changes, never again while it stays.
"""

from edged.events import Events
from edged.guard import MemoryGuard
from edged.messages.event import (
    MemoryRecovered,
    MemoryShort,
    MemoryUnplanned,
    PressureChanged,
)
from edged.pressure import Rung

UNPLANNED_SHARE = 0.05
"""Of the budget: resident memory above the ledger's that is worth an event …"""
PLANNED_SHARE = 0.03
"""… and that below which it is over."""


class MemoryAlarms:
    """Compare each look at memory with the one before.

    Args:
        events: Where it is told.
        guard: The ledger and the ladder.
    """

    def __init__(self, events: Events, guard: MemoryGuard) -> None:
        self._events = events
        self._guard = guard
        self._is_short = False
        self._is_unplanned = False
        self._rung = Rung.CALM

    def look(self, rss_bytes: int, missing_bytes: int) -> None:
        """Tell what has changed.

        Args:
            rss_bytes: Resident memory of the process.
            missing_bytes: How far memory is over the budget, or below what the device must keep.
        """
        is_short = missing_bytes > 0
        if is_short != self._is_short:
            self._events.tell(MemoryShort(missing_bytes) if is_short else MemoryRecovered())
        self._is_short = is_short
        if self._guard.rung is not self._rung:
            self._rung = self._guard.rung
            self._events.tell(PressureChanged(self._rung.name.lower()))
        self._look_for_unplanned(rss_bytes)

    def _look_for_unplanned(self, rss_bytes: int) -> None:
        ledger = self._guard.ledger
        drift_bytes = ledger.drift_bytes(rss_bytes)
        if self._is_unplanned:
            self._is_unplanned = drift_bytes > PLANNED_SHARE * ledger.limit_bytes
        elif drift_bytes > UNPLANNED_SHARE * ledger.limit_bytes:
            self._is_unplanned = True
            self._events.tell(MemoryUnplanned(drift_bytes))
