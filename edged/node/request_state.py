"""One request from its delivery to its confirmed reply."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edged.node.generation import Generation
from edged.node.sessions import PendingTurn
from edged.protocol.request import ReplyAddress, Request
from edged.protocol.wire import Delivery
from edged.scheduling.queued_request import QueuedRequest
from edged.specialists.decider import Decider

if TYPE_CHECKING:
    from edged.engine.decoding import Constraint

_NOWHERE = ReplyAddress("")


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two deliveries the same request."""

    key: str
    """A digest of token, reply topic, operation and payload: it tells nothing of the request."""
    has_token: bool
    """Without Correlation Data and id, only a broker's redelivery is the same request."""

    @classmethod
    def of(cls, delivery: Delivery, reply_to: ReplyAddress) -> "Identity":
        """Return the identity of a delivery whose reply goes to ``reply_to``."""
        token = reply_to.correlation_data or reply_to.request_id
        # A correction may have the words of a prompt.
        operation = delivery.topic.rpartition("/")[2]
        payload = hashlib.sha256(delivery.payload).digest()
        content = (token, reply_to.topic, operation, payload)
        key = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
        return cls(key, token is not None)


@dataclass(slots=True, eq=False, repr=False)  # generated, its repr would show the prompt
class RequestState(QueuedRequest):
    """What the node knows of one delivery, and of the request in it."""

    request: Request = field(init=False)
    """Set from when it is decoded, if it is a request, until it is answered."""
    delivery: Delivery = field(kw_only=True)
    """The latest: a redelivery takes the place of the one before. Without its payload from when it
    is decoded."""
    fingerprint: str = field(kw_only=True)
    """Of the delivery, for the crash journal."""
    num_bytes: int = 0
    """Of the delivery as it arrived."""
    is_suspect: bool = False
    """Whether a process ended while it was taken in or answered: it is handled alone now."""
    is_decoded: bool = False
    identity: Identity = Identity("", has_token=False)
    """Known as soon as it is known where its reply goes."""
    reply_to: ReplyAddress = _NOWHERE
    """Set with the identity, until it is answered."""
    expires_s: float = 0.0
    """Until when its reply is worth sending and keeping."""
    duplicates: "list[RequestState]" = field(default_factory=list)
    """Later deliveries of the same request; each gets a copy of the reply."""
    is_repeat: bool = False
    """Whether a process before this one sent its reply, and ended before it was confirmed."""
    turn: PendingTurn | None = None
    """Its place in a session."""
    prompt_ids: Sequence[int] = ()
    constraint: "Constraint | None" = None
    decider: Decider | None = None
    may_go_on: bool = True
    """Whether it was admitted with all runs that its decider may take."""
    has_memory: bool = False
    """Whether its part of the memory is reserved."""
    attempt: int = 0
    """Number of its start, those of earlier processes included; 0 before it."""
    generation: Generation | None = None
    """Its answer so far, while it is paused."""

    @property
    def may_be_a_repeat(self) -> bool:
        """Whether an equal request before it was the same one, and not one with the same words."""
        return self.delivery.is_redelivery or self.identity.has_token

    def accept(self, request: Request) -> None:
        """Note the request that was decoded from the delivery."""
        self.request, self.is_decoded = request, True
        self.identify(request.reply_to, request.deadline_s)

    def identify(self, reply_to: ReplyAddress, expires_s: float) -> None:
        """Note where its reply goes and until when; the payload is not needed any more."""
        self.reply_to, self.expires_s = reply_to, expires_s
        self.identity = Identity.of(self.delivery, reply_to)
        self.delivery = self.delivery.receipt

    def new_generation(self) -> Generation:
        """Return what the inference thread is given to answer it."""
        return Generation(
            self.key,
            self.prompt_ids,
            self.request,
            self.max_tokens,
            self.constraint,
            decider=self.decider,
            may_go_on=self.may_go_on,
        )

    def forget_content(self) -> None:
        """Keep only what the acknowledgement needs."""
        # A broker may deliver far beyond the Receive Maximum (Mosquitto 2.0.11 does), so thousands
        # of replies may wait for their confirmation.
        self.delivery = self.delivery.receipt
        self.prompt_ids, self.constraint, self.decider = (), None, None
        self.turn, self.generation, self.reply_to = None, None, _NOWHERE
        if self.is_decoded:
            self.is_decoded = False
            del self.request
