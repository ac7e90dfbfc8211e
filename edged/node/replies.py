"""One terminal reply for every delivered message, and the acknowledgement only after it.

Rule: every way in which a delivery is answered leads through here; it is acknowledged after that,
or not at all: then the broker delivers it again. The same request is executed once, however often
it is delivered, and each delivery gets its reply.
"""

from dataclasses import dataclass, replace

from edged.errors import ErrorCode
from edged.node.effects import Acknowledge, Publish, Report
from edged.node.fair_store import FairStore
from edged.node.generation import Finished, Fragment
from edged.node.ledger import MAX_DUPLICATES, REPLAY_BYTES
from edged.node.metrics import Count
from edged.node.request_state import Identity, RequestState
from edged.node.state import NodeState
from edged.protocol.encode import encode_fragment, encode_reply, with_expiry
from edged.protocol.event import RequestRefused
from edged.protocol.request import Answer, FinishReason, Rejected, Reply, ReplyAddress
from edged.protocol.wire import Encoded
from edged.scheduling.queued_request import RequestPhase

# Finished replies kept for replay, with ``REPLAY_BYTES``; the client that has the most loses first.
MAX_FINISHED = 64
_TOO_MANY_DUPLICATES = Rejected(
    ErrorCode.QUEUE_FULL,
    f"{MAX_DUPLICATES} deliveries of this request wait for its reply already",
    retry_after_s=1.0,
)
_CANCELLED = Rejected(ErrorCode.CANCELLED, "cancelled while waiting")
_WAITED_TOO_LONG = Rejected(
    ErrorCode.TIMEOUT, "waited too long for its deadline; allow more time or ask again later"
)


@dataclass(frozen=True, slots=True)
class _KeptReply:
    message: Encoded
    """As each duplicate gets it: all share its payload."""
    expires_s: float


