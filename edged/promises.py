"""What is promised already, and how much more can be: the arithmetic of deadlines on one engine.

Rule: earliest deadline first finds an order that keeps all promises whenever there is one (Horn,
1974); so what fits is decided in that order, whatever order is run in the end.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True, order=True)
class Promise:
    """Work that must end by a time."""

    deadline_s: float
    work_s: float
    """Predicted, with the margin of a promise."""


class Timetable:
    """All promises of one engine at one moment.

    Args:
        now_s: the moment, on the clock of the deadlines.
        promises: what may run in any order.
        head_s: work that comes before everything else and cannot be moved.
    """

    def __init__(self, now_s: float, promises: Iterable[Promise] = (), head_s: float = 0.0) -> None:
        self.now_s = now_s
        self.head_s = head_s
        ordered = sorted(promises)
        self._deadlines = [promise.deadline_s for promise in ordered]
        self._sums = list(accumulate((p.work_s for p in ordered), initial=head_s))

    @property
    def total_s(self) -> float:
        """All the work there is."""
        return self._sums[-1]

    def slack_s(self, reserve: float = 0.0) -> float:
        """Return the longest work that can go before everything movable and break no promise.

        Args:
            reserve: share of the device that must be left over until then; see ``room_s``.
        """
        return self._slack_s(0, reserve)

    def ahead_s(self, deadline_s: float) -> float:
        """Return the work that goes before a new promise of this deadline."""
        return self._sums[bisect_right(self._deadlines, deadline_s)]

    def room_s(self, deadline_s: float, reserve: float = 0.0) -> float:
        """Return the longest work that can be promised by a deadline; negative without room.

        Args:
            deadline_s: when it must have ended.
            reserve: share of the device that is left to more urgent work to come. Without any work
                there is nothing that it would have to wait for, and nothing is reserved.
        """
        reserve = reserve if self.total_s else 0.0
        place = bisect_right(self._deadlines, deadline_s)
        own_s = (1 - reserve) * (deadline_s - self.now_s) - self._sums[place]
        return min(own_s, self._slack_s(place, reserve))

    def _slack_s(self, place: int, reserve: float) -> float:
        """Return the least slack of the promises from ``place`` on."""
        later = zip(self._deadlines[place:], self._sums[place + 1 :], strict=True)
        slacks = ((1 - reserve) * (until_s - self.now_s) - sum_s for until_s, sum_s in later)
        return min(slacks, default=math.inf)
