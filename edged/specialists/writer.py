"""A specialist that writes, on disk: ``writer.json``, and its adapters in PEFT's folder beside it.

Rule: nothing of a folder is used before it was compared with its description; sizes are bounded
before anything is read. Another's folder may be made to do harm.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from edged.bundle.strict_json import decode, read_json
from edged.errors import BundleError, BundleUnavailableError
from edged.protocol.request import ChatMessage
from edged.specialists.compact.schemas import ShapeError
from edged.specialists.folder import BaseModel, Result
from edged.specialists.names import NAME, check_names
from edged.specialists.wording import (
    TEXT,
    Wording,
    WordingKind,
    wording_of_schema,
    wording_of_tools,
)

FORMAT = 1
WRITER, ADAPTER = "writer.json", "adapter"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MAX_WRITER_BYTES = 1 << 20
MAX_TEMPLATE_CHARACTERS = 8192
MAX_SCHEMA_CHARACTERS = 262_144
# Said before every prompt where the specialist has no template: the model's own system text, which
# many chat templates put in where there is none, would be longer.
DEFAULT_TEMPLATE = "Answer with commands."
REPAIR = "teach it again with `edged teach`"


@dataclass(frozen=True, slots=True)
class WriterDescription:
    """Everything that is known of a writer without its adapters."""

    format: int
    name: Annotated[str, NAME]
    base: BaseModel
    template: str
    """Jinja, which may use ``inputs``: the system text."""
    schema: str
    """JSON: of the answers, or the list of functions; empty where they are texts."""
    is_list: bool
    """Whether an answer is a list of calls."""
    has_text: bool
    """Whether an answer may be a text in place of a call."""
    grounded: tuple[str, ...]
    """Keys of fields whose values stand in the prompt."""
    slope: float
    """Log-odds of being right are slope · log(probability of the answer) + shift."""
    shift: float
    unsure_below: float
    """Least confidence of an answer."""
    result: Result
    adapter_sha256: str
    """Of its files, one after the other."""
    escalate: str | None = None
    """What an unsure prompt is passed on to: another specialist, or ``model``."""

    @property
    def wording(self) -> Wording:
        """How its answers are written.

        Raises:
            ValueError: The schema is none.
        """
        if not self.schema:
            return TEXT
        schema = json.loads(self.schema)
        if isinstance(schema, list):
            examples = [*([[]] if self.is_list else []), *([""] if self.has_text else [])]
            return replace(wording_of_tools(schema, examples), grounded=self.grounded)
        if not isinstance(schema, dict):
            raise ValueError("schema must be an object, or a list of functions")  # noqa: TRY004
        return replace(wording_of_schema(schema)[0], grounded=self.grounded)

    def confidence(self, log_probability: float) -> float:
        """Return how probably an answer is right, from the probability of its tokens."""
        odds = min(max(self.slope * log_probability + self.shift, -30.0), 30.0)
        return 1 / (1 + math.exp(-odds))


def messages_of(
    system: str, said: Sequence[str], answers: Sequence[str]
) -> tuple[ChatMessage, ...]:
    """Return the messages up to where an answer begins.

    Args:
        system: What the template says; nothing where it is empty.
        said: By the user, one more than there are answers.
        answers: As they were written.
    """
    messages = [ChatMessage("system", system)] if system else []
    for index, text in enumerate(said):
        messages.append(ChatMessage("user", text))
        if index < len(answers):
            messages.append(ChatMessage("assistant", answers[index]))
    return tuple(messages)


def heard(messages: Sequence[ChatMessage]) -> str:
    """Return all that was said, for the grammar: without the template, with earlier answers."""
    return "\n".join(one.content for one in messages if one.role != "system")


def schema_text(wording: Wording) -> str:
    """Return a wording's schema as a description holds it."""
    return "" if wording.kind is WordingKind.TEXT else json.dumps(wording.schema)


def adapter_sha256(folder: Path) -> str:
    """Return the hash of a writer's adapters.

    Raises:
        OSError: They cannot be read.
    """
    found = hashlib.sha256()
    for name in ADAPTER_FILES:
        with (folder / ADAPTER / name).open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def write_writer(folder: Path, description: WriterDescription) -> None:
    """Write the description; the adapters are there already.

    Raises:
        OSError: It cannot be written.
    """
    tree = asdict(description)
    text = json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (folder / WRITER).write_text(text + "\n", encoding="utf-8")


def read_writer(folder: Path, base: BaseModel) -> WriterDescription:
    """Read and check a folder; blocks for milliseconds.

    Args:
        folder: May come from a stranger.
        base: Of the bundle.

    Raises:
        BundleError: It is damaged, or taught to another base; it says what to do.
        BundleUnavailableError: A file cannot be read now.
    """
    try:
        with (folder / WRITER).open("rb") as file:
            data = file.read(MAX_WRITER_BYTES + 1)
    except OSError as error:
        raise BundleUnavailableError(
            f"{folder / WRITER}: cannot be read: {error.strerror}"
        ) from error
    if len(data) > MAX_WRITER_BYTES:
        raise BundleError(f"{folder / WRITER}: larger than {MAX_WRITER_BYTES} bytes; {REPAIR}")
    try:
        description = decode(WriterDescription, read_json(data))
        _check(description)
    except (ValueError, ShapeError, RecursionError) as error:
        raise BundleError(f"{folder}: {WRITER}: {error}; {REPAIR}") from error
    if description.base != base:
        raise BundleError(f"{folder}: taught to another model; {REPAIR}, with --model this bundle")
    try:
        digest = adapter_sha256(folder)
    except OSError as error:
        raise BundleUnavailableError(f"{folder}: cannot be read: {error.strerror}") from error
    if digest != description.adapter_sha256:
        raise BundleError(f"{folder}: {ADAPTER} is not what {WRITER} says; {REPAIR}")
    return description


def _check(description: WriterDescription) -> None:
    # What the types of the description do not say.
    if description.format != FORMAT:
        raise ValueError(f"format {description.format} is not known")
    check_names(description.name, description.escalate)
    for name, most in (("template", MAX_TEMPLATE_CHARACTERS), ("schema", MAX_SCHEMA_CHARACTERS)):
        if len(getattr(description, name)) > most:
            raise ValueError(f"{name} has more than {most} characters")
    for name in ("slope", "shift", "unsure_below"):
        if not abs(getattr(description, name)) <= 1e6:  # noqa: PLR2004
            raise ValueError(f"{name} is not a number that could be")
    description.wording  # noqa: B018 - it must be one
