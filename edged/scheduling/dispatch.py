"""Who may run beside whom: all that waits and runs at one moment, held against its commitments.

Rule: decides and changes nothing. Every promise can be kept by letting run what runs, and then one
after the other what waits: each start keeps that true, and what would not is not started.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from edged.protocol.request import Priority
from edged.scheduling.admission import RESERVE
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.request_state import RequestState, T
from edged.scheduling.schedulability import AdmissionTest, Batch, BatchMember, EdfSchedule, FreeSlot


@dataclass(frozen=True, slots=True)
class DispatchState(Generic[T]):
    """All entries of a scheduler at one time."""

    now_s: float
    cost: CostEstimate
    num_slots: int
    running: Sequence[RequestState[T]]
    waiting: Sequence[RequestState[T]]

    def admission_test(self, deadline_s: float) -> AdmissionTest:
        """Return all that is promised, as it concerns a new request with this deadline.

        It can start in a free slot, or wait for what runs, or for some of what runs to be
        interrupted: for what has more time, as far as that is possible.
        """
        later = [entry for entry in self._pausable() if entry.deadline_s > deadline_s]
        schedules = [self._schedule(later[:count]) for count in range(len(later) + 1)]
        is_idle = not (self.running or self.waiting)  # then the first in line starts at once
        if is_idle or len(self.running) >= self.num_slots:
            return AdmissionTest(schedules)
        commitments = [entry.commitment(self.cost) for entry in self.waiting]
        return AdmissionTest(schedules, FreeSlot(self._batch(self.running), commitments))

    def next_free_slot_s(self) -> float:
        """Predict in how many seconds a slot is free."""
        if len(self.running) < self.num_slots:
            return 0.0
        return min(self._batch(self.running).completions_s)

    def to_start(self) -> RequestState[T] | None:
        """Return the most urgent entry that can start without breaking a promise."""
        if not self.waiting or len(self.running) >= self.num_slots:
            return None
        waiting = self._live()
        if not self.running and len(waiting) == 1:  # nobody else is promised anything
            return waiting[0]
        batch = self._batch(self.running)
        for entry in waiting:
            if self._can_start(entry, waiting, batch):
                return entry
        if self.running and self._rescue() is not None:
            return None
        # Not all deadlines can be met any more: the next one is, if nobody who runs is late by it.
        fitting = (
            e
            for e in waiting
            if batch.with_member(_started(e)).misses_deadline[:-1] == batch.misses_deadline
        )
        return min(fitting, key=lambda entry: (entry.deadline_s, entry.key), default=None)

    def to_pause(self) -> RequestState[T] | None:
        """Return the running entry that must make room: for a person, or for a promise."""
        if not self.waiting:
            return None
        people = [entry for entry in self._live() if self._is_person(entry)]
        if people:
            for victim in sorted(self.running, key=lambda entry: entry.rank(self.now_s))[::-1]:
                if self._gives_way(victim, people):
                    return victim
        paused = self._rescue()
        return paused[0] if paused else None

    def _is_person(self, entry: RequestState[T]) -> bool:
        return entry.effective_priority(self.now_s) <= Priority.INTERACTIVE

    def _gives_way(self, victim: RequestState[T], people: Sequence[RequestState[T]]) -> bool:
        """Tell whether a person who waits could be served in place of a running entry.

        Others wait until a slot is free: an interruption costs the prompt once more.
        """
        others = [entry for entry in self.running if entry is not victim]
        if self._is_person(victim) or len(others) >= self.num_slots:
            return False
        waiting = [*self._live(), victim]
        if not victim.is_worth_pausing(self.cost, self.now_s):
            return False
        batch = self._batch(others)
        return any(self._can_start(entry, waiting, batch) for entry in people)

    def _rescue(self) -> list[RequestState[T]] | None:
        """Return what must be interrupted to keep all commitments; None when nothing helps."""
        pausable = self._pausable()
        for count in range(len(pausable) + 1):
            if self._schedule(pausable[:count]).is_feasible:
                return pausable[:count]
        return None

    def _live(self) -> list[RequestState[T]]:
        """Return what waits and is not too late, the most urgent first."""
        live = (entry for entry in self.waiting if entry.deadline_s > self.now_s)
        return sorted(live, key=lambda entry: entry.rank(self.now_s))

    def _pausable(self) -> list[RequestState[T]]:
        """Return what may be interrupted to keep a promise, those with the most time first."""
        worth = [e for e in self.running if e.is_worth_pausing(self.cost, self.now_s)]
        return sorted(worth, key=lambda entry: (-entry.deadline_s, -entry.key))

    def _schedule(self, paused: Sequence[RequestState[T]]) -> EdfSchedule:
        """Return what is promised if these were interrupted and the others ran to their end."""
        rest = [entry for entry in self.running if entry not in paused]
        commitments = (entry.commitment(self.cost) for entry in (*self.waiting, *paused))
        return EdfSchedule(self.now_s, commitments, self._batch(rest).makespan_s)

    def _batch(self, entries: Sequence[RequestState[T]]) -> Batch:
        members = [BatchMember(entry.remaining_work(), entry.deadline_s) for entry in entries]
        return Batch(self.now_s, self.cost, members)

    def _can_start(
        self, entry: RequestState[T], waiting: Sequence[RequestState[T]], batch: Batch
    ) -> bool:
        """Tell whether one of those that wait can start beside others."""
        rest = [other.commitment(self.cost) for other in waiting if other is not entry]
        # What is less urgent must not use up the slack that a person will need.
        reserve = RESERVE[entry.admitted.request.priority]
        return FreeSlot(batch, rest).can_start(_started(entry), reserve)


def _started(entry: RequestState[T]) -> BatchMember:
    """Return an entry as one that is started now, or anew."""
    return BatchMember(entry.full_work(), entry.deadline_s)
