"""The keys of a request whose value is a number, a keyword, a flag or an identifier.

Rule: a key is declared once; decoding, its error messages and the published JSON Schema use that
declaration. The meanings are those of the table in ``docs/protocol.md``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Generic, TypeVar

from edged.protocol.fields import Fields
from edged.protocol.request import FormatType, OnDeadline, Priority, SamplingParams

T = TypeVar("T")
Number = TypeVar("Number", int, float)
Keyword = TypeVar("Keyword", bound=StrEnum | IntEnum)
Default = TypeVar("Default")

MAX_ID_BYTES = 64
ID_PATTERN = rf"[A-Za-z0-9._:-]{{1,{MAX_ID_BYTES}}}"
MAX_STOPS = 8
MAX_STOP_LENGTH = 256
MAX_CHOICES = 64
MAX_CHOICE_LENGTH = 256
MAX_MESSAGES = 64
MAX_QUESTIONS = 32
MAX_ASK_LENGTH = 512
# Of ``inputs``: text and numbers of a specialist's prompt and grammar, which cost time by them.
MAX_INPUTS_CHARACTERS = 32_768
MAX_INPUTS_DEPTH = 4
MAX_INPUTS_ITEMS = 256
MAX_INPUTS_VALUES = 4096
MAX_INPUT_LENGTH = 200
INPUT_NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
SPECIALIST_PATTERN = r"[a-z0-9][a-z0-9-]{0,63}"
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Key(Generic[T]):
    """One key: the values it takes, and what they mean."""

    name: str
    schema: Mapping[str, Any]
    """JSON Schema of its values."""
    expected: str
    """Follows "must be" in an error."""
    is_valid: Callable[[Any], bool]
    convert: Callable[[Any], T]
    default: T
    """None: nothing, or what the node's configuration says."""
    meaning: str

    def read(self, fields: Fields) -> T:
        """Return the value, or the default where it is absent or null.

        Raises:
            MessageError: It is not valid.
        """
        value = fields.value(self.name)
        if value is None:
            return self.default
        if not self.is_valid(value):
            raise fields.wrong(self.name, self.expected, value)
        return self.convert(value)


def _number(
    name: str, kind: type[Number], low: float, high: float, default: Default, meaning: str
) -> Key[Number | Default]:
    def is_valid(value: Any) -> bool:  # noqa: ANN401 - JSON has no narrower type
        # In JSON 3.0 is an integer, and in Python True is one.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and low <= value <= high and kind(value) == value

    noun, article = ("integer", "an") if kind is int else ("number", "a")
    schema = {"type": noun, "minimum": low, "maximum": high}
    if default is not None:
        schema["default"] = default
    expected = f"{article} {noun} from {low} to {high}"
    return Key(name, schema, expected, is_valid, kind, default, meaning)


def _sampling(name: str, kind: type[Number], low: float, high: float, meaning: str) -> Key[Any]:
    return _number(name, kind, low, high, getattr(SamplingParams(), name), meaning)


def _keyword(
    name: str, words: Mapping[str, Keyword], default: Default, meaning: str
) -> Key[Keyword | Default]:
    expected = f"one of {', '.join(words)}"

    # Not every value of JSON can be looked up in a dictionary.
    def is_valid(value: object) -> bool:
        return isinstance(value, str) and value in words

    defaults = [word for word, value in words.items() if value is default]
    schema = {"enum": list(words)} | dict(zip(["default"], defaults, strict=False))
    return Key(name, schema, expected, is_valid, words.__getitem__, default, meaning)


def _flag(name: str, *, default: bool, meaning: str) -> Key[bool]:
    schema = {"type": "boolean", "default": default}

    def is_valid(value: object) -> bool:
        return isinstance(value, bool)

    return Key(name, schema, "true or false", is_valid, bool, default, meaning)


def _identifier(name: str, meaning: str) -> Key[str | None]:
    schema = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
    expected = f"1 to {MAX_ID_BYTES} characters of A-Z a-z 0-9 . _ : -"
    return Key(name, schema, expected, is_id, str, None, meaning)


def is_id(value: object) -> bool:
    """Return whether a value can be the id of a request or a session."""
    return isinstance(value, str) and re.fullmatch(ID_PATTERN, value) is not None


ID = _identifier("id", "comes back in the reply; names the stream and the target of a cancel")
TRANSACTION = _identifier("transaction", "another name for `id`; `id` wins")
SESSION = _identifier("session", "continues a dialogue that the node holds")
MAX_TOKENS = _number("max_tokens", int, 1, 131_072, None, "longest answer, in tokens")
TIMEOUT_MS = _number(
    "timeout_ms", int, 1, 24 * 3600 * 1000, None, "deadline, from the arrival at the node"
)
SAMPLING_KEYS = (
    _sampling("temperature", float, 0, 2, "0 always takes the most likely token"),
    _sampling("top_k", int, 0, 1_000_000, "keep the k most likely tokens; 0 keeps all"),
    # With 0 no token would be kept.
    _sampling("top_p", float, 1e-6, 1, "keep the smallest set of tokens with this probability"),
    _sampling(
        "min_p", float, 0, 1, "drop tokens below this fraction of the best one's probability"
    ),
    _sampling(
        "repetition_penalty", float, 0.5, 2, "above 1, tokens seen before become less likely"
    ),
    # A signed integer of 64 bits, for clients in languages that have no longer ones.
    _sampling("seed", int, 0, 2**63 - 1, "same seed, same request, same answer"),
)
STREAM = _flag("stream", default=False, meaning="send fragments, too; needs an `id`")
SPECIALIST = Key(
    "specialist",
    {"type": "string", "pattern": f"^{SPECIALIST_PATTERN}$"},
    "the name of a specialist: 1 to 64 characters of a-z 0-9 -, not starting with -",
    lambda value: isinstance(value, str) and re.fullmatch(SPECIALIST_PATTERN, value) is not None,
    str,
    None,
    "answers in place of the plain model; `auto` takes the one that fits",
)
ESCALATE = _flag(
    "escalate", default=True, meaning="whether what a specialist is unsure of may be passed on"
)
PROBABILITIES = _flag(
    "probabilities", default=False, meaning="score the options, and answer with the best"
)
PRIORITY = _keyword(
    "priority",
    {priority.name.lower(): priority for priority in Priority},
    Priority.NORMAL,
    "which waiting request goes first",
)
ON_DEADLINE = _keyword(
    "on_deadline",
    {str(choice): choice for choice in OnDeadline},
    OnDeadline.REFUSE,
    "what to do when `max_tokens` cannot be produced in time",
)
FORMAT_TYPE = _keyword("type", {str(kind): kind for kind in FormatType}, None, "kind of answer")
