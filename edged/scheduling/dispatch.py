"""Dispatch policy: which queued requests may start without missing an admitted deadline.

Invariant: all admitted deadlines are met if the running requests end first and the queued ones
follow one by one, earliest deadline first. A request starts only if that stays true.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic

from edged.protocol.request import Client, Priority
from edged.scheduling.admission import RESERVE
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.queued_request import S
from edged.scheduling.schedulability import (
    NOTHING,
    AdmissionTest,
    Batch,
    Commitment,
    EdfSchedule,
    Share,
)


@dataclass(frozen=True)
class DispatchState(Generic[S]):
    """All queued and running requests at one time; deciding changes nothing."""

    now_s: float
    cost: CostEstimate
    num_slots: int
    running: Sequence[S]
    waiting: Sequence[S]
    levels_s: Mapping[Client, float] = field(default_factory=dict)
    """Of each client with requests: what was begun of them, over its weight; see ``FairShare``."""

    def admission_test(
        self, deadline_s: float, share: Share | None = None, *, is_next: bool = False
    ) -> AdmissionTest:
        """Return the test of a new request with this deadline, whose client has this share.

        ``is_next`` is whether its client is to be served next, as on an idle device.

        It may start in a free slot, or wait for the running requests, or have those with a later
        deadline paused.
        """
        later = [entry for entry in self._pausable if entry.deadline_s > deadline_s]
        # A pause waits for the run of the model that has begun.
        is_prefilling = any(entry.remaining_work().num_prefill for entry in self.running)
        num_tokens = self.cost.chunk_tokens if is_prefilling else 1
        run_s = self.cost.margin * self.cost.prefill_s(num_tokens)
        schedules = [self._unpaused]
        schedules += [self._schedule(later[: i + 1], run_s) for i in range(len(later))]
        is_idle = not (self.running or self.waiting)  # then the first schedule starts at once
        if is_idle or len(self.running) >= self.num_slots:
            return AdmissionTest(schedules, share=share, is_next=is_next or is_idle)
        queued = [self._commitments[entry] for entry in self.waiting]
        return AdmissionTest(schedules, self._running_batch, queued, share, is_next)

    def promised(self, payer: Client) -> EdfSchedule:
        """Return what remains of a client's promises."""
        running = [entry for entry in self.running if entry.payer == payer]
        waiting = [self._commitments[entry] for entry in self.waiting if entry.payer == payer]
        return EdfSchedule(self.now_s, waiting, self._batch(running).makespan_s)

    def waiting_behind_s(self, payer: Client) -> dict[Client, float]:
        """Return who waits with nothing running and was served less than a client, and for what.

        That is the engine time of the longest promise.
        """
        level_s = self.levels_s.get(payer, math.inf)
        running = {entry.payer for entry in self.running}
        behind_s: dict[Client, float] = {}
        for entry in self.waiting:
            if entry.payer not in {payer, *running} and self.levels_s[entry.payer] < level_s:
                work_s = self._commitments[entry].work_s
                behind_s[entry.payer] = max(behind_s.get(entry.payer, 0.0), work_s)
        return behind_s

    def next_free_slot_s(self) -> float:
        """Predict in how many seconds a slot is free."""
        if len(self.running) < self.num_slots:
            return 0.0
        return min(self._running_batch.completions_s)

    def to_start(self) -> S | None:
        """Return the most urgent request that can start without a missed deadline.

        One whose own deadline has passed is left for ``Scheduler.expire``.
        """
        if not self.waiting or len(self.running) >= self.num_slots:
            return None
        startable, batch = self._startable, self._running_batch
        if not self.running and len(startable) == 1:  # no other deadline to miss
            return startable[0]
        for entry in startable:
            if self._can_start(entry, startable, batch):
                return entry
        if self.running and self._to_pause_for_deadlines() is not None:
            return None
        # Some deadline will be missed whatever is done: the earliest goes on, if it delays nobody.
        fitting = [e for e in startable if not batch.is_delayed_in(batch.with_work(e.full_work()))]
        return min(fitting, key=lambda entry: (entry.deadline_s, entry.key), default=None)

    def to_pause(self) -> S | None:
        """Return the running request to pause: for a person, or to meet a deadline."""
        if not self.waiting or not self._pausable:
            return None
        people = [entry for entry in self._startable if self._is_person(entry)]
        if people:
            # The least urgent first; where none is worth pausing, a person waits for a slot.
            for victim in sorted(self._pausable, key=self._rank, reverse=True):
                if self._makes_way(victim, people):
                    return victim
        paused = self._to_pause_for_deadlines()
        return paused[0] if paused else None

    def _rank(self, entry: S) -> tuple[int, bool, float, float, int]:
        return entry.rank(self.now_s, self._ahead_s(entry))

    def _ahead_s(self, entry: S) -> float:
        """Return how much more its client was served than the least of those that wait."""
        return self.levels_s.get(entry.payer, 0.0) - self._lowest_s

    def _is_person(self, entry: S) -> bool:
        return entry.effective_priority(self.now_s, self._ahead_s(entry)) <= Priority.INTERACTIVE

    def _makes_way(self, victim: S, people: Sequence[S]) -> bool:
        """Return whether one of these people could start in place of a running request."""
        others = [entry for entry in self.running if entry is not victim]
        if self._is_person(victim) or len(others) >= self.num_slots:
            return False
        waiting = [*self._startable, victim]
        batch = self._batch(others)
        return any(self._can_start(entry, waiting, batch) for entry in people)

    def _to_pause_for_deadlines(self) -> list[S] | None:
        """Return the fewest requests to pause to meet all deadlines; None if no pause does it."""
        choices = (self._pausable[:count] for count in range(len(self._pausable) + 1))
        return next((paused for paused in choices if self._schedule(paused).is_feasible()), None)

    @cached_property
    def _lowest_s(self) -> float:
        return min((self.levels_s.get(it.payer, 0.0) for it in self.waiting), default=0.0)

    @cached_property
    def _startable(self) -> list[S]:
        """Return the queued requests before their deadlines, the most urgent first."""
        startable = (entry for entry in self.waiting if entry.deadline_s > self.now_s)
        return sorted(startable, key=self._rank)

    @cached_property
    def _pausable(self) -> list[S]:
        """Return the running requests that are worth pausing, the latest deadline first."""
        worth = [e for e in self.running if e.is_worth_pausing(self.cost, self.now_s)]
        return sorted(worth, key=lambda entry: (-entry.deadline_s, -entry.key))

    def _schedule(self, paused: Sequence[S], blocking_s: float = 0.0) -> EdfSchedule:
        """Return the schedule if these were paused and the other running requests ended first."""
        rest = [entry for entry in self.running if entry not in paused]
        queued = [self._commitments[entry] for entry in (*self.waiting, *paused)]
        batch = self._batch(rest) if paused else self._running_batch
        return EdfSchedule(self.now_s, queued, max(batch.makespan_s, blocking_s))

    @cached_property
    def _unpaused(self) -> EdfSchedule:
        """Return the schedule if nothing is paused."""
        return self._schedule(())

    @cached_property
    def _commitments(self) -> dict[S, Commitment]:
        return {entry: entry.commitment(self.cost) for entry in (*self.waiting, *self.running)}

    @cached_property
    def _running_batch(self) -> Batch:
        return self._batch(self.running)

    def _batch(self, entries: Sequence[S]) -> Batch:
        return Batch(self.now_s, self.cost, [entry.remaining_work() for entry in entries])

    def _can_start(self, entry: S, waiting: Sequence[S], batch: Batch) -> bool:
        rest = [self._commitments[other] for other in waiting if other is not entry]
        # Less urgent requests must not use up the slack that a person will need. Where there is
        # none, a person needs the time that a batch saves, and the last slot.
        reserve = RESERVE[entry.request.priority]
        is_last_slot = len(batch.works) + 1 >= self.num_slots
        if not (is_last_slot or self._unpaused.is_feasible(reserve)):
            reserve = NOTHING
        return batch.can_add(entry.full_work(), rest, reserve)
