"""A specialist that writes: its folder, how it is asked, and what its answers say.

A folder has ``writer.json`` and ``adapter.safetensors``, and in ``choice/`` the head that has a say
in what answers begin with, where there is one (``choice``). What PEFT reads, and ``edged teach
--adapter``, is in ``peft/`` beside them; a node needs nothing of it.

Rule: nothing of a folder is used before it was compared with its description; sizes are bounded
before anything is read. Another's folder may be made to do harm.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from edged.bundle.plain_file import read_plain
from edged.bundle.strict_json import decode, read_json
from edged.bundle.trust import Trust
from edged.errors import BundleError, BundleUnavailableError
from edged.protocol.request import Answer, ChatMessage, FinishReason
from edged.specialists.adapter import MAX_BYTES, AdaptedModel, Adapter, AdapterShape, read_adapter
from edged.specialists.choice import ChoiceHead, Powers
from edged.specialists.compact.shapes import Inputs, ShapeError
from edged.specialists.demanded import Demands
from edged.specialists.features import Layout
from edged.specialists.folder import (
    DESCRIPTION,
    FEATURES_VERSION,
    MAX_DESCRIPTION_BYTES,
    BaseModel,
    Result,
    files_of,
    read_specialist,
)
from edged.specialists.names import NAME, check_names
from edged.specialists.replacing import read_described, replace_files
from edged.specialists.wording import (
    TEXT,
    Wording,
    WordingKind,
    wording_of_schema,
    wording_of_tools,
)

FORMAT = 1
WRITER, ADAPTER, PEFT, CHOICE = "writer.json", "adapter.safetensors", "peft", "choice"
MAX_WRITER_BYTES = 1 << 20
MAX_TEMPLATE_CHARACTERS = 8192
MAX_SCHEMA_CHARACTERS = 262_144
# Of an answer that a folder may ask for where the request does not; it is admitted in full.
MAX_ANSWER_TOKENS = 512
# Said where the specialist has no template: the system text of many chat templates is longer.
DEFAULT_TEMPLATE = "Answer with commands."
REPAIR = "teach it again with `edged teach`"


@dataclass(frozen=True, slots=True)
class ChoiceDescription:
    """The head that has a say in what answers begin with."""

    powers: Powers
    sha256: str
    """Of its description, which has that of its arrays."""


@dataclass(frozen=True, slots=True)
class WriterDescription:
    """Everything that is known of a writer without its adapter."""

    format: int
    name: Annotated[str, NAME]
    base: AdaptedModel
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
    demands: Demands
    """What is answered wherever the prompt says it."""
    slope: float
    """Log-odds of being right are slope · log(probability of the answer) + shift."""
    shift: float
    unsure_below: float
    """Least confidence of an answer."""
    result: Result
    adapter_sha256: str
    mean_kl: float
    """Of the adapted int8 model against the adapted fp32 model."""
    escalate: str | None = None
    """What an unsure prompt is passed on to: another specialist, or ``model``."""
    max_tokens: int = 128
    """Of an answer, where a request does not say: those of the longest example, and some room."""
    choice: ChoiceDescription | None = None
    """None where the adapted model chooses alone."""

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
            found = wording_of_tools(schema, examples)
            return replace(found, grounded=self.grounded, demands=self.demands)
        if not isinstance(schema, dict):
            raise ValueError("schema must be an object, or a list of functions")  # noqa: TRY004
        found = wording_of_schema(schema)[0]
        return replace(found, grounded=self.grounded, demands=self.demands)

    def confidence(self, log_probability: float) -> float:
        """Return how probably an answer is right, from the probability of its tokens."""
        odds = min(max(self.slope * log_probability + self.shift, -30.0), 30.0)
        return 1 / (1 + math.exp(-odds))


def tokens_allowed(longest: int) -> int:
    """Return the most tokens of an answer, from those of the longest example.

    A request may name more things than any example, and in longer words.
    """
    return min(longest + longest // 2 + 8, MAX_ANSWER_TOKENS)


def messages_of(said: Sequence[str], answers: Sequence[str]) -> tuple[ChatMessage, ...]:
    """Return the messages up to where an answer begins.

    Args:
        said: By the user, one more than there are answers.
        answers: As they were written.
    """
    messages = []
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


@dataclass(frozen=True, slots=True)
class Writer:
    """A specialist that writes, read and checked, or just made."""

    description: WriterDescription
    wording: Wording
    adapter: Adapter
    choice: ChoiceHead | None = None

    @property
    def size_bytes(self) -> int:
        """Of its arrays in memory."""
        return self.adapter.size_bytes + (
            0 if self.choice is None else self.choice.specialist.size_bytes
        )

    def info(self) -> dict[str, Any]:
        """Describe it, for ``info``."""
        said = self.description
        return {
            "name": said.name,
            "kind": "text" if self.wording.kind is WordingKind.TEXT else "json",
            "accuracy": round(said.result.accuracy, 4),
            "size_bytes": self.size_bytes,
        }


@dataclass(frozen=True, slots=True)
class WriterAnswers:
    """What the texts of a writer say, with the inputs of one request."""

    writer: Writer
    inputs: Inputs
    said: str = ""
    """All that was said before."""

    @property
    def adapter(self) -> Adapter:
        """What is added to the model while it writes."""
        return self.writer.adapter

    def answer(self, text: str, log_probability: float, reason: FinishReason) -> Answer:
        """Return the answer that a text is; only what is whole and sure enough has ``json``.

        Args:
            text: As it was decoded.
            log_probability: Of all its tokens, among those that the grammar allowed.
            reason: Why it ended.
        """
        said = self.writer.description
        detail: dict[str, Any] = {"specialist": said.name}
        if reason is not FinishReason.STOP:
            return Answer(text, reason, detail=detail)
        detail["confidence"] = round(said.confidence(log_probability), 4)
        try:
            value = self.writer.wording.read(text, self.inputs, self.said)
        except ValueError:  # it names several things
            value, is_sure = None, False
        else:
            is_sure = said.confidence(log_probability) >= said.unsure_below
        if not is_sure:
            may_leave = said.escalate is None
            return Answer(text, FinishReason.UNSURE, detail=detail, may_leave=may_leave)
        json = None if self.writer.wording.kind is WordingKind.TEXT else value
        return Answer(text, reason, json, detail=detail)


def write_writer(
    folder: Path, description: WriterDescription, adapter: bytes, choice: ChoiceHead | None = None
) -> None:
    """Write a folder; the description gets the hashes of the adapter and of the head for choices.

    Raises:
        ValueError: The adapter has more than ``MAX_BYTES``.
        OSError: It cannot be written.
    """
    if len(adapter) > MAX_BYTES:
        raise ValueError(
            f"the adapter has {len(adapter)} bytes, more than {MAX_BYTES}; lower its rank"
        )
    files = {}
    if choice is not None:
        files = {f"{CHOICE}/{name}": data for name, data in files_of(choice.specialist).items()}
        said = hashlib.sha256(files[f"{CHOICE}/{DESCRIPTION}"]).hexdigest()
        description = replace(description, choice=ChoiceDescription(choice.powers, said))
    tree = asdict(replace(description, adapter_sha256=hashlib.sha256(adapter).hexdigest()))
    if description.choice is None:  # earlier versions do without, too
        del tree["choice"]
    text = json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    replace_files(folder, files | {ADAPTER: adapter, WRITER: f"{text}\n".encode()})
    if choice is None:
        shutil.rmtree(folder / CHOICE, ignore_errors=True)  # of what was taught there before


def read_writer(
    folder: Path,
    base: AdaptedModel,
    shape: AdapterShape,
    layout: Layout | None = None,
    trust: Trust | None = None,
) -> Writer:
    """Read and check a folder; blocks for milliseconds.

    Args:
        folder: May come from a stranger.
        base: Of the bundle.
        shape: Of the products that its graph can adapt.
        layout: Of the features that it gives; None where that is not known yet.
        trust: Who must have signed it; None where nobody must.

    Raises:
        BundleError: It is damaged, not signed, taught to another base, or the model takes no
            adapters; it says what to do.
        BundleUnavailableError: A file cannot be read now.
    """
    if not shape:
        raise BundleError(
            f"{folder}: the model's bundle takes no adapters; rebuild it with this version's "
            "`edged build`"
        )
    files = read_files(folder, base, layout, trust)
    try:
        adapter = read_adapter(files.adapter, shape)
    except ValueError as error:
        raise BundleError(f"{folder}: {ADAPTER}: {error}; {REPAIR}") from error
    files.check_adapter(folder)
    return Writer(files.description, files.wording, adapter.scaled(files.factor), files.choice)


class WriterFiles(NamedTuple):
    """The content of a folder; what its adapter holds was not looked at."""

    description: WriterDescription
    wording: Wording
    adapter: bytes
    factor: float
    """What the adapter is multiplied by for the bundle's model."""
    choice: ChoiceHead | None

    def check_adapter(self, folder: Path) -> None:
        """Check that the adapter is the one that the description names.

        Raises:
            BundleError: It is not.
        """
        if hashlib.sha256(self.adapter).hexdigest() != self.description.adapter_sha256:
            raise BundleError(f"{folder}: {ADAPTER} is not what {WRITER} says; {REPAIR}")


