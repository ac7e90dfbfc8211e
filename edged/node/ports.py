"""What the service acts through, as it sees it: the edges' shapes and the limits that hold.

Rule: protocols and plain data only, so that a test can stand in for every edge.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from edged.engine.generation import Generation, Job
from edged.engine.steps import Constraint
from edged.node.sessions import SessionLimits
from edged.node.throttling import DeviceReading, StrainLimits
from edged.protocol import Publisher as Publisher  # noqa: PLC0414 - imported from here
from edged.protocol import RequestDefaults
from edged.protocol.request import ChatMessage, OutputFormat
from edged.scheduling.memory_budget import MemoryBudget, MemoryPlan, MemorySnapshot

MAX_ATTEMPTS = 2
"""Starts of one request, in all processes together; the next one is refused."""


class JobRunner(Protocol):
    """The part of ``Worker`` that the service uses."""

    def submit(self, job: Job) -> None:
        """Run a job beside those that run; one ``Finished`` event follows."""
        ...

    def cancel(self, key: int) -> None:
        """End a running job after the step in hand, or in its prefill."""
        ...

    def pause(self, key: int) -> None:
        """Interrupt a running job after the step in hand; ``Paused`` follows, or ``Finished``."""
        ...

    def resume(self, run: Generation) -> None:
        """Go on with an interrupted job."""
        ...

    def release(self) -> None:
        """Give the memory of the prefix cache back."""
        ...

    def progress(self, key: int) -> tuple[int, int] | None:
        """Return how many tokens of prompt and answer of a job are done; None before its start."""
        ...

    @property
    def num_touched(self) -> int:
        """Positions of the KV cache for which every slot has memory already."""
        ...


class Starts(Protocol):
    """The part of ``Attempts`` that the service uses."""

    def begin(self, key: str) -> int:
        """Write down a start and return its number; see ``Attempts.begin``."""
        ...

    def end(self, key: str) -> None:
        """Forget a request that ended without an answer to keep."""
        ...

    def answer(self, key: str) -> None:
        """Note that the reply of a request is on its way."""
        ...

    def was_answered(self, key: str) -> bool:
        """Tell whether the reply of a request was on its way before."""
        ...

    def begin_intake(self, fingerprint: str) -> None:
        """Mark a delivery before it is decoded."""
        ...

    def end_intake(self, fingerprint: str) -> None:
        """Unmark a delivery that is decided on."""
        ...

    def num_intake_crashes(self, fingerprint: str) -> int:
        """Tell how many processes ended while this delivery was taken in."""
        ...

    def was_left_running(self, key: str) -> bool:
        """Tell whether a process before ended while a request ran, which has not ended since."""
        ...


class Language(Protocol):
    """Text to tokens and formats to constraints, for the model that is loaded."""

    def encode_chat(self, messages: tuple[ChatMessage, ...]) -> list[int]:
        """Return the prompt's token ids; ``TemplateError`` when the template refuses them."""
        ...

    def compile_format(self, output_format: OutputFormat) -> Constraint | None:
        """Return what holds the answer to its format; ``FormatError`` when it cannot."""
        ...


@dataclass(frozen=True, slots=True)
class Edges:
    """What the service acts through."""

    transport: Publisher
    worker: JobRunner
    language: Language
    attempts: Starts
    clock: Callable[[], float]
    read_memory: Callable[[], MemorySnapshot]
    read_device: Callable[[], DeviceReading] = DeviceReading


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for the life of the process."""

    defaults: RequestDefaults
    budget: MemoryBudget
    max_model_len: int
    kv_bytes_per_token: int
    """Memory that the KV cache takes for a position once it has been used."""
    max_waiting: int
    model_id: str
    num_slots: int = 1
    """Answers that are made at the same time."""
    plan: MemoryPlan | None = None
    """What the process holds all the time."""
    sessions: SessionLimits = field(default_factory=SessionLimits)
    strain: StrainLimits = field(default_factory=StrainLimits)
