"""Requests, their parameters and their outcomes.

Rule: plain frozen data. Times are seconds on one monotonic clock, given by the caller; durations
are seconds too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from edged.errors import ErrorCode

# Names no specialist: the node chooses one.
AUTO = "auto"


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    """A stop token or a stop string."""
    LENGTH = "length"
    """``max_tokens`` or the context limit."""
    DEADLINE = "deadline"
    """The deadline: it cut the answer off after its first token, or passed before the reply."""
    CANCELLED = "cancelled"
    """A cancel request, after the first token."""
    UNSURE = "unsure"
    """What a specialist says is below its threshold: the text is the best guess."""


class EnergySource(StrEnum):
    """Source of an energy figure."""

    RAPL = "rapl"
    """The processor's energy counter: includes everything else that ran on it."""
    MODEL = "model"
    """Time x threads x the declared watts per thread."""


@dataclass(frozen=True, slots=True)
class Energy:
    """The energy of one answer; a figure always names its source."""

    joules: float
    source: EnergySource


class Priority(IntEnum):
    """Scheduling class; a smaller value goes first."""

    INTERACTIVE = 0
    NORMAL = 1
    BACKGROUND = 2


class OnDeadline(StrEnum):
    """What to do with a request whose ``max_tokens`` cannot be produced before its deadline."""

    REFUSE = "refuse"
    SHORTEN = "shorten"


class FormatType(StrEnum):
    """Format the answer is constrained to."""

    TEXT = "text"
    JSON_SCHEMA = "json_schema"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of the conversation given to the chat template."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    content: str


def spoken(messages: Sequence[ChatMessage]) -> str:
    """Return what a specialist reads of a dialogue: what was said, a line for each message."""
    # A system text is the same in all prompts of a client, and none of the examples has it.
    return "\n".join(message.content for message in messages if message.role != "system")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How each token is chosen; names as in vLLM, meanings and ranges in ``protocol/keys.py``."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """CTRL, arXiv 1909.05858."""
    seed: int | None = None
    """None is random."""


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """The format the answer is constrained to during decoding."""

    type: FormatType = FormatType.TEXT
    schema: dict[str, Any] | bool | None = None
    """JSON Schema, for ``json_schema``."""
    choices: tuple[str, ...] = ()
    """The allowed answers, for ``choice``."""
    is_scored: bool = False
    """Whether each of them gets a probability, and the most probable one is the answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """One of several named questions about a prompt: to a specialist, or a choice."""

    name: str
    specialist: str | None = None
    choices: tuple[str, ...] = ()
    ask: str | None = None
    """The question in words, for a choice."""


class Client(NamedTuple):
    """Who asks: an account of the broker or, without one, whoever reads a reply topic."""

    user: str | None
    reply_topic: str = ""
    """Empty for an account: it is one client, whatever its reply topics."""


@dataclass(frozen=True, slots=True)
class ReplyAddress:
    """Where the reply to one delivery goes, and what identifies it to the client."""

    topic: str
    request_id: str | None = None
    """``id`` of the payload, echoed in the reply's JSON."""
    correlation_data: bytes | None = None
    """MQTT 5 Correlation Data, echoed byte for byte."""
    user: str | None = None
    """The account that asked, by the topic of its request; None where the topic names none."""

    @property
    def client(self) -> Client:
        """Whom sessions, shares, duplicates and corrections belong to."""
        return Client(None, self.topic) if self.user is None else Client(self.user)


@dataclass(frozen=True, slots=True)
class Request:
    """One validated ``generate`` request."""

    reply_to: ReplyAddress
    messages: tuple[ChatMessage, ...]
    received_s: float
    deadline_s: float
    """Absolute, on the clock of ``received_s``."""
    max_tokens: int = 128
    """Generated tokens allowed."""
    is_length_given: bool = False
    """Whether the request itself chose ``max_tokens``."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer and are not part of it."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    format: OutputFormat = field(default_factory=OutputFormat)
    is_stream: bool = False
    priority: Priority = Priority.NORMAL
    on_deadline: OnDeadline = OnDeadline.REFUSE
    specialist: str | None = None
    """The specialist that answers; ``AUTO`` for the one that fits."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """What a specialist that writes is told beside the prompt."""
    questions: tuple[Question, ...] = ()
    """Asked instead of a written answer."""
    may_escalate: bool = True
    """Whether what a specialist is unsure of may be passed on."""
    session: str | None = None
    """The session it continues; ``messages`` then has only the new ones."""
    is_system_given: bool = False
    """Whether the request itself chose the system message, or none."""
    ignored_keys: tuple[str, ...] = ()
    """Paths of unknown keys in the payload; counted, not refused."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """One validated ``cancel`` request; its id or Correlation Data is that of its target."""

    reply_to: ReplyAddress


@dataclass(frozen=True, slots=True)
class Correction:
    """One validated ``correct`` request: what a specialist should have said."""

    reply_to: ReplyAddress
    specialist: str
    prompt: str
    """What was said to it, a line for each message."""
    answer: Any
    """As in the JSON, of any type; None is none of the labels."""
    messages: tuple[ChatMessage, ...] = ()
    """What was said, without a system text."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """What a specialist that writes was told beside the prompt."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A refusal: data for the error reply, never an exception."""

    code: ErrorCode
    message: str
    """Names the key, topic or limit, and what to do; never prompt text."""
    retry_after_s: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    """Further members of ``error`` on the wire, such as ``predicted_ms``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The generated answer."""

    text: str
    finish_reason: FinishReason
    json: Any = None
    """The parsed answer, if ``format`` was ``json_schema`` and it is complete."""
    is_choice: bool = False
    """Whether ``format`` was ``choice``."""
    choice: int | None = None
    """Index of the option, if ``format`` was ``choice`` and it is complete."""
    detail: dict[str, Any] = field(default_factory=dict)
    """Further members of ``data`` on the wire, such as ``probabilities``."""
    may_leave: bool = False
    """Whether, if it is unsure, another node may be asked: the specialist names nobody else."""

    @property
    def late(self) -> "Answer":
        """What is said of it after its deadline: that, unless it is nothing to act on anyway."""
        is_whole = self.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        return replace(self, finish_reason=FinishReason.DEADLINE) if is_whole else self


@dataclass(frozen=True, slots=True)
class CancelOutcome:
    """The outcome of a ``cancel`` request."""

    is_found: bool


@dataclass(frozen=True, slots=True)
class CorrectionOutcome:
    """The outcome of a ``correct`` request that was kept."""

    count: int
    """Corrections kept now, this one included."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were reused."""
    completion_tokens: int = 0
    energy: Energy | None = None
    """Energy to compute them, where known."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of one request; milliseconds appear only on the wire."""

    queued_s: float = 0.0
    prefill_s: float = 0.0
    ttft_s: float = 0.0
    """From receipt to the first token."""
    decode_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session after an answer."""

    session: str
    num_turns: int
    """Remembered requests with their answers, this one included."""
    num_forgotten: int
    """Turns dropped for lack of room since the answer before."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The one reply to a delivered message."""

    reply_to: ReplyAddress
    outcome: Answer | CancelOutcome | CorrectionOutcome | Rejected
    usage: Usage | None = None
    timing: Timing | None = None
    session: SessionState | None = None
    attempt: int = 1
    is_duplicate: bool = False
