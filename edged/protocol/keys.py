"""The numeric keys of a request, and the bounds of the others.

Rule: decoding uses these declarations and the published JSON Schema is generated from them, so the
two cannot differ. The meanings are those of the table in ``docs/protocol.md``.
"""

from dataclasses import dataclass

from edged.protocol.fields import Fields
from edged.protocol.request import SamplingParams

MAX_ID_BYTES = 64
ID_PATTERN = rf"[A-Za-z0-9._:-]{{1,{MAX_ID_BYTES}}}"
MAX_STOPS = 8
MAX_STOP_LENGTH = 256
MAX_CHOICES = 64
MAX_CHOICE_LENGTH = 256
MAX_MESSAGES = 64
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class IntegerKey:
    """A key whose value is an integer."""

    name: str
    low: int
    high: int
    default: int | None
    """None: the node's configuration, or random."""
    meaning: str

    def read(self, fields: Fields) -> int | None:
        """Return the value, None when absent; ``MessageError`` when it is not in range."""
        return fields.integer(self.name, self.low, self.high)


@dataclass(frozen=True, slots=True)
class NumberKey:
    """A key whose value is a number."""

    name: str
    low: float
    high: float
    default: float
    meaning: str

    def read(self, fields: Fields) -> float | None:
        """Return the value, None when absent; ``MessageError`` when it is not in range."""
        return fields.number(self.name, self.low, self.high)


_GREEDY = SamplingParams()
MAX_TOKENS = IntegerKey("max_tokens", 1, 131_072, None, "longest answer, in tokens")
TIMEOUT_MS = IntegerKey(
    "timeout_ms", 1, 24 * 3600 * 1000, None, "deadline, from the arrival at the node"
)
SAMPLING_KEYS: tuple[IntegerKey | NumberKey, ...] = (
    NumberKey("temperature", 0, 2, _GREEDY.temperature, "0 always takes the most likely token"),
    IntegerKey("top_k", 0, 1_000_000, _GREEDY.top_k, "keep the k most likely tokens; 0 keeps all"),
    NumberKey(
        "top_p", 1e-6, 1, _GREEDY.top_p, "keep the smallest set of tokens with this probability"
    ),
    NumberKey(
        "min_p",
        0,
        1,
        _GREEDY.min_p,
        "drop tokens below this fraction of the best one's probability",
    ),
    NumberKey(
        "repetition_penalty",
        0.5,
        2,
        _GREEDY.repetition_penalty,
        "above 1, tokens seen before become less likely",
    ),
    IntegerKey("seed", 0, 2**63 - 1, _GREEDY.seed, "same seed, same request, same answer"),
)
