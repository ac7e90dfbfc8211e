"""The resident model: everything that must be in memory, and have worked once, before READY.

Rule: whoever sees READY can be answered; so the first answer and the first grammar are made here.
"""

import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from edged import memory
from edged.admission import MemoryBudget
from edged.bundle import Bundle, open_bundle
from edged.config import Config
from edged.costmodel import Cost
from edged.engine import Engine, EngineSettings, load_engine
from edged.engine.prepared import prepared_model
from edged.footprint import Footprint, claim
from edged.grammar import compile_format
from edged.prefixes import keep_prefixes, system_prompts
from edged.request import ChatMessage, FormatType, OutputFormat, SamplingParams
from edged.tokenizer import Tokenizer
from edged.tuning import known_tuning

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """What is resident."""

    bundle: Bundle
    footprint: Footprint
    engine: Engine
    tokenizer: Tokenizer
    cost: Cost | None
    """What answers take here, where it is known; else it is measured after READY."""
    started_s: float


def load(config: Config) -> ResidentModel:
    """Load the model and have it answer once; blocks for seconds.

    Raises:
        ConfigError: If the bundle or its budget is wrong.
    """
    started_s = time.monotonic()
    bundle = open_bundle(config.model.path)
    if not bundle.manifest.quality.passed:
        _LOG.warning("%s: its build missed the quality gate; see the manifest", bundle.folder)
    footprint = claim(config, bundle)
    room_bytes = _room_bytes(footprint.budget)
    model_path = prepared_model(bundle, _prepared_folder(config), room_bytes)
    tuning = known_tuning(config, bundle, model_path)
    settings = EngineSettings(
        config.model.max_model_len,
        config.model.num_threads,
        config.model.prefill_chunk_tokens or tuning.chunk_tokens,
        footprint.num_slots,
        num_prefixes=len(system_prompts(config)),
        has_flash=tuning.has_flash,
        model_path=model_path,
    )
    engine = load_engine(bundle, settings)
    tokenizer = Tokenizer.load(bundle)
    keep_prefixes(config, bundle, engine, tokenizer)
    prompt_ids = tokenizer.encode_chat((ChatMessage("user", "Hello"),))
    for _ in engine.generate(prompt_ids, SamplingParams(), max_tokens=1):
        pass
    # The first grammar reads the whole vocabulary; later that would hold up everybody's requests.
    compile_format(tokenizer, OutputFormat(FormatType.CHOICE, choices=("yes", "no")))
    memory.return_freed()
    _LOG.info(
        "ready after %.1f s: %s, %d MiB resident of %d",
        time.monotonic() - started_s,
        bundle.model_id,
        memory.rss_bytes() >> 20,
        footprint.budget.limit_bytes >> 20,
    )
    return ResidentModel(bundle, footprint, engine, tokenizer, None, started_s)


def _room_bytes(budget: MemoryBudget) -> int:
    """Return what the budget and the device leave beside what is held now."""
    held = memory.snapshot()
    return min(
        budget.limit_bytes - held.rss_bytes, held.available_bytes - budget.min_available_bytes
    )


def _prepared_folder(config: Config) -> Path:
    """Name the folder of the prepared copy: with the state, or beside the model."""
    if config.state.folder is not None:
        return config.state.folder / "prepared"
    path = config.model.path.resolve()
    return path.with_name(f"{path.name}.prepared")


class Language:
    """The tokenizer and the grammar of one model, behind one door."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.encode_chat = tokenizer.encode_chat
        self.compile_format = functools.partial(compile_format, tokenizer)
