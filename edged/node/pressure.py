"""What to give up when memory runs short, one level after the other, and when to take it back.

Rule: pure; readings and times come in, a level comes out.
"""

import math
from enum import IntEnum

from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot

# Above this share of the budget the next level is taken …
HIGH_SHARE = 0.95
# … and below this one the way back down begins.
LOW_SHARE = 0.90
# How long a level is given to help before the next one is taken.
UP_AFTER_S = 2.0
# How long memory must be low before a level is left: else it would go up and down.
DOWN_AFTER_S = 10.0
# How long the budget may be broken with all else tried, before the process starts anew.
RESTART_AFTER_S = 30.0
# The same two for the share of the time in which something waited for memory.
HIGH_STALL, LOW_STALL = 0.20, 0.05
# Of ``budget.min_available``, for the way back down.
_ROOMY = 1.25


class PressureLevel(IntEnum):
    """How much is given up; each level includes those below it."""

    CALM = 0
    SHED_PREFIX = 1
    """The keys and values kept for the next prompt are given back when the engine is idle."""
    SHED_SESSIONS = 2
    """Dialogues that nobody is waiting in are forgotten."""
    SHRINK_SLOTS = 3
    """One answer is made at a time, and the other slots are given back as they become idle."""
    REFUSE = 4
    """New requests are refused with ``memory_pressure``; what was promised is kept."""
    RESTART = 5
    """The process ends and is started again; the broker keeps what is not answered."""


class PressureLadder:
    """Decide the level, for one budget."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.level = PressureLevel.CALM
        self._changed_s = -math.inf
        self._well_since_s = self._broken_since_s = math.inf

    def step(self, memory: MemorySnapshot, now_s: float) -> PressureLevel:
        """Take in a reading and return the level that holds from now on."""
        limit_bytes, floor_bytes = self._budget.limit_bytes, self._budget.min_available_bytes
        is_broken = memory.rss_bytes > limit_bytes
        is_high = memory.rss_bytes > HIGH_SHARE * limit_bytes
        is_high = is_high or memory.available_bytes < floor_bytes
        is_high = is_high or memory.stall_share > HIGH_STALL
        is_well = memory.rss_bytes < LOW_SHARE * limit_bytes
        is_well = is_well and memory.available_bytes >= _ROOMY * floor_bytes
        is_well = is_well and memory.stall_share <= LOW_STALL
        self._broken_since_s = min(self._broken_since_s, now_s) if is_broken else math.inf
        self._well_since_s = min(self._well_since_s, now_s) if is_well else math.inf
        if is_high:
            self._climb(now_s)
        is_time = now_s - max(self._well_since_s, self._changed_s) >= DOWN_AFTER_S
        if is_time and self.level > PressureLevel.CALM:
            self._change(self.level - 1, now_s)
        return self.level

    def _climb(self, now_s: float) -> None:
        if now_s - self._changed_s < UP_AFTER_S:
            return
        if self.level < PressureLevel.REFUSE:
            self._change(self.level + 1, now_s)
        elif now_s - self._broken_since_s >= RESTART_AFTER_S:
            self._change(PressureLevel.RESTART, now_s)

    def _change(self, level: int, now_s: float) -> None:
        self.level, self._changed_s = PressureLevel(level), now_s
