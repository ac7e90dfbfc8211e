"""Schedulability: completion bounds of requests decoded in one batch, and the EDF admission test.

Queued requests are counted one after the other in EDF order: it meets all deadlines whenever any
order does (Horn, 1974), and a batch completes no later than its requests one by one. So what is
admitted stays schedulable, whichever order the dispatch policy takes.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from edged.scheduling.latency_model import CostEstimate

# Tolerance for the rounding of sums of many predictions.
EPSILON_S = 1e-6


class Reserve(NamedTuple):
    """Time until a deadline that is kept free for others."""

    part: float = 0.0
    """Of the time beyond ``lend_s``."""
    lend_s: float = 0.0
    """Time from now of which nothing is kept."""
    gap_s: float = 0.0
    """Kept of the time beyond it, as far as that is there, even if ``part`` of it is less."""

    def usable_s(self, left_s: float) -> float:
        """Return how much of the time until a deadline may be promised."""
        beyond_s = max(left_s - self.lend_s, 0.0)
        return left_s - max(self.part * beyond_s, min(self.gap_s, beyond_s))

    def beside(self, reserve: "Reserve") -> "Reserve":
        """Return a reserve that keeps its part of what another one leaves."""
        return self._replace(part=1 - (1 - self.part) * (1 - reserve.part))


NOTHING = Reserve()


class Work(NamedTuple):
    """Remaining work of one request, in tokens, and its deadline."""

    num_prefill: int
    """Tokens of the prompt to compute."""
    num_decode: int
    """Decode steps after that."""
    context: int = 0
    """Tokens in the KV cache already."""
    deadline_s: float = math.inf

    @classmethod
    def of(cls, num_prompt_tokens: int, max_tokens: int, deadline_s: float = math.inf) -> "Work":
        """Return the work of a whole answer; prefill gives its first token."""
        return cls(num_prompt_tokens, max(max_tokens - 1, 0), deadline_s=deadline_s)

    def alone_s(self, cost: CostEstimate) -> float:
        """Predict its duration outside of a batch."""
        return cost.prefill_s(self.num_prefill, self.context) + self.decode_s(cost)

    def decode_s(self, cost: CostEstimate) -> float:
        """Predict the duration of its decode steps outside of a batch."""
        return cost.decode_s(self.num_decode, self.context + self.num_prefill)

    def cobatched_s(self, cost: CostEstimate, num_steps: int) -> float:
        """Bound what it adds to ``num_steps`` decode steps of another request."""
        shared = min(self.num_decode, num_steps)
        # The bound takes its last steps: attention is longest there.
        end = self.context + self.num_prefill + self.num_decode
        return shared * (cost.decode_row_s + (end - shared / 2) * cost.decode_pair_s)


def completion_bounds(cost: CostEstimate, works: Sequence[Work]) -> list[float]:
    """Return upper bounds on the completion times of requests decoded in one batch.

    The bounds hold for any order of the prompts and never rise while the engine works.

    Returns:
        Seconds from now, in the order of ``works``, without a margin.
    """
    if len(works) <= 1:
        return [work.alone_s(cost) for work in works]
    decodes_s = [work.decode_s(cost) for work in works]
    prefill_s = sum(cost.prefill_s(work.num_prefill, work.context) for work in works)
    num_chunks = sum(math.ceil(work.num_prefill / cost.chunk_tokens) for work in works)
    num_steps = sum(work.num_decode for work in works)
    # A batched step never costs more than its rows one by one, so all complete by this sum.
    serial_s = prefill_s + sum(decodes_s)
    bounds_s = []
    for i, own in enumerate(works):
        # While its prompt is computed, each chunk lets the others do one step without it.
        num_without = num_chunks + 1 if own.num_prefill else 0
        without_s = min(num_without, num_steps - own.num_decode) * cost.decode_token_s
        num_own = own.num_decode + num_without
        rows_s = sum(it.cobatched_s(cost, num_own) for j, it in enumerate(works) if j != i)
        bounds_s.append(min(prefill_s + decodes_s[i] + without_s + rows_s, serial_s))
    return bounds_s


class Batch:
    """Requests decoded in one batch, with their predicted completion.

    Args:
        now_s: current time, on the clock of the deadlines.
        cost: current estimate; predictions are multiplied by its margin.
        works: the requests.
    """

    def __init__(self, now_s: float, cost: CostEstimate, works: Sequence[Work] = ()) -> None:
        self.now_s = now_s
        self.cost = cost
        self.works = works
        self.completions_s = [cost.margin * s for s in completion_bounds(cost, works)]
        """Seconds from now until each completes, if it were not stopped at its deadline."""

    @property
    def makespan_s(self) -> float:
        """Seconds from now until all have ended, each at its deadline at the latest."""
        left_s = (max(work.deadline_s - self.now_s, 0.0) for work in self.works)
        return max(map(min, self.completions_s, left_s), default=0.0)

    @property
    def misses_deadline(self) -> list[bool]:
        """Whether each completes after its deadline."""
        return self._misses(self.completions_s)

    @property
    def is_lost(self) -> list[bool]:
        """Whether each misses its deadline even without the margin."""
        return self._misses([s / self.cost.margin for s in self.completions_s])

    def _misses(self, completions_s: Sequence[float]) -> list[bool]:
        return [
            self.now_s + completion_s > work.deadline_s + EPSILON_S
            for completion_s, work in zip(completions_s, self.works, strict=True)
        ]

    def with_work(self, work: Work) -> "Batch":
        """Return the batch with one more request."""
        return Batch(self.now_s, self.cost, [*self.works, work])

    def is_delayed_in(self, enlarged: "Batch") -> bool:
        """Return whether a request that is not lost here misses its deadline in ``enlarged``."""
        pairs = zip(self.is_lost, enlarged.misses_deadline, strict=False)
        return any(misses and not is_lost for is_lost, misses in pairs)

    def can_add(self, work: Work, queued: Iterable["Commitment"], reserve: Reserve) -> bool:
        """Return whether a request can start beside these, and ``queued`` follow, all in time.

        Deadlines that are lost without it, or that it would miss alone, do not count.
        """
        enlarged = self.with_work(work)
        if self.is_delayed_in(enlarged):
            return False
        is_late = enlarged.misses_deadline[-1]
        if is_late and not Batch(self.now_s, self.cost, [work]).misses_deadline[0]:
            return False
        return EdfSchedule(self.now_s, queued, enlarged.makespan_s).is_feasible(reserve)


class Commitment(NamedTuple):
    """Engine time of an admitted request, and its deadline, by which it is ordered."""

    deadline_s: float
    work_s: float
    """Predicted, with the margin."""


class EdfSchedule:
    """Commitments one after the other, the earliest deadline first.

    Args:
        now_s: current time, on the clock of the deadlines.
        commitments: admitted work, in any order.
        blocking_s: work that goes first and cannot be preempted.
    """

    def __init__(
        self, now_s: float, commitments: Iterable[Commitment] = (), blocking_s: float = 0.0
    ) -> None:
        self.now_s = now_s
        ordered = sorted(commitments)
        self._deadlines = [commitment.deadline_s for commitment in ordered]
        self._sums = list(accumulate((c.work_s for c in ordered), initial=blocking_s))

    @property
    def total_s(self) -> float:
        """All work, in seconds."""
        return self._sums[-1]

    def is_feasible(self, reserve: Reserve = NOTHING) -> bool:
        """Return whether all deadlines are met, with this time kept free."""
        return self.slack_s(reserve) >= -EPSILON_S

    def slack_s(self, reserve: Reserve = NOTHING, first: int = 0) -> float:
        """Return the longest delay of all but the ``first`` that makes none miss its deadline."""
        later = zip(self._deadlines[first:], self._sums[first + 1 :], strict=True)
        slacks_s = (reserve.usable_s(until_s - self.now_s) - sum_s for until_s, sum_s in later)
        return min(slacks_s, default=math.inf)

    def demand_s(self, deadline_s: float) -> float:
        """Return the work that goes before a new commitment with this deadline."""
        return self._sums[bisect_right(self._deadlines, deadline_s)]

    def capacity_s(self, deadline_s: float, reserve: Reserve = NOTHING) -> float:
        """Return the longest work that can be admitted with a deadline; negative if there is none.

        ``reserve`` is the time until each deadline that is kept free for others.
        """
        place = bisect_right(self._deadlines, deadline_s)
        own_s = reserve.usable_s(deadline_s - self.now_s) - self._sums[place]
        return min(own_s, self.slack_s(reserve, place))


@dataclass(frozen=True, slots=True)
class Share:
    """What a client may be promised beside its promises; see ``FairShare``."""

    part: float
    """Of the device, for all of them together."""
    others: Reserve
    """What is not its part."""
    room: Reserve
    """What is kept for clients that have been promised less."""
    promised: EdfSchedule
    """Its promises."""


@dataclass(frozen=True, slots=True)
class AdmissionTest:
    """Test whether a new request can meet its deadline along with all admitted ones.

    It passes if any of the schedules, or a free slot, has room for it.
    """

    schedules: Sequence[EdfSchedule]
    """At least one: the running requests first, then variants with some of them paused."""
    running: Batch | None = None
    """The running requests, if a slot beside them is free."""
    queued: Sequence[Commitment] = ()
    share: Share | None = None
    """None for the client that was promised least."""
    is_next: bool = False
    """Whether its client is the next to be served: it need leave no reserve for its class."""

    def best_schedule(self, deadline_s: float, reserve: Reserve) -> EdfSchedule:
        """Return the schedule with the most capacity for a deadline."""
        return max(self.schedules, key=lambda schedule: schedule.capacity_s(deadline_s, reserve))

    def passes(self, work: Work, alone_s: float, reserve: Reserve) -> bool:
        """Return whether a new request completes in time, and no admitted one late.

        ``alone_s`` is its predicted duration outside of a batch, with the margin.
        """
        if any(alone_s <= it.capacity_s(work.deadline_s, reserve) for it in self.schedules):
            return True
        if self.running is None:
            return False
        completion_s = self.running.with_work(work).completions_s[-1]
        is_early = completion_s <= reserve.usable_s(work.deadline_s - self.running.now_s)
        return is_early and self.running.can_add(work, self.queued, reserve)

    def over_share_s(self, deadline_s: float, alone_s: float) -> float:
        """Return by how much a request exceeds what its client may be promised until then."""
        share = self.share
        if share is None:
            return 0.0
        return max(alone_s - share.promised.capacity_s(deadline_s, share.others), 0.0)

    def leaves_room(self, work: Work, alone_s: float, reserve: Reserve) -> bool:
        """Return whether a request leaves what is kept for clients that were promised less."""
        return self.share is None or self.passes(work, alone_s, self.share.room.beside(reserve))
