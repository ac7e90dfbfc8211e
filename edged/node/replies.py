"""One terminal reply for every delivered message, and the acknowledgement only after it.

Rule: a delivery leaves this module acknowledged, or not at all: then the broker delivers it again.
The same request is executed once, however often it is delivered; each delivery gets its reply.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from edged.node.crash_journal import CrashJournal
from edged.node.effects import Acknowledge, Effect, Publish
from edged.node.limits import Limits
from edged.node.metrics import Count, Metrics
from edged.node.request_state import Identity, RequestState
from edged.protocol import encode_reply
from edged.protocol.request import Rejected, Reply

# Finished replies kept for replay.
MAX_FINISHED = 64
MAX_FINISHED_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Finished:
    reply: Reply
    expires_s: float
    num_bytes: int


class Replies:
    """Match deliveries with their replies.

    Args:
        limits: The names of node and model.
        journal: Knows what the process before had answered when it ended.
        metrics: Where duplicates are counted.
        emit: Takes each ``Publish`` and ``Acknowledge``.
    """

    def __init__(
        self,
        limits: Limits,
        journal: CrashJournal,
        metrics: Metrics,
        emit: Callable[[Effect], None],
    ) -> None:
        self._limits = limits
        self._journal = journal
        self._metrics = metrics
        self._emit = emit
        self._open: dict[RequestState, None] = {}
        self._unconfirmed: dict[int, RequestState] = {}
        self._finished: OrderedDict[Identity, _Finished] = OrderedDict()
        self._finished_bytes = 0
        self._next_handle = 0

    @property
    def num_unconfirmed(self) -> int:
        """Replies published that the broker has not confirmed yet."""
        return len(self._unconfirmed)

    def open(self, state: RequestState, now_s: float) -> bool:
        """Take in a decoded request, with its identity; it then owes a ``finish``.

        Returns:
            False when the request is known already, and is answered here: now, or when its first
            delivery is.
        """
        if self._adopt(state) or self._replay(state, now_s):
            return False
        if state.identity is not None and state.identity.has_token:
            for other in self._open:
                if other.identity == state.identity:
                    other.duplicates.append(state)
                    return False
        state.is_repeat = self._is_repeat(state)
        self._open[state] = None
        return True

    def answer(self, state: RequestState, reply: Reply, expires_s: float, now_s: float) -> None:
        """Reply to a delivery that starts no work: a refusal of its content, a cancel.

        It is read anew each time it comes, so nothing is remembered beyond its acknowledgement.
        """
        state.identity = Identity.of(state.delivery, reply.reply_to)
        state.expires_s = expires_s
        if not self._adopt(state):
            self._send(state, reply, now_s)

    def finish(self, state: RequestState, reply: Reply, now_s: float) -> None:
        """Publish the terminal reply of a request, and its copies to the duplicates.

        Raises:
            ValueError: It is finished already: a second reply would break the contract.
        """
        if state not in self._open or state.identity is None:
            raise ValueError(f"{state}: it owes no reply")
        del self._open[state]
        # A retry with the same id must be tried, not told the old refusal again.
        is_final = not (isinstance(reply.outcome, Rejected) and reply.outcome.code.is_retryable)
        note = self._journal.answer if is_final else self._journal.end
        note(state.identity.key)  # before it is sent, or it could be sent twice unmarked
        num_bytes = 0
        for receiver in (state, *state.duplicates):
            if receiver is not state or state.is_repeat:
                reply = replace(reply, is_duplicate=True)
            receiver.expires_s = state.expires_s
            num_bytes = self._send(receiver, reply, now_s)
        state.duplicates.clear()
        if is_final:
            self._remember(state.identity, _Finished(reply, state.expires_s, num_bytes))

    def confirm(self, handle: int) -> None:
        """Acknowledge the delivery whose reply the broker has confirmed, or will never take."""
        state = self._unconfirmed.pop(handle, None)
        if state is not None:
            self._emit(Acknowledge(state.delivery))

    def _is_repeat(self, state: RequestState) -> bool:
        # Without an id, another message may have had the same words.
        identity = state.identity
        may_be = identity is not None and identity.has_token and state.delivery.is_redelivery
        return identity is not None and may_be and self._journal.was_answered(identity.key)

    def _remember(self, identity: Identity, finished: _Finished) -> None:
        self._forget(identity)
        self._finished[identity] = finished
        self._finished_bytes += finished.num_bytes
        while len(self._finished) > MAX_FINISHED or self._finished_bytes > MAX_FINISHED_BYTES:
            self._forget(next(iter(self._finished)))

    def _forget(self, identity: Identity) -> None:
        finished = self._finished.pop(identity, None)
        if finished is not None:
            self._finished_bytes -= finished.num_bytes

    def _send(self, state: RequestState, reply: Reply, now_s: float) -> int:
        """Publish a reply; return the bytes of its payload."""
        if reply.is_duplicate:
            self._metrics.count(Count.DUPLICATES)
        message = encode_reply(
            reply,
            node=self._limits.defaults.node,
            model_id=self._limits.model_id,
            seconds_left=state.expires_s - now_s,
        )
        state.forget_content()
        self._unconfirmed[self._next_handle] = state
        self._emit(Publish(message, self._next_handle))
        self._next_handle += 1
        return len(message.payload)

    def _adopt(self, state: RequestState) -> bool:
        """Give a redelivered message the place of its former self, whose connection is gone.

        A reply that is published but not confirmed is among them: the transport sends it again
        after a reconnect, so the redelivery needs no second one.
        """
        delivery = state.delivery
        if not delivery.is_redelivery:
            return False
        waiting = [one for first in self._open for one in (first, *first.duplicates)]
        for other in (*waiting, *self._unconfirmed.values()):
            # A group's connection has numbers of its own, and topics of its own.
            is_here = other.delivery.topic == delivery.topic
            is_former = other.delivery.connection_epoch < delivery.connection_epoch
            if is_here and is_former and other.identity == state.identity:
                other.delivery = delivery
                return True
        return False

    def _replay(self, state: RequestState, now_s: float) -> bool:
        """Answer a request that was answered before, from memory."""
        identity = state.identity
        if identity is None or identity not in self._finished or not state.may_be_a_repeat:
            return False
        finished = self._finished[identity]
        if finished.expires_s < now_s:
            self._forget(identity)
            return False
        copy = replace(finished.reply, reply_to=state.request.reply_to, is_duplicate=True)
        state.expires_s = finished.expires_s
        self._send(state, copy, now_s)
        return True
