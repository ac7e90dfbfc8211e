"""What a request needs, and whether it is taken in: tokens, format, memory, deadline.

Rule: everything that can be refused is refused here, before it costs the engine anything; and what
can be refused without a look at the content, before the content costs anything.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from edged.engine.generation import Generation
from edged.engine.grammar import FormatError
from edged.engine.steps import Constraint
from edged.engine.tokenizer import TemplateError
from edged.errors import ErrorCode
from edged.node.ledger import Reservation
from edged.node.memory_guard import INTERVAL_S, MemoryGuard, Sheddable
from edged.node.ports import Edges, Limits
from edged.node.replies import Ticket
from edged.node.sessions import Dialogues, OpenTurn
from edged.node.throttling import DeviceReading, Strain
from edged.protocol.request import Answer, Priority, Rejected, Request, SessionState
from edged.scheduling.admission import Admitted, Resources, admit, refuse_early
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.schedulability import AdmissionTest

_STRAIN_RETRY_S = 30.0
"""Devices cool down and charge slowly."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that is taken in, ready for the queue."""

    admitted: Admitted
    prompt_ids: Sequence[int]
    constraint: Constraint | None
    turn: OpenTurn | None
    held: Reservation


@dataclass(slots=True, eq=False)
class Pending:
    """What an entry of the scheduler carries for its reply."""

    ticket: Ticket
    constraint: Constraint | None = None
    attempt: int = 1
    run: Generation | None = None
    """Its answer so far, while it is interrupted."""
    turn: OpenTurn | None = None
    """Its place in a dialogue."""
    held: Reservation | None = None
    """Its part of the memory."""
    is_suspect: bool = False
    """Whether the process ended before while it was answered: it runs alone now."""

    def accept(self, decision: Accepted) -> None:
        """Take over what was decided."""
        self.constraint, self.turn = decision.constraint, decision.turn
        self.held = decision.held

    def release(self, rejected: Rejected | None) -> Rejected | None:
        """Give its memory back when it is rejected; return the rejection as it came."""
        if rejected is not None:
            self.end()
        return rejected

    def end(self) -> None:
        """Give its memory back."""
        if self.held is not None:
            self.held.release()


class Intake:
    """Decide about requests one by one.

    Args:
        edges: The language of the model, and memory.
        limits: Budget and context.
    """

    def __init__(self, edges: Edges, limits: Limits) -> None:
        self._edges = edges
        self._limits = limits
        self._dialogues = Dialogues(limits.sessions)
        sheddable = Sheddable(edges.worker.release, self._forget_sessions)
        self.guard = MemoryGuard(edges, limits, sheddable)
        self._spared = Strain(limits.strain)
        self._device, self._device_read_s = DeviceReading(), float("-inf")

    @property
    def num_sessions(self) -> int:
        """Dialogues that are held."""
        return self._dialogues.count(self._edges.clock())

    def remember(self, turn: OpenTurn | None, outcome: Answer | Rejected) -> SessionState | None:
        """Take an answer into its dialogue; an error leaves the dialogue as it was."""
        if turn is None or isinstance(outcome, Rejected):
            return None
        return self._dialogues.close(turn, outcome.text, self._edges.clock())

    def decide(
        self, request: Request, ticket: Ticket, cost: CostEstimate, admission_test: AdmissionTest
    ) -> Accepted | Rejected:
        """Take a request in or refuse it.

        Args:
            request: The request.
            ticket: Its identity.
            cost: What answers take on this device.
            admission_test: What is promised already, and the time.
        """
        resources = self._resources(cost)
        refused = self._strain_refusal(request, admission_test.now_s) or refuse_early(
            request, resources, admission_test
        )
        if refused is not None:
            return refused
        try:
            constraint = self._edges.language.compile_format(request.format)
            turn = self._dialogues.open(
                request,
                ticket.identity.key,
                may_be_a_repeat=ticket.may_be_a_repeat,
                now_s=admission_test.now_s,
            )
            prompt_ids, turn = self._encode(request, turn)
        except (FormatError, TemplateError) as error:
            return Rejected(ErrorCode.BAD_REQUEST, str(error))
        # Positions of the KV cache cost memory from their first use on, and keep it.
        num_tokens = min(len(prompt_ids) + request.max_tokens, self._limits.max_model_len)
        num_new = max(num_tokens - self._edges.worker.num_touched, 0)
        decision = admit(
            request,
            len(prompt_ids),
            resources,
            admission_test,
            needed_bytes=self._limits.kv_bytes_per_token * num_new,
        )
        if isinstance(decision, Rejected):
            return decision
        held = self.guard.hold()
        if isinstance(held, Rejected):
            return held
        return Accepted(decision, prompt_ids, constraint, turn, held)

    def _resources(self, cost: CostEstimate) -> Resources:
        limits = self._limits
        return Resources(limits.max_model_len, cost, self._edges.read_memory(), limits.budget)

    def _strain_refusal(self, request: Request, now_s: float) -> Rejected | None:
        if request.priority is not Priority.BACKGROUND or not (reason := self._strain(now_s)):
            return None
        message = f"{reason}; background work is held back"
        return Rejected(ErrorCode.QUEUE_FULL, message, retry_after_s=_STRAIN_RETRY_S)

    def _strain(self, now_s: float) -> str | None:
        """Say why the device is to be spared, by a reading a second old at most."""
        if now_s - self._device_read_s >= INTERVAL_S:
            self._device, self._device_read_s = self._edges.read_device(), now_s
        device = self._device
        return self._spared.look(
            device.temperature_c, device.battery_share, on_mains=device.on_mains
        )

    def _forget_sessions(self) -> None:
        self._dialogues = Dialogues(self._limits.sessions)

    def _encode(
        self, request: Request, turn: OpenTurn | None
    ) -> tuple[Sequence[int], OpenTurn | None]:
        """Return the prompt; of a dialogue as many of the latest turns as there is room for.

        When turns must go, half of the room is made: else each request would begin differently from
        the one before, and nothing of it would be in the KV cache.

        Raises:
            TemplateError: The chat template refuses the messages.
        """
        encode = self._edges.language.encode_chat
        if turn is None:
            return encode(request.messages), None
        context = self._limits.max_model_len
        beside_answer = context - min(request.max_tokens, context // 2)
        room = min(beside_answer, self._limits.sessions.max_tokens)
        prompt_ids = encode(turn.prompt(0))
        if len(prompt_ids) <= room:
            return prompt_ids, turn
        choices = range(len(turn.history))
        fits = bisect_left(choices, x=True, key=lambda n: len(encode(turn.prompt(n))) <= room // 2)
        return encode(turn.prompt(fits)), turn.forgetting(fits)
