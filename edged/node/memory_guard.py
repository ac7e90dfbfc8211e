"""Memory while the node serves: what requests hold, and what is given up when it runs short.

Rule: pure; one reading a second at most is taken in.
"""

from collections.abc import Callable
from typing import Any

from edged.errors import ErrorCode
from edged.node.effects import Effect, ReleasePrefixCache
from edged.node.ledger import REPLAY_BYTES, Account, Ledger, deliveries_bytes, request_bytes
from edged.node.limits import Limits
from edged.node.pressure import DOWN_AFTER_S, PressureLadder, PressureLevel
from edged.node.sessions import MAX_SESSION_BYTES, Sessions
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
        self._request_bytes = request_bytes(limits.defaults.max_payload_bytes, limits.max_model_len)
        self.ledger = Ledger(limits.budget.limit_bytes, _held(limits))

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
            self._read_s = now_s
            before, level = self.level, self._ladder.step(memory, now_s)
            entered = level if level > before else None
            # From SHRINK_SLOTS on at each reading: slots become idle one by one.
            if level >= PressureLevel.SHRINK_SLOTS or entered is PressureLevel.SHED_PREFIX:
                self._emit(ReleasePrefixCache())
            elif entered is PressureLevel.SHED_SESSIONS:
                self._sessions.clear()
        return 1 if self.level >= PressureLevel.SHRINK_SLOTS else self._num_slots

    def reserve(self) -> Rejected | None:
        """Reserve what one more request needs beside the model, or refuse it."""
        message, missing_bytes = "memory has been short; nothing new is taken in for a while", 0
        if self.level < PressureLevel.REFUSE:
            if self.ledger.reserve(Account.REQUESTS, self._request_bytes):
                return None
            message = "all of budget.memory is reserved"
            missing_bytes = self._request_bytes - self.ledger.free_bytes
        return Rejected(
            ErrorCode.MEMORY_PRESSURE,
            message,
            retry_after_s=DOWN_AFTER_S,
            detail={"missing_bytes": missing_bytes},
        )

    def release(self) -> None:
        """Give back what one request needed."""
        self.ledger.release(Account.REQUESTS, self._request_bytes)

    def members(self, rss_bytes: int) -> dict[str, Any]:
        """Return the account and the level as members of ``state``."""
        return {
            "pressure": self.level.name.lower(),
            "ledger": self.ledger.accounts(),
            "planned_bytes": self.ledger.planned_bytes,
            "unplanned_bytes": self.ledger.drift_bytes(rss_bytes),
        }


def _held(limits: Limits) -> dict[Account, int]:
    max_requests = limits.max_waiting + limits.num_slots
    waiting_bytes = deliveries_bytes(limits.defaults.max_payload_bytes, max_requests)
    held, plan = {Account.REPLAY: REPLAY_BYTES, Account.DELIVERIES: waiting_bytes}, limits.plan
    if plan is not None:
        held |= {
            Account.PROCESS: plan.process_bytes,
            Account.WEIGHTS: plan.weights_bytes,
            Account.KV: plan.kv_bytes,
            Account.WORKING: plan.working_bytes,
            Account.SPECIALISTS: plan.specialists_bytes,
        }
    return held | {Account.SESSIONS: limits.sessions.count * MAX_SESSION_BYTES}
