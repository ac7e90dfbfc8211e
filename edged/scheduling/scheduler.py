"""A bounded queue of promises: classes, deadlines, fair shares, cancel, interruption.

Rule: no clock, no silence. Each entry that ``add`` accepts leaves through exactly one of
``finish``, ``expire``, ``cancel`` and ``clear``, and the caller answers what it is handed.
The order is that of classes as long as every promise can still be kept, else that of deadlines.
"""

from collections.abc import Callable
from typing import Generic

from edged.errors import ErrorCode
from edged.protocol.request import CancelRequest, Rejected, Request
from edged.scheduling.dispatch import DispatchState
from edged.scheduling.fair_share import FairShare
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.request_state import RequestPhase, RequestState, T
from edged.scheduling.schedulability import AdmissionTest

__all__ = ["RequestPhase", "RequestState", "Scheduler"]

_MIN_RETRY_S = 0.1


class Scheduler(Generic[T]):
    """Hold what waits and what runs.

    After ``pop`` and ``to_pause`` have given all they have, every promise can be kept by letting
    run what runs, and then one after the other what waits; as time passes, that stays so.

    Args:
        max_waiting: entries that may wait; those that run come on top, and those that were
            interrupted may wait beyond the bound.
        num_slots: entries that may run at the same time. It may be changed at any time; what runs
            beyond it runs to its end.
    """

    def __init__(self, max_waiting: int, num_slots: int = 1) -> None:
        self.max_waiting = max_waiting
        self.num_slots = num_slots
        self.running: list[RequestState[T]] = []
        """What runs, in the order of its start."""
        self._waiting: list[RequestState[T]] = []
        self._shares = FairShare()

    @property
    def is_full(self) -> bool:
        """Whether no slot is free."""
        return len(self.running) >= self.num_slots

    def __len__(self) -> int:
        """Count what waits; what runs is not among it."""
        return len(self._waiting)

    def admission_test(self, request: Request, cost: CostEstimate, now_s: float) -> AdmissionTest:
        """Return all that is promised, as it concerns a new request."""
        return self._at(now_s, cost).admission_test(request.deadline_s)

    def _at(self, now_s: float, cost: CostEstimate) -> DispatchState[T]:
        return DispatchState(now_s, cost, self.num_slots, self.running, self._waiting)

    def add(self, entry: RequestState[T], cost: CostEstimate, now_s: float) -> Rejected | None:
        """Let an entry wait, or refuse it as ``refusal`` says.

        The newest is refused whatever its class: what was accepted is never thrown out for it.
        """
        refusal = self.refusal(entry.client, cost, now_s)
        entry.is_over_share = self._shares.is_over(entry.client, now_s)
        if refusal is not None:
            entry.phase = RequestPhase.FINISHED
            return refusal
        self._shares.charge(entry.client, entry.work_s(cost), now_s)
        self._waiting.append(entry)
        return None

    def refusal(self, client: str, cost: CostEstimate, now_s: float) -> Rejected | None:
        """Say why nothing of a client is taken in now; it costs no look at the request.

        The queue is full, or it is half full and the client had its share.

        Args:
            client: The reply topic of the request.
            cost: What answers take on this device.
            now_s: The time.
        """
        num_waiting = len(self._waiting)
        if num_waiting >= self.max_waiting:
            message = f"{num_waiting} requests waiting"
            retry_s = _MIN_RETRY_S
        elif num_waiting >= self.max_waiting // 2 and self._shares.is_over(client, now_s):
            message = "others are waiting, and this reply topic had its share of the device"
            retry_s = max(_MIN_RETRY_S, self._shares.wait_s(client, now_s))
        else:
            return None
        running_s = self._at(now_s, cost).next_free_slot_s()
        return Rejected(ErrorCode.QUEUE_FULL, message, retry_after_s=max(retry_s, running_s))

    def start_next(self, now_s: float, cost: CostEstimate) -> RequestState[T] | None:
        """Start the next entry: move it from WAITING to RUNNING.

        An entry whose deadline has passed is not started and stays for ``expire``.

        Returns:
            The entry; None when no slot is free, nothing waits, or the batch would break a
            promise.
        """
        entry = self._at(now_s, cost).to_start()
        if entry is not None:
            self._waiting.remove(entry)
            entry.start(now_s)
            self.running.append(entry)
        return entry

    def note_progress(self, progress: Callable[[int], tuple[int, int] | None]) -> None:
        """Update running requests from ``progress(key)``; see ``RequestState.note_progress``."""
        for entry in self.running:
            done = progress(entry.key)
            if done is not None:
                entry.note_progress(*done)

    def to_pause(self, now_s: float, cost: CostEstimate) -> RequestState[T] | None:
        """Return the running entry that must make room: for a person, or for a promise."""
        return self._at(now_s, cost).to_pause()

    def pause(self, key: int, num_generated: int) -> RequestState[T]:
        """Take a running entry back to WAITING, with ``num_generated`` tokens of its answer made.

        Raises:
            KeyError: it does not run.
        """
        entry = self.finish(key)
        entry.pause(num_generated)
        self._waiting.append(entry)
        return entry

    def drop(self, entry: RequestState[T]) -> None:
        """Remove an entry that waits, to be answered by the caller."""
        self._remove([entry])

    def in_progress(self) -> list[RequestState[T]]:
        """Return what runs, and what was interrupted and waits again."""
        waiting = [entry for entry in self._waiting if entry.num_pauses]
        return [*waiting, *self.running]

    def finish(self, key: int) -> RequestState[T]:
        """End a running entry and return it.

        Raises:
            KeyError: it does not run.
        """
        entry = next((entry for entry in self.running if entry.key == key), None)
        if entry is None:
            raise KeyError(f"{key}: this entry does not run")
        self.running.remove(entry)
        entry.phase = RequestPhase.FINISHED
        return entry

    def expire(self, now_s: float, cost: CostEstimate) -> list[RequestState[T]]:
        """Remove and return what can no longer give a token before its deadline."""
        return self._remove(
            [entry for entry in self._waiting if entry.latest_start_s(cost) <= now_s]
        )

    def next_deadline_s(self, cost: CostEstimate) -> float | None:
        """Tell when ``expire`` will next return something; None while nothing waits."""
        return min((entry.latest_start_s(cost) for entry in self._waiting), default=None)

    def cancel(self, cancel: CancelRequest) -> list[RequestState[T]]:
        """Remove every waiting match and mark the running ones; return them all.

        A match has the id or the Correlation Data. Ids are unique only to a requester, so where
        some matches have the reply topic of the cancel's sender, only those are taken.

        Returns:
            FINISHED ones, to be answered ``cancelled``; a RUNNING one with ``is_cancelled`` set, to
            be answered when it has ended.
        """
        entries = [*self._waiting, *self.running]
        matches = [entry for entry in entries if _is_target(entry.admitted.request, cancel)]
        owner = _owner(cancel.reply_to.topic)
        matches = [entry for entry in matches if _owner(entry.client) == owner] or matches
        for entry in matches:
            entry.is_cancelled = True
            if entry.phase is RequestPhase.WAITING:
                self._remove([entry])
        return matches

    def clear(self) -> list[RequestState[T]]:
        """Remove and return everything that waits, in order of arrival."""
        return self._remove(sorted(self._waiting, key=lambda entry: entry.key))

    def _remove(self, entries: list[RequestState[T]]) -> list[RequestState[T]]:
        for entry in entries:
            self._waiting.remove(entry)
            entry.phase = RequestPhase.FINISHED
        return entries


def _is_target(request: Request, cancel: CancelRequest) -> bool:
    address = request.reply_to
    by_id = cancel.target_id is not None and cancel.target_id == address.request_id
    by_data = (
        cancel.target_correlation_data is not None
        and cancel.target_correlation_data == address.correlation_data
    )
    return by_id or by_data


def _owner(topic: str) -> str:
    """Strip the operation from a mirrored reply topic: one requester's replies have one owner."""
    return topic.replace("/response/cancel", "/response/generate", 1)
