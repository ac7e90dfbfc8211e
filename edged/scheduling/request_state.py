"""One admitted request on its way through the scheduler.

Rule: plain state. What it costs and where it ranks is derived, with the price list and the time
given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from edged.protocol.request import Priority
from edged.scheduling.admission import Admitted
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.schedulability import Commitment, Work

T = TypeVar("T")

PROMOTE_AFTER_S = 10.0
"""Background work that has waited this long counts as normal. It never goes before a person who
waits; that it is not starved by them is its promise: it is started while it can still be kept."""
MIN_GAIN_S = 0.25
"""An answer that is nearly done is not interrupted."""
MAX_PAUSES = 2
"""An answer is interrupted so often at most: each time costs its prompt again."""


class RequestPhase(Enum):
    """Where an entry is in its life; a pause takes it from RUNNING back to WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class RequestState(Generic[T]):
    """One execution; ``ticket`` is the caller's, to answer it by."""

    key: int
    """Unique among all entries of a scheduler's life, and rising with arrival."""
    admitted: Admitted
    prompt_ids: Sequence[int]
    ticket: T
    queued_s: float
    """When it was added, on the clock of the request's deadline."""
    phase: RequestPhase = RequestPhase.WAITING
    is_cancelled: bool = False
    """While RUNNING: the answer must end at the next token."""
    started_s: float | None = None
    """When it began to run, or went on after a pause; None while it waits."""
    is_over_share: bool = False
    """Whether its client had had its share when it came."""
    num_prefilled: int = 0
    """Tokens before the next one of the answer that are computed; 0 while it waits."""
    num_generated: int = 0
    """Tokens of the answer made."""
    num_generated_before: int = 0
    """Those of them that were made before it was started the last time."""
    num_pauses: int = 0

    @property
    def client(self) -> str:
        """Who asked, as far as a broker tells: the topic of the reply."""
        return self.admitted.request.reply_to.topic

    @property
    def deadline_s(self) -> float:
        """The request's deadline, on the clock of its receipt."""
        return self.admitted.request.deadline_s

    @property
    def is_pausable(self) -> bool:
        """Whether it may be interrupted: a seeded draw could not be taken up where it stopped."""
        sampling = self.admitted.request.sampling
        is_seeded = sampling.seed is not None and sampling.temperature > 0
        return not is_seeded and not self.is_cancelled and self.num_pauses < MAX_PAUSES

    def is_worth_pausing(self, cost: CostEstimate, now_s: float) -> bool:
        """Tell whether it may be interrupted and somebody gains by it."""
        return self.is_pausable and self.remaining_s(cost, now_s) >= MIN_GAIN_S

    def start(self, now_s: float) -> None:
        """Take it from WAITING to RUNNING."""
        self.phase, self.started_s = RequestPhase.RUNNING, now_s
        self.num_generated_before, self.num_prefilled = self.num_generated, 0

    def note_progress(self, num_prefilled: int, num_generated: int) -> None:
        """Note how far the engine is with it.

        Args:
            num_prefilled: tokens of the prompt, and of the answer before a pause, that are in the
                KV cache, whether they were computed or found there.
            num_generated: tokens of the answer made, those before a pause included.
        """
        self.num_prefilled, self.num_generated = num_prefilled, num_generated

    def pause(self, num_generated: int) -> None:
        """Take it back to WAITING, with so many tokens of its answer made."""
        self.phase, self.started_s = RequestPhase.WAITING, None
        self.num_prefilled, self.num_generated = 0, num_generated
        self.num_pauses += 1

    def full_work(self) -> Work:
        """Return the work of a start: the prompt, the answer so far once more, and the rest."""
        context = self.admitted.num_prompt_tokens + self.num_generated
        return Work.of(context, self.admitted.max_tokens - self.num_generated)

    def remaining_work(self) -> Work:
        """Return the work that is left."""
        if self.started_s is None:
            return self.full_work()
        num_left = self.admitted.max_tokens - self.num_generated
        if self.num_generated > self.num_generated_before:
            return Work(0, num_left, self.admitted.num_prompt_tokens + self.num_generated - 1)
        context = self.admitted.num_prompt_tokens + self.num_generated_before
        num_ready = min(self.num_prefilled, context)
        return Work(context - num_ready, max(num_left - 1, 0), num_ready)

    def work_s(self, cost: CostEstimate) -> float:
        """Predict the work from a start to its end, with the margin of a promise."""
        return cost.margin * self.full_work().alone_s(cost)

    def remaining_s(self, cost: CostEstimate, now_s: float) -> float:
        """Predict the work left in it, alone; once started, it stops at its deadline."""
        left_s = cost.margin * self.remaining_work().alone_s(cost)
        if self.started_s is None:
            return left_s
        return min(left_s, max(self.deadline_s - now_s, 0.0))

    def commitment(self, cost: CostEstimate) -> Commitment:
        """Return what it holds of the engine while it waits; for a running one, if interrupted."""
        return Commitment(self.deadline_s, self.work_s(cost))

    def latest_start_s(self, cost: CostEstimate) -> float:
        """Tell the last time at which a start still gives a token before the deadline."""
        return self.deadline_s - cost.first_token_s(
            self.admitted.num_prompt_tokens + self.num_generated
        )

    def effective_priority(self, now_s: float) -> int:
        """Give its class, with promotion, and below its own while its client is over its share."""
        level = int(self.admitted.request.priority)
        if level > Priority.NORMAL and now_s - self.queued_s >= PROMOTE_AFTER_S:
            level -= 1
        return level + self.is_over_share

    def rank(self, now_s: float) -> tuple[int, bool, float, int]:
        """Give its place in the order: class, running, deadline, arrival."""
        return (
            self.effective_priority(now_s),
            self.phase is RequestPhase.WAITING,
            self.deadline_s,
            self.key,
        )
