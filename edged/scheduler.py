"""A bounded queue of promises: classes, deadlines, fair shares, cancel, interruption.

Rule: no clock, no silence. Each entry that ``add`` accepts leaves through exactly one of
``finish``, ``expire``, ``cancel`` and ``clear``, and the caller answers what it is handed.
The order is that of classes as long as every promise can still be kept, else that of deadlines.
"""

from typing import Generic

from edged.admission import RESERVE
from edged.costmodel import Cost
from edged.entries import MAX_RIDERS, D, Entry, EntryState, Rider, can_share
from edged.errors import ErrorCode
from edged.fairshare import FairShare
from edged.promises import Timetable
from edged.request import CancelRequest, Rejected, Request

__all__ = ["Entry", "EntryState", "Rider", "Scheduler"]

_MIN_RETRY_S = 0.1
_MIN_GAIN_S = 0.25
"""An answer that is nearly done is not interrupted."""


class Scheduler(Generic[D]):
    """Hold what waits and the one entry that runs.

    Attributes:
        max_waiting: entries that may wait; one more may run, and one that was interrupted for it
            may wait beyond the bound.
        running: the entry that runs, if any.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self.running: Entry[D] | None = None
        self._waiting: list[Entry[D]] = []
        self._shares = FairShare()

    def __len__(self) -> int:
        """Count what waits; the running entry is not among it."""
        return len(self._waiting)

    def timetable(self, request: Request, cost: Cost, now_s: float) -> Timetable:
        """Return all that is promised, as it concerns a new request.

        What runs comes before it, or is interrupted for it if that is possible.
        """
        promises = [entry.promise(cost, now_s) for entry in self._waiting]
        running = self.running
        if running is None:
            return Timetable(now_s, promises)
        first = running.admitted.request
        is_urgent = request.priority < first.priority or request.deadline_s < first.deadline_s
        if is_urgent and running.is_pausable:
            return Timetable(now_s, [*promises, running.promise(cost, now_s)])
        return Timetable(now_s, promises, head_s=running.remaining_s(cost, now_s))

    def join(self, request: Request, delivery: D) -> bool:
        """Let background work ride with an entry that makes the very same answer.

        Returns:
            Whether there was one; the request is then one of its ``members``.
        """
        entries = [*self._waiting, *([self.running] if self.running else [])]
        if sum(len(entry.riders) for entry in entries) >= MAX_RIDERS:
            return False
        for entry in entries:
            if can_share(entry, request):
                entry.riders.append(Rider(request, delivery))
                return True
        return False

    def add(self, entry: Entry[D], cost: Cost, now_s: float) -> Rejected | None:
        """Let an entry wait, or refuse it: the queue is full, or half full and its share used.

        The newest is refused whatever its class: what was accepted is never thrown out for it.
        """
        entry.is_over_share = self._shares.is_over(entry.client, now_s)
        refusal = self._refusal(entry, cost, now_s)
        if refusal is not None:
            entry.state = EntryState.FINISHED
            return refusal
        self._shares.charge(entry.client, entry.work_s(cost), now_s)
        self._waiting.append(entry)
        return None

    def _refusal(self, entry: Entry[D], cost: Cost, now_s: float) -> Rejected | None:
        num_waiting = len(self._waiting)
        running_s = self.running.remaining_s(cost, now_s) if self.running else 0.0
        if num_waiting >= self.max_waiting:
            message = f"{num_waiting} requests waiting"
            retry_s = running_s
        elif entry.is_over_share and num_waiting >= self.max_waiting // 2:
            message = "others are waiting, and this reply topic had its share of the device"
            retry_s = max(running_s, self._shares.wait_s(entry.client, now_s))
        else:
            return None
        return Rejected(ErrorCode.QUEUE_FULL, message, retry_after_s=max(retry_s, _MIN_RETRY_S))

    def pop(self, now_s: float, cost: Cost) -> Entry[D] | None:
        """Start the next entry: move it from WAITING to RUNNING.

        An entry whose deadline has passed is not started and stays for ``expire``.

        Raises:
            RuntimeError: an entry is running already.
        """
        if self.running is not None:
            raise RuntimeError("finish() the running entry before pop()")
        entry = self._choose(now_s, cost)
        if entry is None:
            return None
        self._waiting.remove(entry)
        entry.state, entry.started_s = EntryState.RUNNING, now_s
        self.running = entry
        return entry

    def _choose(self, now_s: float, cost: Cost) -> Entry[D] | None:
        """Return the most urgent entry that can go first without breaking a promise."""
        live = [entry for entry in self._waiting if entry.deadline_s > now_s]
        if self.running is not None:
            live.append(self.running)
        live.sort(key=lambda entry: entry.rank(now_s))
        for entry in live:
            rest = Timetable(now_s, (o.promise(cost, now_s) for o in live if o is not entry))
            # What is less urgent must not use up the slack that a person will need.
            reserve = RESERVE[entry.admitted.request.priority]
            if entry.remaining_s(cost, now_s) <= rest.slack_s(reserve):
                return entry
        return min(live, key=lambda entry: (entry.deadline_s, entry.key), default=None)

    def should_pause(self, now_s: float, cost: Cost) -> bool:
        """Tell whether the running entry must make room: for a higher class, or for a promise."""
        running = self.running
        if running is None or not running.is_pausable or not self._waiting:
            return False
        if running.remaining_s(cost, now_s) < _MIN_GAIN_S:
            return False
        return self._choose(now_s, cost) is not running

    def pause(self, num_done: int) -> Entry[D]:
        """Take the running entry back to WAITING, with ``num_done`` tokens of its answer made.

        Raises:
            RuntimeError: nothing is running.
        """
        entry = self.finish()
        entry.state, entry.started_s = EntryState.WAITING, None
        entry.num_done, entry.num_pauses = num_done, entry.num_pauses + 1
        self._waiting.append(entry)
        return entry

    def drop(self, entry: Entry[D]) -> None:
        """Remove an entry that waits, to be answered by the caller."""
        self._remove([entry])

    def begun(self) -> list[Entry[D]]:
        """Return what runs, and what was interrupted and waits again."""
        waiting = [entry for entry in self._waiting if entry.num_pauses]
        return waiting if self.running is None else [*waiting, self.running]

    def finish(self) -> Entry[D]:
        """End the running entry and return it.

        Raises:
            RuntimeError: nothing is running.
        """
        if self.running is None:
            raise RuntimeError("nothing is running")
        entry, self.running = self.running, None
        entry.state = EntryState.FINISHED
        return entry

    def expire(self, now_s: float, cost: Cost) -> list[Entry[D]]:
        """Remove and return what can no longer give a token before its deadline."""
        return self._remove(
            [entry for entry in self._waiting if entry.latest_start_s(cost) <= now_s]
        )

    def next_deadline_s(self, cost: Cost) -> float | None:
        """Tell when ``expire`` will next return something; None while nothing waits."""
        return min((entry.latest_start_s(cost) for entry in self._waiting), default=None)

    def cancel(self, cancel: CancelRequest) -> list[Entry[D]]:
        """Remove every waiting match and mark the running one; return them all.

        A match has the id or the Correlation Data. Ids are unique only to a requester, so where
        some matches have the reply topic of the cancel's sender, only those are taken. One of
        several requests that share an execution is taken out of it, and the others stay.

        Returns:
            FINISHED ones, to be answered ``cancelled``; a RUNNING one with ``is_cancelled`` set, to
            be answered when it has ended.
        """
        entries = [*self._waiting, *([self.running] if self.running else [])]
        matches = [
            (entry, member)
            for entry in entries
            for member in entry.members()
            if _is_target(member.request, cancel)
        ]
        owner = _owner(cancel.reply_to.topic)
        own = [m for m in matches if _owner(m[1].request.reply_to.topic) == owner]
        return [self._cancel_one(entry, member) for entry, member in own or matches]

    def _cancel_one(self, entry: Entry[D], member: Rider[D]) -> Entry[D]:
        if entry.riders:
            return entry.detach(member)
        entry.is_cancelled = True
        if entry.state is EntryState.WAITING:
            self._remove([entry])
        return entry

    def clear(self) -> list[Entry[D]]:
        """Remove and return everything that waits, in order of arrival."""
        return self._remove(sorted(self._waiting, key=lambda entry: entry.key))

    def _remove(self, entries: list[Entry[D]]) -> list[Entry[D]]:
        for entry in entries:
            self._waiting.remove(entry)
            entry.state = EntryState.FINISHED
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
