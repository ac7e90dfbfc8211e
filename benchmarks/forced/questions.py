"""What is asked, from much that is fixed to little, and what an engine gives.

Rule: no engine is imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edged.protocol.request import ChatMessage

Schema = dict[str, Any]
MAX_TOKENS = 200
CONTEXT = 1024


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and the schema of its answer."""

    title: str
    prompt: str
    schema: Schema

    @property
    def messages(self) -> tuple[ChatMessage, ChatMessage]:
        """The prompt with its instruction."""
        return (ChatMessage("system", "Answer in JSON."), ChatMessage("user", self.prompt))


@dataclass(frozen=True, slots=True)
class Said:
    """One answer."""

    seconds: float
    """From the request, whose prompt is in the cache, to the end of the answer."""
    cpu_s: float
    """CPU time of the process meanwhile: on one thread, the time on an idle machine."""
    token_ids: Sequence[int]
    num_passes: int
    """Runs of the model after the prompt's."""


class Answering(Protocol):
    """A loaded engine."""

    def answer(self, prompt_ids: Sequence[int], question: Question) -> Said:
        """Answer greedily, held to the schema; blocks."""


def _record(**members: Schema) -> Schema:
    required = list(members)
    whole = {"type": "object", "properties": members, "required": required}
    return {**whole, "additionalProperties": False}


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


_NUMBER: Schema = {"type": "integer", "minimum": 0, "maximum": 240}

QUESTIONS = (
    Question(
        "command for a home",
        "Turn the heater in the bedroom on for half an hour at 21 degrees and tell me.",
        _record(
            action=_one_of("turn_on", "turn_off", "set_temperature"),
            device=_one_of("desk lamp", "ceiling light", "heater"),
            room=_one_of("kitchen", "living room", "bedroom"),
            temperature_celsius=_NUMBER,
            duration_minutes=_NUMBER,
            starts_in_minutes=_NUMBER,
            notify_user={"type": "boolean"},
            needs_confirmation={"type": "boolean"},
        ),
    ),
    Question(
        "report of a sensor",
        "Pump 2 in the cellar: 62 bar, 48 litres a minute, 71 degrees, vibration high, running.",
        _record(
            pump=_NUMBER,
            pressure_bar=_NUMBER,
            flow_litres_per_minute=_NUMBER,
            temperature=_NUMBER,
            vibration=_one_of("low", "normal", "high"),
            is_running={"type": "boolean"},
            needs_a_visit={"type": "boolean"},
            severity=_one_of("none", "warning", "alarm"),
        ),
    ),
    Question(
        "ticket with a sentence",
        "The washing machine leaks when it spins, and the floor of the bathroom is wet.",
        _record(
            machine=_one_of("washing machine", "dryer", "dishwasher"),
            fault=_one_of("leak", "noise", "no power", "door"),
            summary={"type": "string", "maxLength": 90},
            is_urgent={"type": "boolean"},
        ),
    ),
)
