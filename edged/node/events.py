"""The node's events, and the readings that come with each.

Beside these, ``Delivery`` (a message arrived) and ``Fragment``, ``Finished`` and ``Paused`` (of the
inference thread) are events, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edged.node.throttling import DeviceReading
from edged.protocol.decode import DecodedMessage
from edged.protocol.request import Answer, Rejected
from edged.scheduling.latency_model import RequestTimings
from edged.scheduling.memory_budget import MemorySnapshot
from edged.specialists.decider import Decider, Run

if TYPE_CHECKING:
    from edged.engine.decoding import Constraint


@dataclass(frozen=True, slots=True)
class Readings:
    """What is measured around the node when an event comes."""

    memory: MemorySnapshot
    device: DeviceReading = field(default_factory=DeviceReading)
    progress: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Tokens of prompt and of answer done, by the keys of the running requests."""
    num_touched: int = 0
    """Positions of the KV cache for which every slot has memory already."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The delivery of the latest ``Decode`` is decoded."""

    result: DecodedMessage


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request is ready to be decided on."""

    key: int
    prompt_ids: Sequence[int] = ()
    constraint: "Constraint | None" = None
    decider: Decider | None = None
    """Where specialists answer; its runs have the prompts."""
    num_forgotten: int = 0
    """Oldest turns of the dialogue for which the prompt has no room."""
    rejected: Rejected | None = None
    """Why there is no prompt or no constraint."""

    @property
    def runs(self) -> Sequence[Run]:
        """The runs of the model that it may take."""
        return [Run(self.prompt_ids)] if self.decider is None else self.decider.runs

    @property
    def num_needed(self) -> int:
        """How many of them, from the first on, any answer needs."""
        return 1 if self.decider is None else self.decider.num_needed


@dataclass(frozen=True, slots=True)
class Synced:
    """The crash journal is on the disk, with the start of a request in it."""

    key: int


@dataclass(frozen=True, slots=True)
class CorrectionKept:
    """A correction is on the disk, or refused."""

    key: int
    count: int = 0
    """Corrections kept now."""
    is_new: bool = False
    """Whether it was not kept before."""
    is_agreed: bool | None = None
    """Whether the specialist had said the same; None where that is not remembered."""
    rejected: Rejected | None = None


@dataclass(frozen=True, slots=True)
class EscalationReplied:
    """Another node has said something about what was passed on to it."""

    token: str
    """The id that it was given."""
    answer: Answer | None
    """None: it has none, or is unsure as well."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the short requests of a ``Probe`` took."""

    timings: Sequence[RequestTimings]
    """Without one that other work cut short."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker has a published message, or never will."""

    handle: int
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; see ``Node.next_tick_s``."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop taking and starting work: what is not answered is left to the next process."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Leave what still runs to the next process; it did not end this one."""