def read_files(
    folder: Path, base: AdaptedModel, layout: Layout | None = None, trust: Trust | None = None
) -> WriterFiles:
    """Read and check the files of a folder, of which no graph is needed; as ``read_writer``.

    Raises:
        BundleError: One is damaged, or nobody signed it, or it was taught to another base.
        BundleUnavailableError: One cannot be read now.
    """
    text = _read(folder / WRITER, MAX_WRITER_BYTES)
    description, wording = _described(folder, text)
    factor = base.factor_from(description.base)
    if factor is None:
        raise BundleError(f"{folder}: taught to another model; {REPAIR}, with --model this bundle")
    data = _read(folder / ADAPTER, MAX_BYTES, description.adapter_sha256)
    if trust is not None:
        trust.check_read(folder, {WRITER: text, ADAPTER: data})
    # What is signed has the hash of the rest.
    choice = _read_choice(folder / CHOICE, description.choice, base, layout)
    return WriterFiles(description, wording, data, factor, choice)


def read_description(folder: Path) -> tuple[WriterDescription, Wording]:
    """Read and check what a folder says of its writer, and the form of its answers.

    Raises:
        BundleError: It is damaged.
        BundleUnavailableError: It cannot be read now.
    """
    return _described(folder, _read(folder / WRITER, MAX_WRITER_BYTES))


