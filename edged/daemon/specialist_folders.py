"""The specialists of a node: read at the start, and again at a reload, beside the resident model.

Rule: a folder that is damaged, or made for another model, is left out with its reason; the other
specialists and the model serve.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from edged.bundle.manifest import Manifest
from edged.bundle.plain_file import read_plain
from edged.bundle.signature import SIGNATURE
from edged.bundle.store import is_of_store
from edged.bundle.trust import Trust
from edged.engine.loop import Engine
from edged.engine.tokenizer import Tokenizer
from edged.engine.writer_prompts import WriterPrompts
from edged.errors import BundleError, UnavailableError
from edged.specialists.adapter import MAX_BYTES, AdaptedModel, AdapterShape
from edged.specialists.features import Layout, Template
from edged.specialists.folder import (
    ARRAYS,
    DESCRIPTION,
    MAX_ARRAYS_BYTES,
    MAX_DESCRIPTION_BYTES,
    BaseModel,
    Specialist,
    read_specialist,
)
from edged.specialists.gate import fit_bytes, fitted_gate
from edged.specialists.installed import Installed
from edged.specialists.names import PLAIN_MODEL
from edged.specialists.scoring import OptionScoring
from edged.specialists.writer import ADAPTER, CHOICE, WRITER, Writer, read_writer

_LOG = logging.getLogger(__name__)

# Of an adapter's file: half of it is in 8 bits there, and in fp32 where it runs.
_SLOT_COPIES = 4
_OLD_BUNDLE = (
    "the model's bundle gives no hidden states; rebuild it with this version's `edged build`"
)


def planned_bytes(folders: Sequence[Path], num_slots: int) -> int:
    """Return what it takes at most to read these specialists and to fit their gate.

    Each slot holds a copy of an adapter, in the form in which it runs.

    What stays is less, see ``Installed.size_bytes``. Those that cannot be read take nothing.
    """
    heads = _sizes(folders, ARRAYS, MAX_ARRAYS_BYTES)
    adapters = _sizes(folders, ADAPTER, MAX_BYTES)
    choices = _sizes([folder / CHOICE for folder in folders], ARRAYS, MAX_ARRAYS_BYTES)
    slot_bytes = num_slots * _SLOT_COPIES * max(adapters, default=0)
    return sum([*heads, *adapters, *choices]) + fit_bytes(sum(heads)) + slot_bytes


def _sizes(folders: Sequence[Path], name: str, most: int) -> list[int]:
    sizes = []
    for folder in folders:
        with contextlib.suppress(OSError):  # reading it says what is wrong
            sizes.append((folder / name).stat().st_size)
    # What is larger is not read.
    return [size for size in sizes if size <= most]


def needs_adapters(folders: Sequence[Path]) -> bool:
    """Return whether one of these specialists writes, for which the model must take adapters."""
    return any(map(_writes, folders))


def _writes(folder: Path) -> bool:
    try:
        return (folder / WRITER).exists()
    except OSError:  # reading it says what is wrong
        return False


class Adaptable(NamedTuple):
    """What a specialist that writes must be made for."""

    model: AdaptedModel
    shape: AdapterShape
    check: Callable[[Writer], None]
    """Raises ``BundleError`` where no request could be prepared for it."""


class SpecialistFolders:
    """The specialists of a resident model.

    Args:
        base: What the model is.
        template: What specialists read, in its tokens.
        layout: Of a token's hidden states; None where the model gives none.
        scoring: What decides for an option without a specialist.
        adaptable: What those that write must be made for; None without a model.
        read_trust: Returns who must have signed them, anew at each reading.
    """

    def __init__(
        self,
        base: BaseModel | None = None,
        template: Template | None = None,
        layout: Layout | None = None,
        scoring: OptionScoring | None = None,
        adaptable: Adaptable | None = None,
        read_trust: Callable[[], Trust | None] = lambda: None,
    ) -> None:
        self._base = base
        self._adaptable = adaptable
        self._template = template
        self._layout = layout
        self._width = 0 if layout is None else layout.width
        self._scoring = scoring
        self.installed = Installed(template, self._width, scoring=scoring)
        """What serves now; replaced as a whole, so that any thread may read it."""
        self.problems: dict[str, str] = {}
        """Why a folder does not serve, by its name."""
        self._read_trust = read_trust
        self._digests: dict[Path, str] = {}

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        engine: Engine,
        tokenizer: Tokenizer,
        read_trust: Callable[[], Trust | None],
    ) -> "SpecialistFolders":
        """Return those of a loaded model, none of which is read yet."""
        layout = Layout(*engine.hidden_shape)
        template = Template(tokenizer.encode, tokenizer.beginning_ids)
        scoring = OptionScoring(tokenizer.encode)
        # A second one: requests are prepared on another thread.
        check = WriterPrompts(tokenizer, engine.max_model_len).check
        adaptable = Adaptable(AdaptedModel.of(manifest), engine.adapter_shape, check)
        layout_given = layout if layout.width else None
        base = BaseModel.of(manifest)
        return cls(base, template, layout_given, scoring, adaptable, read_trust)

    def read(self, folders: Sequence[Path]) -> None:
        """Serve what is in these folders, and nothing else; blocks for up to half a second."""
        problems: dict[str, str] = {}
        found: dict[str, Specialist] = {}
        writers: dict[str, Writer] = {}
        for folder in folders:
            try:
                if _writes(folder):
                    writer = self._read_writer(folder)
                    _check_name(folder, writer.description.name, {*found, *writers})
                    writers[writer.description.name] = writer
                    continue
                specialist = self._read(folder)
                _check_name(folder, specialist.description.name, {*found, *writers})
                found[specialist.description.name] = specialist
            except (BundleError, UnavailableError) as error:
                # Of a store, the link to what serves has the same name as that of any other.
                shown = folder.parent if is_of_store(folder) else folder
                problems[shown.name] = str(error)
                _LOG.error("specialist not used: %s", error)
        self._digests = self._found(folders)
        self.problems = problems
        gate = fitted_gate(found)
        # Their examples were needed for that alone.
        found = {name: replace(one, gate=None) for name, one in found.items()}
        self.installed = Installed(
            self._template,
            self._width,
            found,
            scoring=self._scoring,
            gate=gate,
            writers=writers,
        )
        for name, one in (found | writers).items():
            target = one.description.escalate
            if target is not None and target not in {*found, *writers, PLAIN_MODEL}:
                _LOG.warning("specialist %s passes on to %s, which does not serve", name, target)
        if found or writers:
            _LOG.info("specialists: %s", ", ".join(sorted({*found, *writers})))

    def is_changed(self, folders: Sequence[Path]) -> bool:
        """Return whether ``read`` would change what serves."""
        return self._digests != self._found(folders)

    def _found(self, folders: Sequence[Path]) -> dict[Path, str]:
        try:
            trust = str(self._read_trust())
        except (BundleError, UnavailableError) as error:
            trust = str(error)
        return {folder: _digest(folder, trust) for folder in folders}

    def info(self) -> list[dict[str, Any]]:
        """Describe them, for ``info``."""
        served = [one.info() for one in self.installed.specialists.values()]
        served += [one.info() for one in self.installed.writers.values()]
        return served + [{"name": name, "error": text} for name, text in self.problems.items()]

    def _read(self, folder: Path) -> Specialist:
        if self._base is None or self._layout is None:
            raise BundleError(f"{folder}: {_OLD_BUNDLE}")
        return read_specialist(folder, self._base, self._layout, self._read_trust())

    def _read_writer(self, folder: Path) -> Writer:
        if self._adaptable is None:
            raise BundleError(f"{folder}: there is no model that it could adapt")
        model, shape, check = self._adaptable
        writer = read_writer(folder, model, shape, self._layout, self._read_trust())
        try:
            check(writer)
        except BundleError as error:
            raise BundleError(f"{folder}: {error}") from error
        return writer


def _check_name(folder: Path, name: str, others: Collection[str]) -> None:
    if name in others:
        raise BundleError(f"{folder}: the name {name} is taken; teach it with another --name")


def _digest(folder: Path, trust: str) -> str:
    """Identify what a folder says, and who vouches for it; the arrays' hash is a part of that."""
    digest = hashlib.sha256(trust.encode())
    for name in (DESCRIPTION, WRITER, SIGNATURE):
        with contextlib.suppress(OSError):
            digest.update(read_plain(folder / name, MAX_DESCRIPTION_BYTES))
        digest.update(name.encode())
    return digest.hexdigest()
