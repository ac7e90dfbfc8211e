"""What the node holds, and the one way in which a request ends: with its reply."""

from edged.errors import ErrorCode
from edged.node.crash_journal import CrashJournal
from edged.node.effects import Effect, Publish, Report
from edged.node.events import Readings
from edged.node.generation import Finished, Fragment
from edged.node.limits import Limits
from edged.node.memory_guard import MemoryGuard
from edged.node.metrics import Metrics
from edged.node.replies import Replies
from edged.node.request_state import RequestState
from edged.node.sessions import Dialogues
from edged.protocol import encode_fragment
from edged.protocol.event import RequestRefused
from edged.protocol.request import Answer, Rejected, Reply
from edged.scheduling.latency_model import LatencyModel
from edged.scheduling.memory_budget import MemorySnapshot
from edged.scheduling.scheduler import Scheduler


class NodeState:
    """Queue, replies, sessions, memory and journal of a node, and the event in hand.

    Args:
        limits: Defaults, budgets and bounds.
        latency_model: What answers take on this device.
        journal_pages: What the process before left in the crash journal; None keeps none.
    """

    def __init__(
        self, limits: Limits, latency_model: LatencyModel, journal_pages: tuple[bytes, bytes] | None
    ) -> None:
        self._effects: list[Effect] = []
        self.now_s = 0.0
        """The time of the event in hand."""
        self.readings = Readings(MemorySnapshot(0, 0))
        """What came with it."""
        self.is_draining = False
        self.limits = limits
        self.latency_model = latency_model
        self.metrics = Metrics()
        self.scheduler: Scheduler[RequestState] = Scheduler(limits.max_waiting, limits.num_slots)
        self.journal = CrashJournal(journal_pages, self.emit)
        self.replies = Replies(limits, self.journal, self.metrics, self.emit)
        self.sessions = Dialogues(limits.sessions)
        self.guard = MemoryGuard(limits, self.sessions, self.emit)

    def emit(self, effect: Effect) -> None:
        """Add an effect of the event in hand."""
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """Return the effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def answer(self, state: RequestState, reply: Reply) -> None:
        """Reply to a delivery that starts no work."""
        expires_s = self.now_s + self.limits.defaults.timeout_s
        self.replies.answer(state, reply, expires_s, self.now_s)

    def refuse(self, state: RequestState, reply: Reply, rejected: Rejected) -> None:
        """Refuse a delivery for its content."""
        self._count_refused(rejected)
        self.answer(state, reply)

    def reject(self, state: RequestState, rejected: Rejected) -> None:
        """Refuse a request that was decoded, and not admitted."""
        self._count_refused(rejected)
        self.replies.finish(state, Reply(state.request.reply_to, rejected), self.now_s)

    def finish(
        self, state: RequestState, outcome: Answer | Rejected, finished: Finished | None = None
    ) -> None:
        """End an admitted request with its reply, and give its memory back."""
        if isinstance(outcome, Rejected) and outcome.code is ErrorCode.INTERNAL:
            self.emit(Report(RequestRefused(outcome.code)))
        request, session = state.request, None
        if state.turn is not None and isinstance(outcome, Answer):
            session = self.sessions.close(state.turn, outcome.text, self.now_s)
        usage = None if finished is None else finished.usage
        timing = None if finished is None else finished.timing(request.received_s)
        reply = Reply(request.reply_to, outcome, usage, timing, session, attempt=state.attempt)
        if state.reservation is not None:
            state.reservation.release()
        self.replies.finish(state, reply, self.now_s)
        self.metrics.count_outcome(outcome)

    def publish_fragment(self, state: RequestState, fragment: Fragment) -> None:
        """Publish a part of a streamed answer, at QoS 0."""
        message = encode_fragment(
            self.limits.defaults.topics,
            state.request.reply_to.request_id or "",  # a request to stream has one
            fragment.number,
            fragment.delta,
            is_done=fragment.is_done,
        )
        self.emit(Publish(message))

    def _count_refused(self, rejected: Rejected) -> None:
        self.metrics.count_refused(rejected.code)
        self.emit(Report(RequestRefused(rejected.code)))
