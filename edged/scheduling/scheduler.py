"""The bounded queue of requests, and those that run.

The most urgent class goes first as long as all admitted deadlines can be met, and in it the client
that was served least; else the earliest deadline. Each request that ``enter`` accepts leaves
through exactly one of ``expire``, ``cancel`` and ``remove``, whose caller replies to it.
"""

from collections.abc import Iterable, Mapping
from typing import Generic

from edged.errors import ErrorCode
from edged.protocol.request import CancelRequest, Client, Priority, Rejected, ReplyAddress, Request
from edged.scheduling.admission import MIN_RETRY_S
from edged.scheduling.dispatch import DispatchState
from edged.scheduling.fair_share import FairShare, Part, ShareTerms
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.queued_request import RequestPhase, S
from edged.scheduling.schedulability import AdmissionTest, Reserve, Share, Work

# The last places of the queue, or a quarter of it, or half of it in the background, are not for a
# client that has its share of it while others are active.
KEPT_PLACES = 2
_DEFAULT_TERMS = ShareTerms()


class Scheduler(Generic[S]):
    """Hold the queued and the running requests.

    Args:
        max_waiting: bound of the queue; paused requests return to it even beyond the bound, and one
            place more is for a client that has none.
        num_slots: requests that may run at the same time. It may be changed at any time; what runs
            beyond it runs to its end.
        terms: how clients share the device.
    """

    def __init__(
        self, max_waiting: int, num_slots: int = 1, terms: ShareTerms = _DEFAULT_TERMS
    ) -> None:
        self.max_waiting = max_waiting
        self.num_slots = num_slots
        self.running: list[S] = []
        """In the order of their start."""
        self._preparing: list[S] = []
        self._waiting: list[S] = []
        self._lend_s = terms.lend_s
        self._shares = FairShare(terms.weights, is_identity_required=terms.is_identity_required)

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
        payers = {entry.payer for entry in (*self.queued(), *self.running)}
        waiting_s = self._waiting_s()
        levels_s = {it: self._shares.level_s(it) - waiting_s.get(it, 0.0) for it in payers}
        return DispatchState(now_s, cost, self.num_slots, self.running, self._waiting, levels_s)

    def _waiting_s(self) -> dict[Client, float]:
        """Return by how much promises that have not begun raised the levels of their clients."""
        waiting_s: dict[Client, float] = {}
        for entry in self._waiting:
            if not entry.num_pauses:
                waiting_s[entry.payer] = waiting_s.get(entry.payer, 0.0) + entry.rise_s
        return waiting_s

    def enter(self, entry: S, cost: CostEstimate, now_s: float) -> Rejected | None:
        """Give a request a place in the queue while it is prepared, or refuse it."""
        if not (self.queued() or self.running):
            self._shares.restart()
        entry.payer = self._shares.ask(entry.client, self._waiting_s(), now_s)
        for other in (*self.queued(), *self.running):
            if other.client == entry.client != other.payer:  # it was a newcomer then
                other.payer, other.rise_s = entry.payer, 0.0
        # The newest is refused whatever its class: an accepted request is never evicted for it.
        refusal = self._refusal(entry, cost, now_s)
        if refusal is None:
            entry.phase = RequestPhase.PREPARING
            self._preparing.append(entry)
        return refusal

    def admit(self, entry: S, cost: CostEstimate, now_s: float) -> None:
        """Let a prepared request wait for a slot; its client is charged for it."""
        self._preparing.remove(entry)
        entry.phase = RequestPhase.WAITING
        work_s = entry.commitment(cost).work_s
        entry.rise_s = self._shares.charge(entry.payer, work_s, now_s)
        self._waiting.append(entry)

    def _refusal(self, entry: S, cost: CostEstimate, now_s: float) -> Rejected | None:
        """Refuse a request if the queue is full, or its client's part of it.

        One place beyond its bound is for a client without promises, or the one promised least.
        """
        state = self.at(now_s, cost)
        part, num_waiting = self._part(entry, state), len(self)
        num_own = sum(other.payer == entry.payer for other in self.queued())
        num_free = self.max_waiting - num_waiting
        num_places = max(int(part.own * self.max_waiting), 1)
        num_undecided = sum(other.payer == entry.payer for other in self._preparing)
        has_part = num_own >= num_places and not (part.is_lowest and num_undecided < num_places)
        is_background = entry.request.priority is Priority.BACKGROUND
        num_kept = max(KEPT_PLACES, self.max_waiting // (2 if is_background else 4))
        # Not if it is alone. What is still prepared may be refused, and would be promised nothing.
        is_due = part.is_lowest and part.own < 1 and not num_undecided
        if num_free + (is_due or (part.is_least and not num_own)) <= 0:
            requests = "1 request" if num_waiting == 1 else f"{num_waiting} requests"
            message = f"the queue is full: {requests} waiting"
        elif has_part and num_free <= num_kept:
            message = (
                f"this client has its part of the queue: {num_own} of {self.max_waiting} places"
            )
        else:
            return None
        retry_s = max(MIN_RETRY_S, state.next_free_slot_s())
        return Rejected(ErrorCode.QUEUE_FULL, message, retry_after_s=retry_s)

    def admission_test(self, entry: S, cost: CostEstimate, now_s: float) -> AdmissionTest:
        """Return the test of a request that has a place in the queue."""
        state, lend_s = self.at(now_s, cost), self._lend_s
        work = Work.of(max(entry.num_prompt_tokens, 1), entry.max_tokens)
        alone_s = cost.margin * work.alone_s(cost)
        # Time is kept for those only who leave time to make room, with predictions as they are. A
        # request that leaves none runs at once or not at all, and has what the others leave.
        is_tight = entry.deadline_s - now_s < lend_s / 2 + alone_s
        entry.wanted_s = 0.0 if is_tight else alone_s
        part = self._part(entry, state, is_last=is_tight)
        if part.is_lowest:
            return state.admission_test(entry.deadline_s, is_next=True)
        promised = state.promised(entry.payer)
        # A client without promises may have one that is longer than its share, if it leaves room.
        own = part.own if promised.total_s else 1.0
        if state.waiting_behind_s(entry.payer):
            lend_s = 0.0
        room = Reserve(part.kept, lend_s, max(part.longest_s, lend_s))
        share = Share(own, Reserve(1 - own, lend_s), room, promised)
        return state.admission_test(entry.deadline_s, share)

    def _part(self, entry: S, state: DispatchState[S], *, is_last: bool = False) -> Part:
        others = (other for other in (*self.queued(), *self.running) if other is not entry)
        owed, waiting_s = {other.payer for other in others}, state.waiting_behind_s(entry.payer)
        return self._shares.part(entry.payer, owed, waiting_s, state.now_s, is_last=is_last)

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
        if entry.wanted_s and not entry.is_cancelled:
            self._shares.want(entry.payer, entry.wanted_s)
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
