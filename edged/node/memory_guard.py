"""Memory while the node serves: what requests hold, and what is given up when it runs short.

Rule: on the main thread; one reading a second at most, and nothing here blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edged.errors import ErrorCode
from edged.node.ledger import REQUEST_BYTES, Account, Reservation, open_ledger
from edged.node.ports import Edges, Limits
from edged.node.pressure import DOWN_AFTER_S, PressureLadder, Rung
from edged.node.replies import MAX_FINISHED_BYTES
from edged.protocol.request import Rejected

INTERVAL_S = 1.0
"""Least time between two readings."""


@dataclass(frozen=True, slots=True)
class Sheddable:
    """What can be given up; each is called when its rung is reached."""

    prefix_cache: Callable[[], None]
    sessions: Callable[[], None]


class MemoryGuard:
    """Keep the ledger, and climb the ladder.

    Args:
        edges: Memory and the clock.
        limits: The budget, and what is held for the life of the process.
        sheddable: What can be given up.
    """

    def __init__(self, edges: Edges, limits: Limits, sheddable: Sheddable) -> None:
        self._edges = edges
        self._sheddable = sheddable
        self._ladder = PressureLadder(limits.budget)
        self._num_slots = limits.num_slots
        self._read_s = float("-inf")
        self.ledger = open_ledger(limits.budget, limits.plan, MAX_FINISHED_BYTES)
        sessions_bytes = min(limits.sessions.num_bytes, self.ledger.free_bytes)
        self.ledger.reserve(Account.SESSIONS, sessions_bytes)

    @property
    def rung(self) -> Rung:
        """How much is given up now."""
        return self._ladder.rung

    def tick(self, now_s: float) -> int:
        """Read memory if the last reading is old, and give up or take back one thing.

        Returns:
            How many answers may be made at the same time.
        """
        if now_s - self._read_s >= INTERVAL_S:
            self._read_s, before = now_s, self.rung
            self._shed(before, self._ladder.step(self._edges.read_memory(), now_s))
        return 1 if self.rung >= Rung.SHRINK_SLOTS else self._num_slots

    def _shed(self, before: Rung, rung: Rung) -> None:
        # Slots beyond the one become idle one by one, each with what it held.
        if rung >= Rung.SHRINK_SLOTS or before < rung is Rung.SHED_PREFIX:
            self._sheddable.prefix_cache()
        elif before < rung is Rung.SHED_SESSIONS:
            self._sheddable.sessions()

    def hold(self) -> Reservation | Rejected:
        """Reserve what one more request needs beside the model, or refuse it."""
        if self.rung >= Rung.REFUSE:
            return self._refusal("memory has been short; nothing new is taken in for a while", 0)
        held = self.ledger.reserve(Account.REQUESTS, REQUEST_BYTES)
        if held is not None:
            return held
        missing_bytes = REQUEST_BYTES - self.ledger.free_bytes
        return self._refusal("all of budget.memory is spoken for", missing_bytes)

    def members(self, rss_bytes: int) -> dict[str, Any]:
        """Return the account and the ladder as members of ``state``."""
        return {
            "pressure": self.rung.name.lower(),
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
