"""What is promised already, and how much more can be: the arithmetic of deadlines on one engine.

Rule: what waits is promised as if one answer were made after the other. Earliest deadline first
finds an order that keeps all promises whenever there is one (Horn, 1974), and answers made at the
same time end no later than that; so what fits is decided in that order, whatever is run in the end.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from edged.scheduling.latency_model import CostEstimate

EPSILON_S = 1e-6
"""What sums of many predictions may be off by."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is left of one answer, in tokens."""

    num_prefill: int
    """Tokens of the prompt to compute."""
    num_decode: int
    """Runs of one token after that."""
    context: int = 0
    """Tokens that are computed already."""

    @classmethod
    def of(cls, num_prompt_tokens: int, max_tokens: int) -> "Work":
        """Return the work of a whole answer; its prompt gives the first token."""
        return cls(num_prompt_tokens, max(max_tokens - 1, 0))

    def alone_s(self, cost: CostEstimate) -> float:
        """Predict what it takes outside of a batch."""
        return cost.prefill_s(self.num_prefill, self.context) + self.decode_s(cost)

    def decode_s(self, cost: CostEstimate) -> float:
        """Predict its runs of one token, as if nobody else took part in them."""
        return cost.decode_s(self.num_decode, self.context + self.num_prefill)

    def cobatched_s(self, cost: CostEstimate, num_runs: int) -> float:
        """Predict what it adds to ``num_runs`` runs at most of somebody else.

        Those are taken to be its last ones, with the longest context.
        """
        shared = min(self.num_decode, num_runs)
        end = self.context + self.num_prefill + self.num_decode
        return shared * (cost.decode_row_s + (end - shared / 2) * cost.decode_pair_s)


def completion_bounds(cost: CostEstimate, works: Sequence[Work]) -> list[float]:
    """Return bounds of when each completes, in seconds from now, without a margin."""
    if len(works) <= 1:  # the usual case: nobody is in anybody's way
        return [work.alone_s(cost) for work in works]
    decodes = [work.decode_s(cost) for work in works]
    prefill_s = sum(cost.prefill_s(work.num_prefill, work.context) for work in works)
    num_pieces = sum(math.ceil(work.num_prefill / cost.chunk_tokens) for work in works)
    num_runs = sum(work.num_decode for work in works)
    # A run is never dearer than the same rows one by one, so all end by the sum of them.
    serial_s = prefill_s + sum(decodes)
    completions = []
    for i, own in enumerate(works):
        # While its prompt is computed, each piece lets the others have a run without it.
        without = num_pieces + 1 if own.num_prefill else 0
        runs_s = min(without, num_runs - own.num_decode) * cost.decode_token_s
        others = (work for j, work in enumerate(works) if j != i)
        company_s = sum(other.cobatched_s(cost, own.num_decode + without) for other in others)
        completions.append(min(prefill_s + decodes[i] + runs_s + company_s, serial_s))
    return completions


@dataclass(frozen=True, slots=True)
class BatchMember:
    """One answer of a batch, and when it must have ended."""

    work: Work
    deadline_s: float


class Batch:
    """The answers that are made now.

    Args:
        now_s: the moment, on the clock of the deadlines.
        cost: what they cost; predictions are stretched by its margin.
        members: who they are.
    """

    def __init__(
        self, now_s: float, cost: CostEstimate, members: Sequence[BatchMember] = ()
    ) -> None:
        self.now_s = now_s
        self.cost = cost
        self.members = tuple(members)
        completions = completion_bounds(cost, [member.work for member in self.members])
        self.completions_s = [cost.margin * completion_s for completion_s in completions]
        """When each completes, in seconds from now, if nothing ended it at its deadline."""

    @property
    def makespan_s(self) -> float:
        """When all have ended, at the latest at their deadlines."""
        lefts = (max(member.deadline_s - self.now_s, 0.0) for member in self.members)
        return max(map(min, self.completions_s, lefts), default=0.0)

    def with_member(self, member: BatchMember) -> "Batch":
        """Return it with one more."""
        return Batch(self.now_s, self.cost, [*self.members, member])

    def is_feasible_with(self, enlarged: "Batch") -> bool:
        """Tell whether one more, the last of ``enlarged``, makes nobody late.

        Who is late without it, or the one itself alone, does not count.
        """
        *others, is_last_late = enlarged.misses_deadline
        if any(
            misses_deadline and not was_late
            for was_late, misses_deadline in zip(self.misses_deadline, others, strict=True)
        ):
            return False
        last = enlarged.members[-1]
        return not is_last_late or Batch(self.now_s, self.cost, [last]).misses_deadline[0]

    @property
    def misses_deadline(self) -> list[bool]:
        """Whether each completes after its deadline."""
        return [
            self.now_s + completion_s > member.deadline_s + EPSILON_S
            for completion_s, member in zip(self.completions_s, self.members, strict=True)
        ]