class Replies:
    """Match deliveries with their replies.

    Args:
        node: The state of the node.
    """

    def __init__(self, node: NodeState) -> None:
        self._node = node
        self._open: dict[RequestState, None] = {}
        self._unconfirmed: dict[int, RequestState] = {}
        self._finished: FairStore[Identity, _KeptReply] = FairStore(MAX_FINISHED, REPLAY_BYTES)
        self._next_handle = 0

    @property
    def num_unconfirmed(self) -> int:
        """Replies published that the broker has not confirmed yet."""
        return len(self._unconfirmed)

    def open(self, state: RequestState) -> bool:
        """Take in a decoded request; it then owes one ``finish``, ``refuse`` or ``answer``.

        Returns:
            False when the request is known already, and is answered here: now, or when its first
            delivery is.
        """
        if self._adopt(state) or self._replay(state):
            return False
        identity = state.identity
        if identity.has_token:
            for other in self._open:
                if other.identity == identity:
                    self._attach(state, other)
                    return False
        # Without a token, another message may have had the same words.
        is_again = identity.has_token and state.delivery.is_redelivery
        state.is_repeat = is_again and self._node.journal.was_answered(identity.key)
        self._open[state] = None
        return True

    def answer(self, state: RequestState, reply: Reply) -> None:
        """Reply to what was not admitted: a request that is refused, a cancel, a correction."""
        if state in self._open:
            self._close(state, reply)
            return
        # Each of its deliveries is decoded anew, so nothing is kept beyond its acknowledgement.
        state.identity = Identity.of(state.delivery, reply.reply_to)
        state.expires_s = self._node.now_s + self._node.limits.defaults.timeout_s
        if not self._adopt(state):
            self._send(state, self._encoded(state, reply))

    def refuse(
        self, state: RequestState, reply_to: ReplyAddress, rejected: Rejected, attempt: int = 1
    ) -> None:
        """Refuse a delivery for its content, or a request that was not admitted."""
        self._node.metrics.count_refused(rejected.code)
        self._node.emit(Report(RequestRefused(rejected.code)))
        self.answer(state, Reply(reply_to, rejected, attempt=attempt))

    def finish(
        self, state: RequestState, outcome: Answer | Rejected, finished: Finished | None = None
    ) -> None:
        """Reply to an admitted request, with what was measured if it ran."""
        if isinstance(outcome, Rejected) and outcome.code is ErrorCode.INTERNAL:
            self._node.emit(Report(RequestRefused(outcome.code)))
        request, session, now_s = state.request, None, self._node.now_s
        if isinstance(outcome, Answer) and now_s > request.deadline_s:
            # The process, or the whole machine, may have been stopped since the answer ended.
            outcome = outcome.late
            finished = finished and replace(finished, finished_s=now_s)
        if state.turn is not None and isinstance(outcome, Answer):
            session = self._node.sessions.close(state.turn, outcome.text, now_s)
        usage = None if finished is None else finished.usage
        if usage is not None and usage.energy is not None:
            self._node.metrics.count_energy(usage.energy.joules)
        timing = None if finished is None else finished.timing(request.received_s)
        attempt = max(state.attempt, 1)
        self._close(state, Reply(request.reply_to, outcome, usage, timing, session, attempt))
        self._node.metrics.count_outcome(outcome)

    def finish_queued(self, state: RequestState) -> None:
        """Reply to a request that was cancelled or expired while it did not run.

        One that was paused gets its answer so far.
        """
        generation, now_s = state.generation, self._node.now_s
        if generation is None:
            self.finish(state, _CANCELLED if state.is_cancelled else _WAITED_TOO_LONG)
            return
        reason = FinishReason.CANCELLED if state.is_cancelled else FinishReason.DEADLINE
        finished = Finished(generation, generation.end(reason), now_s)
        if state.request.is_stream:
            self.publish_fragment(state, generation.take_fragment(now_s, is_done=True))
        self.finish(state, finished.outcome, finished)

    def publish_fragment(self, state: RequestState, fragment: Fragment) -> None:
        """Publish a part of a streamed answer, at QoS 0."""
        reply_to = state.request.reply_to
        message = encode_fragment(
            self._node.limits.defaults.topics.client(reply_to.user),
            reply_to.request_id or "",  # a request to stream has one
            fragment.number,
            fragment.delta,
            is_done=fragment.is_done,
        )
        self._node.emit(Publish(message))

    def send(self, message: Encoded) -> int:
        """Publish what is no reply; return its handle, which ``confirm`` does not know."""
        self._next_handle += 1
        self._node.emit(Publish(message, self._next_handle - 1))
        return self._next_handle - 1

    def confirm(self, handle: int) -> bool:
        """Acknowledge the delivery whose reply the broker has confirmed, or will never take.

        Returns:
            Whether a reply with this handle was unconfirmed.
        """
        state = self._unconfirmed.pop(handle, None)
        if state is not None:
            self._node.emit(Acknowledge(state.delivery))
        return state is not None

    def _close(self, state: RequestState, reply: Reply) -> None:
        """Publish the terminal reply of a request, and its copies to the duplicates.

        Raises:
            KeyError: It is answered already: a second reply would break the contract.
        """
        del self._open[state]
        if state.has_memory:
            self._node.guard.release()
        # A retry with the same id must be tried, not answered with the old refusal.
        is_final = not (isinstance(reply.outcome, Rejected) and reply.outcome.code.is_retryable)
        # Before it is sent: else a process that ends in between would send it twice, unmarked.
        was_started, key = state.attempt > 0, state.identity.key
        self._node.journal.end(key, is_answered=is_final, was_started=was_started)
        copy = self._encoded(state, replace(reply, is_duplicate=True))
        self._send(state, copy if state.is_repeat else self._encoded(state, reply))
        for duplicate in state.duplicates:
            duplicate.expires_s = state.expires_s
            self._send(duplicate, copy)
        self._node.metrics.count(Count.DUPLICATES, len(state.duplicates) + state.is_repeat)
        state.duplicates.clear()
        if is_final:
            num_bytes = len(copy.payload) + len(copy.properties.correlation_data or b"")
            finished = _KeptReply(copy, state.expires_s)
            self._finished.put(state.identity, finished, reply.reply_to.client, num_bytes)

    def _attach(self, state: RequestState, first: RequestState) -> None:
        """Let a duplicate wait for the reply to the first delivery of its request."""
        if len(first.duplicates) >= MAX_DUPLICATES:
            self.refuse(state, state.reply_to, _TOO_MANY_DUPLICATES)
        else:
            state.forget_content()
            first.duplicates.append(state)

    def _encoded(self, state: RequestState, reply: Reply) -> Encoded:
        return encode_reply(
            reply,
            node=self._node.limits.defaults.topics.node,
            model_id=self._node.limits.model_id,
            seconds_left=state.expires_s - self._node.now_s,
        )

    def _send(self, state: RequestState, message: Encoded) -> None:
        """Publish a reply."""
        state.phase = RequestPhase.FINISHED
        state.forget_content()
        self._unconfirmed[self._next_handle] = state
        self._node.emit(Publish(message, self._next_handle))
        self._next_handle += 1

    def _adopt(self, state: RequestState) -> bool:
        """Let a redelivery take the place of the same message from a connection that is gone."""
        delivery = state.delivery
        if not delivery.is_redelivery:
            return False
        waiting = [one for first in self._open for one in (first, *first.duplicates)]
        # The transport sends an unconfirmed reply again after a reconnect: no second one is needed.
        for other in (*waiting, *self._unconfirmed.values()):
            # Each client identifier has numbers of its own.
            is_here = other.delivery.client_id == delivery.client_id
            is_former = other.delivery.connection_epoch < delivery.connection_epoch
            if is_here and is_former and other.identity == state.identity:
                other.delivery = delivery.receipt
                return True
        return False

    def _replay(self, state: RequestState) -> bool:
        """Answer a request that was answered before, from memory."""
        finished = self._finished.get(state.identity)
        if finished is None or not state.may_be_a_repeat:
            return False
        if finished.expires_s < self._node.now_s:  # a retry after the deadline is executed again
            self._finished.pop(state.identity)
            return False
        state.expires_s = finished.expires_s
        self._send(state, with_expiry(finished.message, state.expires_s - self._node.now_s))
        self._node.metrics.count(Count.DUPLICATES)
        return True
