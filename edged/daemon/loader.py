"""The resident model: everything that must be in memory, and have worked once, before READY.

Rule: whoever sees READY can be answered; so the first answer and the first grammar are made here.
"""

import functools
import logging
import time
from dataclasses import dataclass, replace

from edged.bundle.folder import Bundle, open_bundle
from edged.config import Config
from edged.daemon import memory
from edged.daemon.autotune import fitted_settings
from edged.daemon.memory_plan import Footprint, claim
from edged.daemon.warm_prefixes import keep_prefixes, system_prompts
from edged.engine.grammar import compile_format
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.tokenizer import Tokenizer
from edged.errors import BundleError
from edged.protocol.request import ChatMessage, FormatType, OutputFormat, SamplingParams
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.memory_budget import MemoryBudget

_LOG = logging.getLogger(__name__)

# Of the budget: what a start may reserve before it is stopped, with what is never touched.
_GROWTH = 2
_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """What is resident."""

    bundle: Bundle
    footprint: Footprint
    engine: Engine
    tokenizer: Tokenizer
    cost: CostEstimate | None
    """What answers take here, where it is known; else it is measured after READY."""
    started_s: float


def load(config: Config) -> ResidentModel:
    """Load the model and have it answer once; blocks for seconds.

    Raises:
        ConfigError: If the model does not fit into its budget.
        BundleError: If the bundle is wrong.
    """
    started_s = time.monotonic()
    memory.keep_one_heap()
    bundle = open_bundle(config.model.path)
    if not bundle.manifest.quality.passed:
        _LOG.warning("%s: its build missed the quality gate; see the manifest", bundle.folder)
    footprint = claim(config, bundle)
    with memory.limited_growth(_GROWTH * footprint.budget.limit_bytes):
        engine, tokenizer = _load(config, bundle, footprint)
    memory.return_freed()
    _LOG.info(
        "ready after %.1f s: %s, %d MiB resident of %d",
        time.monotonic() - started_s,
        bundle.model_id,
        memory.rss_bytes() >> 20,
        footprint.budget.limit_bytes >> 20,
    )
    return ResidentModel(bundle, footprint, engine, tokenizer, None, started_s)


def _load(config: Config, bundle: Bundle, footprint: Footprint) -> tuple[Engine, Tokenizer]:
    settings = replace(
        fitted_settings(config, bundle, footprint.num_slots, _room_bytes(footprint.budget)),
        num_prefixes=len(system_prompts(config)),
    )
    engine = load_engine(bundle, settings)
    tokenizer = Tokenizer.load(bundle)
    try:
        keep_prefixes(config, bundle, engine, tokenizer)
        prompt_ids = tokenizer.encode_chat((ChatMessage("user", "Hello"),))
        for _ in engine.generate(prompt_ids, SamplingParams(), max_tokens=1):
            pass
    except Exception as error:  # the template's, or ONNX Runtime's
        reason = str(error).partition("\n")[0][:_REASON_CHARACTERS]
        raise BundleError(
            f"{bundle.folder}: it is loaded and cannot answer ({reason}); do not use this bundle, "
            "rebuild it with `edged build`"
        ) from error
    # The first grammar reads the whole vocabulary; later that would hold up everybody's requests.
    compile_format(tokenizer, OutputFormat(FormatType.CHOICE, choices=("yes", "no")))
    return engine, tokenizer


def _room_bytes(budget: MemoryBudget) -> int:
    """Return what the budget and the device leave beside what is held now."""
    held = memory.snapshot()
    return min(
        budget.limit_bytes - held.rss_bytes, held.available_bytes - budget.min_available_bytes
    )


class ModelLanguage:
    """The tokenizer and the grammar of one model, as requests are prepared with them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.encode_chat = tokenizer.encode_chat
        self.compile_format = functools.partial(compile_format, tokenizer)
