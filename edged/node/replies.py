"""One terminal reply for every delivered message, and the acknowledgement only after it.

Rule: a delivery leaves this module acknowledged, or not at all: then the broker brings it again.
The same request is executed once, however often it is delivered; each delivery gets its reply.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edged.node.ports import Starts
from edged.protocol import Delivery
from edged.protocol.request import Rejected, Reply, ReplyAddress

MAX_FINISHED = 64
"""Finished replies kept for replay."""
MAX_FINISHED_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two deliveries the same request."""

    key: str
    """A digest of token, reply topic and payload: it tells nothing of the request."""
    has_token: bool
    """Without Correlation Data and id, only a broker's redelivery is the same request."""

    @classmethod
    def of(cls, delivery: Delivery, reply_to: ReplyAddress) -> "Identity":
        """Return the identity of a delivery whose reply goes to ``reply_to``."""
        token = reply_to.correlation_data or reply_to.request_id
        content = (token, reply_to.topic, hashlib.sha256(delivery.payload).digest())
        key = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
        return cls(key, token is not None)


@dataclass(slots=True, eq=False)
class _Debt:
    """A delivery that is not acknowledged yet; a redelivery takes the place of its former self."""

    identity: Identity
    delivery: Delivery


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that still owes its reply: to its first delivery and to later ones of the same."""

    identity: Identity
    expires_s: float
    debts: list[_Debt] = field(default_factory=list)
    is_repeat: bool = False
    """Whether a process before this one has sent its reply, and was gone before it was known."""

    @property
    def may_be_a_repeat(self) -> bool:
        """Whether an equal request before it was the same one, and not one that reads alike."""
        return self.identity.has_token or self.debts[0].delivery.is_redelivery


@dataclass(frozen=True, slots=True)
class _Done:
    reply: Reply
    expires_s: float
    num_bytes: int


class Replies:
    """Match deliveries with their replies.

    Args:
        publish: Sends a reply and returns a handle that ``confirm`` gets once the broker has it,
            with the number of payload bytes.
        acknowledge: Acknowledges a delivery to the broker.
        starts: Knows what the process before had answered when it ended.
    """

    def __init__(
        self,
        publish: Callable[[Reply, float], tuple[int, int]],
        acknowledge: Callable[[Delivery], None],
        starts: Starts,
    ) -> None:
        self._publish = publish
        self._acknowledge = acknowledge
        self._starts = starts
        self._open: list[Ticket] = []
        self._unconfirmed: dict[int, _Debt] = {}
        self._done: OrderedDict[Identity, _Done] = OrderedDict()
        self._done_bytes = 0

    @property
    def num_unconfirmed(self) -> int:
        """Replies published that the broker has not confirmed yet."""
        return len(self._unconfirmed)

    def open(
        self,
        delivery: Delivery,
        identity: Identity,
        reply_to: ReplyAddress,
        *,
        expires_s: float,
        now_s: float,
    ) -> Ticket | None:
        """Take a delivery in.

        Args:
            delivery: What arrived.
            identity: That of the delivery.
            reply_to: Where its reply goes.
            expires_s: Until when its finished reply is worth keeping.
            now_s: The time now.

        Returns:
            A ticket that owes a ``finish``; None when the request is known already, and so is
            answered here, now or when its first delivery is.
        """
        if self._adopt(delivery, identity) or self._replay(delivery, identity, reply_to, now_s):
            return None
        debt = _Debt(identity, delivery)
        if identity.has_token:
            for ticket in self._open:
                if ticket.identity == identity:
                    ticket.debts.append(debt)
                    return None
        ticket = Ticket(identity, expires_s, [debt], self._is_repeat(delivery, identity))
        self._open.append(ticket)
        return ticket

    def answer(self, delivery: Delivery, reply: Reply, *, expires_s: float) -> None:
        """Reply to a delivery that starts no work: a refusal of its content, a cancel.

        It is read anew each time it comes, so nothing is remembered beyond its acknowledgement.
        """
        identity = Identity.of(delivery, reply.reply_to)
        if not self._adopt(delivery, identity):
            self._send(_Debt(identity, delivery), reply, expires_s)

    def finish(self, ticket: Ticket, reply: Reply) -> None:
        """Publish the terminal reply of a ticket, and its copies to the duplicates.

        Raises:
            ValueError: If the ticket is finished already: a second reply would break the contract.
        """
        self._open.remove(ticket)
        # A retry with the same id must be tried, not told the old refusal again.
        is_final = not (isinstance(reply.outcome, Rejected) and reply.outcome.code.is_retryable)
        note = self._starts.answer if is_final else self._starts.end
        note(ticket.identity.key)  # before it is sent, or it could be sent twice unmarked
        num_bytes = 0
        for i, debt in enumerate(ticket.debts):
            if i > 0 or ticket.is_repeat:
                reply = replace(reply, is_duplicate=True)
            num_bytes = self._send(debt, reply, ticket.expires_s)
        if is_final:
            self._remember(ticket.identity, _Done(reply, ticket.expires_s, num_bytes))

    def confirm(self, handle: int) -> bool:
        """Acknowledge the delivery whose reply the broker has confirmed; False: it was no reply."""
        debt = self._unconfirmed.pop(handle, None)
        if debt is not None:
            self._acknowledge(debt.delivery)
        return debt is not None

    def _is_repeat(self, delivery: Delivery, identity: Identity) -> bool:
        # Without an id, another message may have had the same words.
        may_be = delivery.is_redelivery and identity.has_token
        return may_be and self._starts.was_answered(identity.key)

    def _debts(self) -> list[_Debt]:
        waiting = [debt for ticket in self._open for debt in ticket.debts]
        return waiting + list(self._unconfirmed.values())

    def _remember(self, identity: Identity, done: _Done) -> None:
        self._forget(identity)
        self._done[identity] = done
        self._done_bytes += done.num_bytes
        while len(self._done) > MAX_FINISHED or self._done_bytes > MAX_FINISHED_BYTES:
            self._forget(next(iter(self._done)))

    def _forget(self, identity: Identity) -> None:
        done = self._done.pop(identity, None)
        if done is not None:
            self._done_bytes -= done.num_bytes

    def _send(self, debt: _Debt, reply: Reply, expires_s: float) -> int:
        handle, num_bytes = self._publish(reply, expires_s)
        # A broker may deliver far beyond the Receive Maximum (Mosquitto 2.0.11 does), so thousands
        # may wait here.
        debt.delivery = debt.delivery.receipt
        self._unconfirmed[handle] = debt
        return num_bytes

    def _adopt(self, delivery: Delivery, identity: Identity) -> bool:
        """Give a redelivered message the place of its former self, whose connection is gone.

        A reply that is published but not confirmed is among them: the transport sends it again
        after a reconnect, so the redelivery needs no second one.
        """
        if not delivery.is_redelivery:
            return False
        for debt in self._debts():
            # A group's connection has numbers of its own, and topics of its own.
            is_here = debt.delivery.topic == delivery.topic
            is_former = debt.delivery.connection_epoch < delivery.connection_epoch
            if is_here and is_former and debt.identity == identity:
                debt.delivery = delivery
                return True
        return False

    def _replay(
        self, delivery: Delivery, identity: Identity, reply_to: ReplyAddress, now_s: float
    ) -> bool:
        """Answer a request that was answered before, from memory."""
        done = self._done.get(identity)
        if done is None or not (identity.has_token or delivery.is_redelivery):
            return False
        if done.expires_s < now_s:
            self._forget(identity)
            return False
        copy = replace(done.reply, reply_to=reply_to, is_duplicate=True)
        self._send(_Debt(identity, delivery), copy, done.expires_s)
        return True