def _described(folder: Path, text: bytes) -> tuple[WriterDescription, Wording]:
    """Return what a description says, and the form of its answers.

    Raises:
        BundleError: It is damaged.
    """
    try:
        tree = read_json(text)
        if isinstance(tree, dict):  # folders of earlier versions have none
            tree.setdefault("choice", None)
        description = decode(WriterDescription, tree)
        _check(description)
        wording = description.wording
    except (ValueError, ShapeError, RecursionError) as error:
        raise BundleError(f"{folder}: {WRITER}: {error}; {REPAIR}") from error
    return description, wording


def _read_choice(
    folder: Path, said: ChoiceDescription | None, base: AdaptedModel, layout: Layout | None
) -> ChoiceHead | None:
    if said is None:
        return None
    found = _read(folder / DESCRIPTION, MAX_DESCRIPTION_BYTES, said.sha256)
    if hashlib.sha256(found).hexdigest() != said.sha256:
        raise BundleError(f"{folder}: {DESCRIPTION} is not what {WRITER} says; {REPAIR}")
    plain = BaseModel(base.source, base.tokenizer, base.plain_form, FEATURES_VERSION)
    try:
        read = read_specialist(folder, plain, layout)
        return ChoiceHead.of(replace(read, gate=None), said.powers)  # no gate asks for it
    except ValueError as error:
        raise BundleError(f"{folder}: {error}; {REPAIR}") from error


def _read(path: Path, most: int, sha256: str | None = None) -> bytes:
    try:
        return read_plain(path, most) if sha256 is None else read_described(path, most, sha256)
    except OSError as error:
        raise BundleUnavailableError(f"{path}: cannot be read: {error.strerror}") from error


def _check(description: WriterDescription) -> None:
    # What the types of the description do not say.
    if description.format != FORMAT:
        raise ValueError(f"format {description.format} is not known")
    check_names(description.name, description.escalate)
    for name, most in (("template", MAX_TEMPLATE_CHARACTERS), ("schema", MAX_SCHEMA_CHARACTERS)):
        if len(getattr(description, name)) > most:
            raise ValueError(f"{name} has more than {most} characters")
    if not 1 <= description.max_tokens <= MAX_ANSWER_TOKENS:
        raise ValueError(f"max_tokens is not from 1 to {MAX_ANSWER_TOKENS}")
    for name in ("slope", "shift", "unsure_below", "mean_kl"):
        if not abs(getattr(description, name)) <= 1e6:  # noqa: PLR2004
            raise ValueError(f"{name} is not a number that could be")
    if description.choice is not None:
        description.choice.powers.check()
