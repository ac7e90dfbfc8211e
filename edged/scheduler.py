"""A bounded queue of admitted requests: priority classes, deadlines, cancel.

Rule: no clock, no silence. Each entry that ``add`` accepts leaves through exactly one of
``finish``, ``expire``, ``cancel`` and ``clear``, and the caller answers what it is handed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from edged.admission import Admitted, Speed
from edged.errors import ErrorCode
from edged.request import CancelRequest, Priority, Rejected

D = TypeVar("D")

PROMOTE_AFTER_S = 10.0
"""A waiting entry rises one class each time it has waited this long, so that no class starves."""

_MIN_RETRY_S = 0.1


class EntryState(Enum):
    """Where an entry is in its life; it only moves down this list."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Entry(Generic[D]):
    """One admitted request on its way; ``delivery`` is the caller's, to answer it by."""

    key: int
    """Unique among all entries of a scheduler's life, and rising with arrival."""
    admitted: Admitted
    prompt_ids: Sequence[int]
    delivery: D
    queued_s: float
    """When it was added, on the clock of the request's deadline."""
    state: EntryState = EntryState.WAITING
    is_cancelled: bool = False
    """While RUNNING: the answer must end at the next token."""
    started_s: float | None = None
    """When it began to run; None before."""

    @property
    def deadline_s(self) -> float:
        """The request's deadline, on the clock of its receipt."""
        return self.admitted.request.deadline_s

    def latest_start_s(self, speed: Speed) -> float:
        """Tell the last time at which a start still gives a first token before the deadline."""
        return self.deadline_s - speed.first_token_s(self.admitted.num_prompt_tokens)

    def remaining_s(self, speed: Speed, now_s: float) -> float:
        """Predict the work left in it; it stops at its deadline at the latest."""
        admitted = self.admitted
        whole_s = speed.service_s(admitted.num_prompt_tokens, admitted.max_tokens)
        if self.started_s is None:
            return whole_s
        end_s = min(self.started_s + whole_s, self.deadline_s)
        return max(end_s - now_s, 0.0)

    def rank(self, now_s: float) -> tuple[int, float, int]:
        """Give its place in the order: class with promotion, earliest deadline, arrival."""
        promotions = int(max(now_s - self.queued_s, 0.0) // PROMOTE_AFTER_S)
        return max(self.admitted.request.priority - promotions, 0), self.deadline_s, self.key


class Scheduler(Generic[D]):
    """Hold what waits and the one entry that runs.

    Attributes:
        max_waiting: entries that may wait; one more may run.
        running: the entry that runs, if any.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self.running: Entry[D] | None = None
        self._waiting: list[Entry[D]] = []

    def __len__(self) -> int:
        """Count what waits; the running entry is not among it."""
        return len(self._waiting)

    def add(self, entry: Entry[D], speed: Speed, now_s: float) -> Rejected | None:
        """Let an entry wait, or refuse it when the queue is full.

        The newest is refused whatever its class: what was accepted is never thrown out for it.
        """
        if len(self._waiting) < self.max_waiting:
            self._waiting.append(entry)
            return None
        entry.state = EntryState.FINISHED
        running_s = self.running.remaining_s(speed, now_s) if self.running else 0.0
        return Rejected(
            ErrorCode.QUEUE_FULL,
            f"{len(self._waiting)} requests waiting",
            retry_after_s=max(running_s, _MIN_RETRY_S),
        )

    def pop(self, now_s: float) -> Entry[D] | None:
        """Start the next entry: move it from WAITING to RUNNING.

        An entry whose deadline has passed is not started and stays for ``expire``.

        Raises:
            RuntimeError: an entry is running already.
        """
        if self.running is not None:
            raise RuntimeError("finish() the running entry before pop()")
        live = [entry for entry in self._waiting if entry.deadline_s > now_s]
        if not live:
            return None
        entry = min(live, key=lambda item: item.rank(now_s))
        self._waiting.remove(entry)
        entry.state, entry.started_s = EntryState.RUNNING, now_s
        self.running = entry
        return entry

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

    def expire(self, now_s: float, speed: Speed) -> list[Entry[D]]:
        """Remove and return what can no longer give a first token before its deadline."""
        return self._remove(
            [entry for entry in self._waiting if entry.latest_start_s(speed) <= now_s]
        )

    def next_deadline_s(self, speed: Speed) -> float | None:
        """Tell when ``expire`` will next return something; None while nothing waits."""
        return min((entry.latest_start_s(speed) for entry in self._waiting), default=None)

    def cancel(self, cancel: CancelRequest) -> list[Entry[D]]:
        """Remove every waiting match and mark the running one; return them all.

        A match has the id or the Correlation Data. Ids are unique only to a requester, so where
        some matches have the reply topic of the cancel's sender, only those are taken.

        Returns:
            Waiting ones now FINISHED, to be answered ``cancelled``; a RUNNING one with
            ``is_cancelled`` set, to be answered when it has ended.
        """
        entries = [*self._waiting, *([self.running] if self.running else [])]
        matches = [entry for entry in entries if _is_target(entry, cancel)]
        owner = _owner(cancel.reply_to.topic)
        own = [e for e in matches if _owner(e.admitted.request.reply_to.topic) == owner]
        matches = own or matches
        for entry in matches:
            entry.is_cancelled = True
        self._remove([entry for entry in matches if entry.state is EntryState.WAITING])
        return matches

    def clear(self) -> list[Entry[D]]:
        """Remove and return everything that waits, in order of arrival."""
        return self._remove(list(self._waiting))

    def backlog_s(self, speed: Speed, now_s: float, priority: Priority, deadline_s: float) -> float:
        """Predict when the engine is free for a new entry: what runs, and what goes before it."""
        rank = (priority, deadline_s)
        ahead = [entry for entry in self._waiting if entry.rank(now_s)[:2] <= rank]
        if self.running is not None:
            ahead.append(self.running)
        return sum(entry.remaining_s(speed, now_s) for entry in ahead)

    def _remove(self, entries: list[Entry[D]]) -> list[Entry[D]]:
        for entry in entries:
            self._waiting.remove(entry)
            entry.state = EntryState.FINISHED
        return entries


def _is_target(entry: Entry[D], cancel: CancelRequest) -> bool:
    address = entry.admitted.request.reply_to
    by_id = cancel.target_id is not None and cancel.target_id == address.request_id
    by_data = (
        cancel.target_correlation_data is not None
        and cancel.target_correlation_data == address.correlation_data
    )
    return by_id or by_data


def _owner(topic: str) -> str:
    """Strip the operation from a mirrored reply topic: one requester's replies have one owner."""
    return topic.replace("/response/cancel", "/response/generate", 1)
