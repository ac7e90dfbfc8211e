"""The bounded queue of requests, and those that run.

The most urgent class goes first as long as all admitted deadlines can be met, else the earliest
deadline. Each request that ``enter`` accepts leaves through exactly one of ``expire``, ``cancel``
and ``remove``, whose caller replies to it.
"""

from collections.abc import Iterable, Mapping
from typing import Generic

from edged.errors import ErrorCode
from edged.protocol.request import CancelRequest, Client, Rejected, ReplyAddress, Request
from edged.scheduling.admission import MIN_RETRY_S
from edged.scheduling.dispatch import DispatchState
from edged.scheduling.fair_share import FairShare
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.queued_request import RequestPhase, S


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

    def at(self, now_s: float, cost: CostEstimate) -> DispatchState[S]:
        """Return the queued and running requests, to decide on; it holds until the next change."""
        return DispatchState(now_s, cost, self.num_slots, self.running, self._waiting)

    def enter(self, entry: S, cost: CostEstimate, now_s: float) -> Rejected | None:
        """Give a request a place in the queue while it is prepared, or refuse it."""
        # The newest is refused whatever its class: an accepted request is never evicted for it.
        refusal = self._refusal(entry.client, cost, now_s)
        if refusal is None:
            entry.phase = RequestPhase.PREPARING
            self._preparing.append(entry)
        return refusal

    def admit(self, entry: S, cost: CostEstimate, now_s: float) -> None:
        """Let a prepared request wait for a slot; its client is charged for it."""
        self._preparing.remove(entry)
        entry.phase = RequestPhase.WAITING
        entry.is_over_share = self._shares.wait_s(entry.client, now_s) > 0
        self._shares.charge(entry.client, entry.commitment(cost).work_s, now_s)
        self._waiting.append(entry)

    def _refusal(self, client: Client, cost: CostEstimate, now_s: float) -> Rejected | None:
        """Refuse a client if the queue is full, or half full and its fair share exceeded."""
        num_waiting = len(self)
        is_full = num_waiting >= self.max_waiting
        is_half_full = num_waiting >= self.max_waiting // 2
        if not is_full and not (is_half_full and self._shares.wait_s(client, now_s) > 0):
            return None
        retry_s = max(MIN_RETRY_S, self.at(now_s, cost).next_free_slot_s())
        if is_full:
            requests = "1 request" if num_waiting == 1 else f"{num_waiting} requests"
            message = f"the queue is full: {requests} waiting"
        else:
            retry_s = max(retry_s, self._shares.wait_s(client, now_s))
            message = f"this client exceeded its fair share; retry after {retry_s:.1f} s"
        return Rejected(ErrorCode.QUEUE_FULL, message, retry_after_s=retry_s)

    def start(self, entry: S) -> None:
        """Move a request from WAITING to STARTING."""
        self._waiting.remove(entry)
        entry.start()
        self.running.append(entry)

    def note_progress(self, progress: Mapping[int, tuple[int, int]]) -> None:
        """Update the tokens prefilled and generated of running requests, by their keys."""
        for entry in self.running:
            if entry.key in progress:
                entry.num_prefilled, entry.num_generated = progress[entry.key]

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

    def cancel(self, cancel: CancelRequest, elsewhere: Iterable[S] = ()) -> list[S]:
        """Remove the matches that have not started, mark the running ones, and return them all.

        A match has the id or the Correlation Data, and is the sender's own. Senders without an
        account are told apart by their reply topics only where several of them have a match. Those
        ``elsewhere`` have left the schedule and have no reply yet.

        Returns:
            FINISHED requests, to be answered ``cancelled``; RUNNING ones with ``is_cancelled`` set,
            to be answered when they have ended.
        """
        entries = [*self.queued(), *self.running, *elsewhere]
        matches = [entry for entry in entries if _is_target(entry.request, cancel)]
        owner = _owner(cancel.reply_to)
        matches = [it for it in matches if _owner(it.request.reply_to) == owner] or matches
        for entry in matches:
            entry.is_cancelled = True
            if entry.phase is not RequestPhase.RUNNING:
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
    if target.user != address.user:
        return False
    has_id = target.request_id is not None and target.request_id == address.request_id
    data = target.correlation_data
    return has_id or (data is not None and data == address.correlation_data)


def _owner(address: ReplyAddress) -> Client:
    """Return the client, with a reply topic without its operation."""
    user, topic = address.client
    return Client(user, topic.replace("/response/cancel", "/response/generate", 1))
