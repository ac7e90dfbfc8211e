"""What a request needs, and whether it is taken in: tokens, format, memory, deadline.

Rule: everything that can be refused is refused here, before it costs the engine anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edged.admission import Admitted, Resources, Speed, admit
from edged.engine import Constraint
from edged.errors import ErrorCode
from edged.grammar import FormatError
from edged.ports import Edges, Limits
from edged.replies import Ticket
from edged.request import Rejected, Request
from edged.tokenizer import TemplateError


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that is taken in, ready for the queue."""

    admitted: Admitted
    prompt_ids: Sequence[int]
    constraint: Constraint | None


@dataclass(slots=True, eq=False)
class Pending:
    """What an entry of the scheduler carries for its reply."""

    ticket: Ticket
    constraint: Constraint | None = None
    attempt: int = 1


class Intake:
    """Decide about requests one by one.

    Args:
        edges: The language of the model, and memory.
        limits: Budget and context.
    """

    def __init__(self, edges: Edges, limits: Limits) -> None:
        self._edges = edges
        self._limits = limits
        self._num_used_positions = 0

    def note_used(self, num_tokens: int) -> None:
        """Note that a sequence of this length has been in the cache: its memory is resident now."""
        self._num_used_positions = max(self._num_used_positions, num_tokens)

    def decide(
        self, request: Request, speed: Speed, *, backlog_s: float, now_s: float
    ) -> Accepted | Rejected:
        """Take a request in or refuse it.

        Args:
            request: The request.
            speed: The measured speed of this device.
            backlog_s: Predicted time until the engine is free for it.
            now_s: The time.
        """
        try:
            constraint = self._edges.language.compile_format(request.format)
            prompt_ids = self._edges.language.encode_chat(request.messages)
        except (FormatError, TemplateError) as error:
            return Rejected(ErrorCode.BAD_REQUEST, str(error))
        memory, limits = self._edges.read_memory(), self._limits
        # Positions of the KV cache cost memory from their first use on, and keep it.
        num_tokens = min(len(prompt_ids) + request.max_tokens, limits.max_model_len)
        num_new = max(num_tokens - self._num_used_positions, 0)
        decision = admit(
            request,
            len(prompt_ids),
            Resources(limits.max_model_len, speed, memory, limits.budget),
            backlog_s=backlog_s,
            now_s=now_s,
            needed_bytes=limits.kv_bytes_per_token * num_new,
        )
        if isinstance(decision, Rejected):
            return decision
        return Accepted(decision, prompt_ids, constraint)
