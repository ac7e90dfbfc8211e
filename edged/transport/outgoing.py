"""One message on its way to the broker."""

from dataclasses import dataclass

from edged.messages import Encoded
from edged.transport.events import PublishHandle


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message, its handle, and when it was published on the monotonic clock."""

    handle: PublishHandle
    message: Encoded
    qos: int
    retain: bool
    queued_s: float


class UnsendableError(ValueError):
    """A message cannot be sent on this connection, whatever happens; the text says why."""
