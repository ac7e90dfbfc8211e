"""Load the model: everything that must be in memory, and have worked once, before READY."""

import logging
from dataclasses import dataclass, replace
from functools import partial

from edged.bundle.folder import Bundle, open_bundle
from edged.config.keys import Config
from edged.daemon import memory
from edged.daemon.invocation import configured_trust
from edged.daemon.measurements import fitted_settings
from edged.daemon.memory_plan import (
    MemoryReservation,
    prefix_room,
    reserve_memory,
    with_prefixes,
)
from edged.daemon.specialist_folders import SpecialistFolders
from edged.daemon.warm_prefixes import keep_prefixes, num_prefixes
from edged.engine.grammar import compile_format
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.tokenizer import Tokenizer
from edged.errors import BundleError
from edged.protocol.request import ChatMessage, FormatType, OutputFormat, SamplingParams
from edged.scheduling.latency_model import CostEstimate
from edged.transport.clock import boot_s

_LOG = logging.getLogger(__name__)

# Of the budget: the address space a start may reserve before it fails; much is never touched.
GROWTH = 2
_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """A loaded model, what it may hold, and the settings that it was loaded with."""

    config: Config
    bundle: Bundle
    memory: MemoryReservation
    engine: Engine
    tokenizer: Tokenizer
    specialists: SpecialistFolders
    cost: CostEstimate | None
    """What answers take here, if it is known; else it is measured after READY."""
    started_s: float


def load(config: Config) -> ResidentModel:
    """Load the model and have it answer once; blocks for seconds.

    Raises:
        ConfigError: If the model does not fit into its budget.
        BundleError: If the bundle is wrong, or not signed by a key that is needed.
    """
    started_s = boot_s()
    memory.keep_one_heap()
    read_trust = partial(configured_trust, config.security)
    bundle = open_bundle(config.model.path, trust=read_trust())
    if not bundle.manifest.quality.passed:
        _LOG.warning("%s: its build missed the quality gate; see the manifest", bundle.folder)
    reservation = reserve_memory(config, bundle)
    limit_bytes = reservation.budget.limit_bytes
    with memory.limited_growth(GROWTH * limit_bytes):
        engine, tokenizer, num_tokens = _load(config, bundle, reservation)
        reservation = with_prefixes(config, bundle, reservation, num_tokens)
        specialists = SpecialistFolders.of(bundle.manifest, engine, tokenizer, read_trust)
        specialists.read(config.specialists)
    memory.return_freed()
    _LOG.info(
        "ready after %.1f s: %s, %d MiB resident of %d",
        boot_s() - started_s,
        bundle.model_id,
        memory.rss_bytes() >> 20,
        limit_bytes >> 20,
    )
    return ResidentModel(
        config, bundle, reservation, engine, tokenizer, specialists, None, started_s
    )


def _load(
    config: Config, bundle: Bundle, reservation: MemoryReservation
) -> tuple[Engine, Tokenizer, int]:
    # The number is that of the prefixes' tokens.
    held, budget = memory.snapshot(), reservation.budget
    room_bytes = min(
        budget.limit_bytes - held.rss_bytes, held.available_bytes - budget.min_available_bytes
    )
    settings = fitted_settings(config, bundle, reservation.num_slots, room_bytes)
    engine = load_engine(bundle, replace(settings, num_prefixes=num_prefixes(config)))
    tokenizer = Tokenizer.load(bundle)
    # READY promises an answer, so the first one and the first grammar are made before it.
    try:
        max_tokens = prefix_room(config, bundle, reservation)
        num_tokens = keep_prefixes(config, bundle, engine, tokenizer, max_tokens)
        prompt_ids = tokenizer.encode_chat((ChatMessage("user", "Hello"),))
        for _ in engine.generate(prompt_ids, SamplingParams(), max_tokens=1):
            pass
    except Exception as error:  # the template's, or ONNX Runtime's
        reason = str(error).partition("\n")[0][:_REASON_CHARACTERS]
        raise BundleError(
            f"{bundle.folder}: it is loaded and cannot answer ({reason}); do not use this bundle, "
            "rebuild it with `edged build`"
        ) from error
    # The first grammar reads the whole vocabulary; later that would delay everybody's requests.
    compile_format(tokenizer, OutputFormat(FormatType.CHOICE, choices=("yes", "no")))
    return engine, tokenizer, num_tokens
