"""The bounded queue of requests, and those that run.

The most urgent class goes first as long as all admitted deadlines can be met, else the earliest
deadline. Each request that ``enter`` accepts leaves through exactly one of ``expire``, ``cancel``
and ``remove``, whose caller replies to it.
"""

from collections.abc import Mapping
from typing import Generic

from edged.errors import ErrorCode
from edged.protocol.request import CancelRequest, Rejected, Request
from edged.scheduling.admission import MIN_RETRY_S
from edged.scheduling.dispatch import DispatchState
from edged.scheduling.fair_share import FairShare
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.queued_request import RequestPhase, S
from edged.scheduling.schedulability import AdmissionTest


class Scheduler(Generic[S]):
    """Hold the queued and the running requests.

    Args:
        max_waiting: bound of the queue; paused requests return to it even beyond the bound.
        num_slots: requests that may run at the same time. It may be changed at any time; what runs
            beyond it runs to its end.
    """

    def __init__(self, max_waiting: int, num_slots: int = 1) -> None:
        self.max_waiting = max_waiting
        self.num_slots = num_slots
        self.running: list[S] = []
        """In the order of their start."""
        self._preparing: list[S] = []
        self._waiting: list[S] = []
        self._shares = FairShare()

    def __len__(self) -> int:
        """Count the queued requests: those that are prepared and those that wait."""
        return len(self._preparing) + len(self._waiting)

    def queued(self) -> list[S]:
        """Return the requests that are prepared or wait."""
        return [*self._preparing, *self._waiting]

    @property
    def is_waiting(self) -> bool:
        """Whether an admitted request waits for a slot."""
        return bool(self._waiting)

    def _at(self, now_s: float, cost: CostEstimate) -> DispatchState[S]:
        return DispatchState(now_s, cost, self.num_slots, self.running, self._waiting)

    def admission_test(self, request: Request, cost: CostEstimate, now_s: float) -> AdmissionTest:
        """Return the test whether a new request can meet its deadline along with all others."""
        return self._at(now_s, cost).admission_test(request.deadline_s)

    def enter(self, entry: S, cost: CostEstimate, now_s: float) -> Rejected | None:
        """Give a request a place in the queue while it is prepared, or refuse it as ``refusal``."""
        # The newest is refused whatever its class: an accepted request is never evicted for it.
        refusal = self.refusal(entry.client, cost, now_s)
        if refusal is None:
            entry.phase = RequestPhase.PREPARING
            self._preparing.append(entry)
        return refusal

    def admit(self, entry: S, cost: CostEstimate, now_s: float) -> None:
        """Let a prepared request wait for a slot; its client is charged for it."""
        self._preparing.remove(entry)
        entry.phase = RequestPhase.WAITING
        entry.is_over_share = self._shares.is_over(entry.client, now_s)
        self._shares.charge(entry.client, entry.commitment(cost).work_s, now_s)
        self._waiting.append(entry)

    def refusal(self, client: str, cost: CostEstimate, now_s: float) -> Rejected | None:
        """Return why every request of a client is refused now; None if it may be queued.

        The queue is full, or it is half full and the client exceeded its fair share.

        Args:
            client: the reply topic of the request.
            cost: the current estimate.
            now_s: current time.
        """
        num_waiting = len(self)
        is_full = num_waiting >= self.max_waiting
        is_half_full = num_waiting >= self.max_waiting // 2
        if not is_full and not (is_half_full and self._shares.is_over(client, now_s)):
            return None
        retry_s = max(MIN_RETRY_S, self._at(now_s, cost).next_free_slot_s())
        if is_full:
            requests = "1 request" if num_waiting == 1 else f"{num_waiting} requests"
            message = f"the queue is full: {requests} waiting"
        else:
            retry_s = max(retry_s, self._shares.wait_s(client, now_s))
            message = f"this client exceeded its fair share; retry after {retry_s:.1f} s"
        return Rejected(ErrorCode.QUEUE_FULL, message, retry_after_s=retry_s)

    def start_next(self, now_s: float, cost: CostEstimate) -> S | None:
        """Move the next request from WAITING to STARTING.

        One whose deadline has passed is left for ``expire``.

        Returns:
            The request; None if none is queued, no slot is free, or a deadline would be missed.
        """
        entry = self._at(now_s, cost).to_start()
        if entry is not None:
            self._waiting.remove(entry)
            entry.start(now_s)
            self.running.append(entry)
        return entry

    def note_progress(self, progress: Mapping[int, tuple[int, int]]) -> None:
        """Update running requests by their keys; see ``QueuedRequest.note_progress``."""
        for entry in self.running:
            if entry.key in progress:
                entry.note_progress(*progress[entry.key])

    def to_pause(self, now_s: float, cost: CostEstimate) -> S | None:
        """Return the running request to pause: for a person, or to meet a deadline."""
        return self._at(now_s, cost).to_pause()

    def pause(self, entry: S, num_generated: int) -> None:
        """Move a running request back to WAITING, with so many tokens of its answer."""
        self.running.remove(entry)
        entry.pause(num_generated)
        self._waiting.append(entry)

    def running_request(self, key: int) -> S | None:
        """Return the running request with this key; None if there is none."""
        return next((entry for entry in self.running if entry.key == key), None)

    def expire(self, now_s: float, cost: CostEstimate) -> list[S]:
        """Remove and return the requests that can give no token before their deadline."""
        expired = [entry for entry in self._unstarted() if entry.latest_start_s(cost) <= now_s]
        for entry in expired:
            self.remove(entry)
        return expired

    def next_deadline_s(self, cost: CostEstimate) -> float | None:
        """Return when ``expire`` will next return a request; None if all have started."""
        return min((entry.latest_start_s(cost) for entry in self._unstarted()), default=None)

    def _unstarted(self) -> list[S]:
        # A disk may take long to sync the journal, or for ever: a start that waits for it can
        # still expire or be cancelled.
        starting = (entry for entry in self.running if entry.phase is RequestPhase.STARTING)
        return [*self.queued(), *starting]

    def cancel(self, cancel: CancelRequest) -> list[S]:
        """Remove the matches that have not started, mark the running ones, and return them all.

        A match has the id or the Correlation Data. Ids are unique only to a requester, so if some
        matches have the reply topic of the cancel's sender, only those are taken.

        Returns:
            FINISHED requests, to be answered ``cancelled``; RUNNING ones with ``is_cancelled`` set,
            to be answered when they have ended.
        """
        entries = [*self.queued(), *self.running]
        unstarted = self._unstarted()
        matches = [entry for entry in entries if _is_target(entry.request, cancel)]
        owner = _owner(cancel.reply_to.topic)
        matches = [entry for entry in matches if _owner(entry.client) == owner] or matches
        for entry in matches:
            entry.is_cancelled = True
            if entry in unstarted:
                self.remove(entry)
        return matches

    def remove(self, entry: S) -> None:
        """Remove a request that has ended."""
        for entries in (self._preparing, self._waiting, self.running):
            if entry in entries:
                entries.remove(entry)
        entry.phase = RequestPhase.FINISHED


def _is_target(request: Request, cancel: CancelRequest) -> bool:
    target, address = cancel.reply_to, request.reply_to
    has_id = target.request_id is not None and target.request_id == address.request_id
    data = target.correlation_data
    return has_id or (data is not None and data == address.correlation_data)


def _owner(topic: str) -> str:
    """Return a reply topic without its operation: one requester's replies have one owner."""
    return topic.replace("/response/cancel", "/response/generate", 1)
