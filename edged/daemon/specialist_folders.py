"""The specialists of a node: read at the start, and again at a reload, beside the resident model.

Rule: a folder that is damaged, or made for another model, is left out with its reason; the other
specialists and the model serve.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edged.bundle.manifest import Manifest
from edged.engine.loop import Engine
from edged.engine.tokenizer import Tokenizer
from edged.errors import BundleError, UnavailableError
from edged.protocol.request import AUTO
from edged.specialists.asked import PLAIN_MODEL
from edged.specialists.features import Template
from edged.specialists.folder import (
    ARRAYS,
    DESCRIPTION,
    MAX_DESCRIPTION_BYTES,
    BaseModel,
    Specialist,
    read_specialist,
)
from edged.specialists.installed import Installed
from edged.specialists.scoring import OptionScoring

_LOG = logging.getLogger(__name__)

# The arrays are float16 in the file and float32 in memory.
_SIZE_FACTOR = 2
_OLD_BUNDLE = (
    "the model's bundle gives no hidden states; rebuild it with this version's `edged build`"
)


def planned_bytes(folders: Sequence[Path]) -> int:
    """Return what these specialists will take in memory; 0 for those that cannot be read."""
    sizes = []
    for folder in folders:
        try:
            sizes.append((folder / ARRAYS).stat().st_size)
        except OSError:  # reading it says what is wrong
            continue
    return _SIZE_FACTOR * sum(sizes)


class SpecialistFolders:
    """The specialists of a resident model.

    Args:
        base: What the model is.
        template: What specialists read, in its tokens.
        width: Numbers of a token's hidden states; 0 where the model gives none.
        scoring: What decides for an option without a specialist.
    """

    def __init__(
        self,
        base: BaseModel | None = None,
        template: Template | None = None,
        width: int = 0,
        scoring: OptionScoring | None = None,
    ) -> None:
        self._base = base
        self._template = template
        self._width = width
        self._scoring = scoring
        self.installed = Installed(template, width, scoring=scoring)
        """What serves now; replaced as a whole, so that any thread may read it."""
        self.problems: dict[str, str] = {}
        """Why a folder does not serve, by its name."""
        self._digests: dict[Path, str] = {}

    @classmethod
    def of(cls, manifest: Manifest, engine: Engine, tokenizer: Tokenizer) -> "SpecialistFolders":
        """Return those of a loaded model, none of which is read yet."""
        num_layers, hidden_size = engine.hidden_shape
        template = Template(tokenizer.encode, tokenizer.beginning_ids)
        scoring = OptionScoring(tokenizer.encode)
        return cls(BaseModel.of(manifest), template, num_layers * hidden_size, scoring)

    def read(self, folders: Sequence[Path]) -> None:
        """Serve what is in these folders, and nothing else; blocks for milliseconds each."""
        problems: dict[str, str] = {}
        found: dict[str, Specialist] = {}
        for folder in folders:
            try:
                specialist = self._read(folder, found)
                found[specialist.description.name] = specialist
            except (BundleError, UnavailableError) as error:
                problems[folder.name] = str(error)
                _LOG.error("specialist not used: %s", error)
        self._digests = {folder: _digest(folder) for folder in folders}
        self.problems = problems
        self.installed = Installed(self._template, self._width, found, self._scoring)
        if found:
            _LOG.info("specialists: %s", ", ".join(sorted(found)))

    def is_changed(self, folders: Sequence[Path]) -> bool:
        """Return whether ``read`` would change what serves."""
        return self._digests != {folder: _digest(folder) for folder in folders}

    def info(self) -> list[dict[str, Any]]:
        """Describe them, for ``info``."""
        served = [one.info() for one in self.installed.specialists.values()]
        return served + [{"name": name, "error": text} for name, text in self.problems.items()]

    def _read(self, folder: Path, others: Mapping[str, Specialist]) -> Specialist:
        if self._base is None or not self._width:
            raise BundleError(f"{folder}: {_OLD_BUNDLE}")
        specialist = read_specialist(folder, self._base)
        name = specialist.description.name
        if name in others or name in (AUTO, PLAIN_MODEL):
            raise BundleError(f"{folder}: the name {name} is taken; teach it with another --name")
        return specialist


def _digest(folder: Path) -> str:
    """Identify what a folder says; the hash of its arrays is part of that."""
    try:
        with (folder / DESCRIPTION).open("rb") as file:
            return hashlib.sha256(file.read(MAX_DESCRIPTION_BYTES)).hexdigest()
    except OSError:
        return ""