@dataclass(frozen=True, slots=True, order=True)
class Commitment:
    """Work that must end by a time."""

    deadline_s: float
    work_s: float
    """Predicted, with the margin of a promise."""


class EdfSchedule:
    """Promises that are kept one after the other.

    Args:
        now_s: the moment, on the clock of the deadlines.
        commitments: what may run in any order.
        blocking_s: work that comes before everything else and cannot be moved.
    """

    def __init__(
        self, now_s: float, commitments: Iterable[Commitment] = (), blocking_s: float = 0.0
    ) -> None:
        self.now_s = now_s
        self.blocking_s = blocking_s
        ordered = sorted(commitments)
        self._deadlines = [promise.deadline_s for promise in ordered]
        self._sums = list(accumulate((p.work_s for p in ordered), initial=blocking_s))

    @property
    def total_s(self) -> float:
        """All the work there is."""
        return self._sums[-1]

    @property
    def is_feasible(self) -> bool:
        """Whether all of it completes in time."""
        return self.slack_s() >= -EPSILON_S

    def slack_s(self, reserve: float = 0.0) -> float:
        """Return the longest work that can go before everything movable and break no promise.

        Args:
            reserve: share of the device that must be left over until then; see ``capacity_s``.
        """
        return self._slack_s(0, reserve)

    def demand_s(self, deadline_s: float) -> float:
        """Return the work that goes before a new promise of this deadline."""
        return self._sums[bisect_right(self._deadlines, deadline_s)]

    def capacity_s(self, deadline_s: float, reserve: float = 0.0) -> float:
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


@dataclass(frozen=True, slots=True)
class FreeSlot:
    """A free slot beside what runs."""

    batch: Batch
    queued: Sequence[Commitment]
    """What waits."""

    def completion_s(self, member: BatchMember, reserve: float) -> float | None:
        """Return when an answer would end that starts now; None if a promise would be broken.

        Args:
            member: the answer.
            reserve: share of the time left to more urgent work; see ``EdfSchedule.capacity_s``.
        """
        enlarged = self.batch.with_member(member)
        completion_s = enlarged.completions_s[-1]
        is_early = completion_s <= (1 - reserve) * (member.deadline_s - enlarged.now_s)
        return completion_s if is_early and self._is_feasible_with(enlarged, reserve) else None

    def can_start(self, member: BatchMember, reserve: float) -> bool:
        """Tell whether an answer can start now, and no promise is broken by that."""
        return self._is_feasible_with(self.batch.with_member(member), reserve)

    def _is_feasible_with(self, enlarged: Batch, reserve: float) -> bool:
        if not self.batch.is_feasible_with(enlarged):
            return False
        schedule = EdfSchedule(enlarged.now_s, self.queued, enlarged.makespan_s)
        return schedule.slack_s(reserve) >= -EPSILON_S


@dataclass(frozen=True, slots=True)
class AdmissionTest:
    """All promises of one engine at one moment, as they concern a new request.

    Whatever way there is to keep them all and the new one, is good.
    """

    schedules: Sequence[EdfSchedule]
    """At least one: what runs goes first, or some of it is interrupted and waits, too."""
    free_slot: FreeSlot | None = None

    @property
    def now_s(self) -> float:
        """The moment, on the clock of the deadlines."""
        return self.schedules[0].now_s

    @property
    def total_s(self) -> float:
        """All the work there is."""
        return self.schedules[0].total_s

    def best_schedule(self, deadline_s: float, reserve: float = 0.0) -> EdfSchedule:
        """Return the schedule with the most room for a deadline."""
        return max(self.schedules, key=lambda schedule: schedule.capacity_s(deadline_s, reserve))

    def capacity_s(self, deadline_s: float, reserve: float = 0.0) -> float:
        """Return the longest work that can wait and be promised; see ``EdfSchedule.capacity_s``."""
        return self.best_schedule(deadline_s, reserve).capacity_s(deadline_s, reserve)

    def completion_s(self, member: BatchMember, work_s: float, reserve: float) -> float | None:
        """Predict when a new answer would end, in seconds from now; None if it cannot be promised.

        Args:
            member: the answer.
            work_s: what it takes alone, with the margin of a promise.
            reserve: share of the time that is left to more urgent work.
        """
        until_s = member.deadline_s
        completions = [
            schedule.demand_s(until_s) + work_s
            for schedule in self.schedules
            if work_s <= schedule.capacity_s(until_s, reserve)
        ]
        started_s = None if self.free_slot is None else self.free_slot.completion_s(member, reserve)
        return min([*completions, *([] if started_s is None else [started_s])], default=None)
