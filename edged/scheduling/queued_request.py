"""A request in the scheduler: its phase, its progress, and what that means for the schedule."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from edged.protocol.request import Client, Priority, Request
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.schedulability import Commitment, Work

# Background requests that have waited this long count as normal, never as interactive. They cannot
# be starved by people either: each is started while its deadline can still be met.
PROMOTE_AFTER_S = 10.0
# The class of a request counts until its client was served so much more than another that waits.
MAX_AHEAD_S = 10.0
# An answer with less time left is not paused.
MIN_GAIN_S = 0.25
# Pauses of one request at most: after each one its prompt may be computed again.
MAX_PAUSES = 2

NOBODY = Client(None)


class RequestPhase(Enum):
    """How far a request is, in this order; a pause leads from RUNNING back to WAITING."""

    ARRIVED = "arrived"
    """Delivered, and not decoded yet."""
    PREPARING = "preparing"
    """Decoded; its prompt is tokenized and its format compiled."""
    WAITING = "waiting"
    """Admitted, and waiting for a slot of the engine."""
    STARTING = "starting"
    """It has a slot, and its start is written to the crash journal."""
    RUNNING = "running"
    ESCALATED = "escalated"
    """It has run, and waits for what another node says."""
    FINISHED = "finished"
    """It has its outcome; its reply may not be confirmed yet."""


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One execution of a request."""

    key: int
    """Unique in a scheduler's life, and rising with arrival."""
    request: Request
    queued_s: float
    """When it arrived, on the clock of the request's deadline."""
    num_prompt_tokens: int = 0
    """Known once it is prepared."""
    max_tokens: int = 0
    """As admitted: the request's own, or fewer."""
    phase: RequestPhase = RequestPhase.ARRIVED
    is_cancelled: bool = False
    """While it starts or runs: the answer must end at the next token."""
    payer: Client = NOBODY
    """Whose share it counts against; see ``FairShare``. Known from when it enters the queue."""
    rise_s: float = 0.0
    """By how much its promise raised the level of its payer."""
    wanted_s: float = 0.0
    """How long it takes alone: for so long a one, time is kept once this one has ended. 0 if it has
    no time to spare, or could not be answered in any case."""
    num_prefilled: int = 0
    """Tokens of the prompt, and of the answer before a pause, that are in the KV cache, whether
    computed or reused; 0 while it waits."""
    num_generated: int = 0
    """Tokens of the answer, those before a pause included."""
    num_generated_before: int = 0
    """Those of them from before the last start."""
    num_pauses: int = 0

    def __repr__(self) -> str:
        """Describe it for a log or a debugger, without a word of the prompt."""
        return (
            f"request {self.key}: {self.phase.value}, {self.num_prefilled} tokens prefilled,"
            f" {self.num_generated} of {self.max_tokens} generated, paused {self.num_pauses} times"
        )

    @property
    def client(self) -> Client:
        """Who asked."""
        return self.request.reply_to.client

    @property
    def deadline_s(self) -> float:
        """The request's deadline, on the clock of its receipt."""
        return self.request.deadline_s

    def is_worth_pausing(self, cost: CostEstimate, now_s: float) -> bool:
        """Return whether it may be paused and the others gain by it."""
        if self.is_cancelled or self.num_pauses >= MAX_PAUSES:
            return False
        return self.remaining_s(cost, now_s) >= MIN_GAIN_S

    def start(self) -> None:
        """Go from WAITING to STARTING."""
        self.phase = RequestPhase.STARTING
        self.num_generated_before, self.num_prefilled = self.num_generated, 0

    def pause(self, num_generated: int) -> None:
        """Go back from RUNNING to WAITING, with so many tokens of the answer."""
        self.phase = RequestPhase.WAITING
        self.num_prefilled, self.num_generated = 0, num_generated
        self.num_pauses += 1

    def full_work(self) -> Work:
        """Return the work of a start: prefill of the prompt and the answer so far, and the rest."""
        context = self.num_prompt_tokens + self.num_generated
        return Work.of(context, self.max_tokens - self.num_generated, self.deadline_s)

    def remaining_work(self) -> Work:
        """Return the work that remains of a running request, by the last progress."""
        # A cancelled one ends with the run that has begun.
        num_left = 1 if self.is_cancelled else self.max_tokens - self.num_generated
        if self.num_generated > self.num_generated_before:
            context = self.num_prompt_tokens + self.num_generated - 1
            return Work(0, num_left, context, self.deadline_s)
        context = self.num_prompt_tokens + self.num_generated_before
        num_ready = min(self.num_prefilled, context)
        return Work(context - num_ready, max(num_left - 1, 0), num_ready, self.deadline_s)

    def remaining_s(self, cost: CostEstimate, now_s: float) -> float:
        """Predict the remaining work of a running request outside of a batch, with the margin."""
        left_s = cost.margin * self.remaining_work().alone_s(cost)
        return min(left_s, max(self.deadline_s - now_s, 0.0))  # it is stopped at its deadline

    def commitment(self, cost: CostEstimate) -> Commitment:
        """Return the engine time that it needs from a start to its end, and its deadline."""
        return Commitment(self.deadline_s, cost.margin * self.full_work().alone_s(cost))

    def latest_start_s(self, cost: CostEstimate) -> float:
        """Return the last time at which a start gives a token before the deadline."""
        return self.deadline_s - cost.prefill_s(self.num_prompt_tokens + self.num_generated)

    def effective_priority(self, now_s: float, ahead_s: float = 0.0) -> int:
        """Return its class, promoted after a long wait.

        ``ahead_s`` is by how much its client was served more than another one that waits.
        """
        priority = int(self.request.priority)
        if ahead_s > MAX_AHEAD_S:
            return Priority.BACKGROUND
        if priority > Priority.NORMAL and now_s - self.queued_s >= PROMOTE_AFTER_S:
            priority -= 1
        return priority

    def rank(self, now_s: float, ahead_s: float = 0.0) -> tuple[int, bool, float, float, int]:
        """Return the sort key of urgency: class, running first, client, deadline, arrival.

        The client that was served least goes first; ``ahead_s`` is how much more this one was.
        """
        is_waiting = self.phase is RequestPhase.WAITING
        priority = self.effective_priority(now_s, ahead_s)
        return priority, is_waiting, ahead_s, self.deadline_s, self.key


# What a scheduler holds: its caller's own record of a request.
S = TypeVar("S", bound=QueuedRequest)
