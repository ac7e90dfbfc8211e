"""What the node has done by the daemon: each effect is carried out in the order given."""

from dataclasses import dataclass

from edged.node.generation import Generation
from edged.node.sessions import PendingTurn
from edged.protocol.event import Event as OperatorEvent
from edged.protocol.request import Correction, Request
from edged.protocol.wire import Delivery, Encoded
from edged.specialists.decider import Said


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message to the broker; ``Confirmed`` follows if it has a handle."""

    message: Encoded
    handle: int | None = None
    """Chosen by the node; None sends it at QoS 0."""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Acknowledge a delivery, if its connection still stands."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Decode:
    """Decode a delivery; ``Decoded`` follows before any other delivery."""

    # An effect, because the crash journal must name the delivery before its first byte is read.
    delivery: Delivery
    received_s: float
    """From when on its deadline counts."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Tokenize a prompt and compile a format, on the preparing thread; ``Prepared`` follows."""

    key: int
    request: Request
    turn: PendingTurn | None
    """The dialogue that the prompt goes on with."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a generation on the inference thread, or go on with it after a pause.

    ``Finished`` or ``Paused`` follows, and ``Fragment`` before it for a stream.
    """

    generation: Generation


@dataclass(frozen=True, slots=True)
class Pause:
    """Have a generation make room after its step in hand; ``Paused`` or ``Finished`` follows."""

    key: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a generation after its step in hand, or in its prefill."""

    key: int


@dataclass(frozen=True, slots=True)
class ReleasePrefixCache:
    """Give the memory of the prefix cache back."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Time short requests of its own; ``Probed`` follows, unless the engine has other work."""


@dataclass(frozen=True, slots=True)
class WriteJournal:
    """Write one page of the crash journal so that it outlives this process."""

    page: int
    content: bytes


@dataclass(frozen=True, slots=True)
class SyncJournal:
    """Have what was written outlive a power cut, on the journal's thread; ``Synced`` follows."""

    key: int


@dataclass(frozen=True, slots=True)
class KeepCorrection:
    """Have a correction checked and outlive a power cut; ``CorrectionKept`` follows."""

    key: int
    correction: Correction
    said: Said | None
    """What the specialist answered, where that is remembered."""


@dataclass(frozen=True, slots=True)
class Report:
    """Tell operators what happened."""

    event: OperatorEvent


Effect = (
    Publish
    | Acknowledge
    | Decode
    | Prepare
    | Start
    | Pause
    | Cancel
    | ReleasePrefixCache
    | Probe
    | WriteJournal
    | SyncJournal
    | KeepCorrection
    | Report
)
