"""Memory while the node serves: what requests hold, and what is given up when it runs short.

Rule: pure; one reading a second at most is taken in.
"""

from collections.abc import Callable
from typing import Any

from edged.errors import ErrorCode
from edged.node.effects import Effect, ReleasePrefixCache
from edged.node.ledger import REPLAY_BYTES, REQUEST_BYTES, Account, Reservation, open_ledger
from edged.node.limits import Limits
from edged.node.pressure import DOWN_AFTER_S, PressureLadder, PressureLevel
from edged.node.sessions import Sessions
from edged.protocol.request import Rejected
from edged.scheduling.memory_budget import MemorySnapshot

# Least time between two readings.
INTERVAL_S = 1.0


class MemoryGuard:
    """Keep the ledger, and climb the ladder.

    Args:
        limits: The budget, and what is held for the life of the process.
        sessions: Cleared when memory is short.
        emit: Takes ``ReleasePrefixCache``.
    """

    def __init__(self, limits: Limits, sessions: Sessions, emit: Callable[[Effect], None]) -> None:
        self._sessions = sessions
        self._emit = emit
        self._ladder = PressureLadder(limits.budget)
        self._num_slots = limits.num_slots
        self._read_s = float("-inf")
        self.ledger = open_ledger(limits.budget, limits.plan, REPLAY_BYTES)
        sessions_bytes = min(limits.sessions.num_bytes, self.ledger.free_bytes)
        self.ledger.reserve(Account.SESSIONS, sessions_bytes)

    @property
    def level(self) -> PressureLevel:
        """How much is given up now."""
        return self._ladder.level

    def tick(self, memory: MemorySnapshot, now_s: float) -> int:
        """Take in a reading if the last one is old, and give up or take back one thing.

        Returns:
            How many answers may be generated at the same time.
        """
        if now_s - self._read_s >= INTERVAL_S:
            before = self.level
            self._read_s = now_s
            self._shed(before, self._ladder.step(memory, now_s))
        return 1 if self.level >= PressureLevel.SHRINK_SLOTS else self._num_slots

    def _shed(self, before: PressureLevel, level: PressureLevel) -> None:
        is_higher = level > before
        # From SHRINK_SLOTS on at each reading: slots become idle one by one, with what they hold.
        if level >= PressureLevel.SHRINK_SLOTS or (
            is_higher and level is PressureLevel.SHED_PREFIX
        ):
            self._emit(ReleasePrefixCache())
        elif is_higher and level is PressureLevel.SHED_SESSIONS:
            self._sessions.clear()

    def reserve(self) -> Reservation | Rejected:
        """Reserve what one more request needs beside the model, or refuse it."""
        if self.level >= PressureLevel.REFUSE:
            return self._refusal("memory has been short; nothing new is taken in for a while", 0)
        reservation = self.ledger.reserve(Account.REQUESTS, REQUEST_BYTES)
        if reservation is not None:
            return reservation
        missing_bytes = REQUEST_BYTES - self.ledger.free_bytes
        return self._refusal("all of budget.memory is reserved", missing_bytes)

    def members(self, rss_bytes: int) -> dict[str, Any]:
        """Return the account and the level as members of ``state``."""
        return {
            "pressure": self.level.name.lower(),
            "ledger": self.ledger.accounts(),
            "planned_bytes": self.ledger.planned_bytes,
            "unplanned_bytes": self.ledger.drift_bytes(rss_bytes),
        }

    def _refusal(self, message: str, missing_bytes: int) -> Rejected:
        return Rejected(
            ErrorCode.MEMORY_PRESSURE,
            message,
            retry_after_s=DOWN_AFTER_S,
            detail={"missing_bytes": missing_bytes},
        )
