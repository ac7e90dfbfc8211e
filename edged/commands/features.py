"""Features of prompts, from a bundle that is loaded as the daemon loads it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edged.bundle.folder import open_bundle
from edged.engine.loading import load_engine
from edged.engine.steps import EngineSettings
from edged.engine.tokenizer import Tokenizer
from edged.errors import BundleError, UsageError
from edged.specialists.features import Layout, Template
from edged.specialists.folder import BaseModel, Specialist, read_specialist
from edged.specialists.writer import WRITER

_CONTEXT = 2048


class FeatureReader:
    """One loaded bundle; blocks for about a second.

    Raises:
        BundleError: the bundle is wrong, or gives no hidden states.
    """

    def __init__(self, folder: Path) -> None:
        bundle = open_bundle(folder)
        self.base = BaseModel.of(bundle.manifest)
        tokenizer = Tokenizer.load(bundle)
        # A pinned slot holds the template's beginning; the other runs one prompt after the other.
        self._engine = load_engine(bundle, EngineSettings(_CONTEXT, num_prefixes=1))
        self.layout = Layout(*self._engine.hidden_shape)
        if not self.layout.num_layers:
            raise BundleError(
                f"{folder}: gives no hidden states; rebuild it with this version's `edged build`"
            )
        self._template = Template(tokenizer.encode, tokenizer.beginning_ids)
        self._engine.make_prefix(self._template.before_ids)

    def specialist(self, folder: Path) -> Specialist:
        """Return a specialist of this bundle.

        Raises:
            BundleError: it is damaged, or taught to another model.
            UsageError: it writes its answers, which takes more than features.
        """
        if (folder / WRITER).exists():
            raise UsageError(
                f"{folder}: writes its answers; `edged eval` measures it, and a node gives them"
            )
        return read_specialist(folder, self.base, self.layout)

    def read(self, prompts: Sequence[str], note: Callable[[float], None]) -> NDArray[np.float32]:
        """Return ``[prompts, features]``; blocks for some 30 ms each.

        Raises:
            UsageError: a prompt is longer than the model's context.
        """
        rows = []
        for index, prompt in enumerate(prompts):
            rows.append(self.one(prompt))
            note((index + 1) / len(prompts))
        return np.stack(rows)

    def one(self, prompt: str) -> NDArray[np.float32]:
        """Return ``[features]`` of a prompt.

        Raises:
            UsageError: it is longer than the model's context.
        """
        engine = self._engine
        ids, pooling = self._template.prompt(prompt, self.layout.width)
        if len(ids) >= engine.max_model_len:
            raise UsageError(f"a prompt has {len(ids)} tokens; at most {engine.max_model_len} fit")
        engine.read(ids, pooling)
        return pooling.features()
