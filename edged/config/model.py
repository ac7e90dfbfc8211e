"""The settings of the model and of the engine that runs it; see ``keys``."""

from dataclasses import dataclass, field
from pathlib import Path

from edged.config import kinds
from edged.config.declare import about, optional, setting

PROMPT = kinds.text("text of at most 8192 characters", r"(?s)[^\x00]+", 8192)
MAX_TUNED_CHUNK_TOKENS = 256
"""Largest ``prefill_chunk_tokens`` that is tried when none is given; memory is planned for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which model, and how it is run."""

    path: Path = field(
        metadata=about(kinds.path(), "Folder of the model bundle, as made by `edged build`.")
    )
    max_model_len: int = setting(
        kinds.integer(64, 131072),
        2048,
        "Context: tokens of prompt and answer together. Memory for it is reserved at start. "
        "The bundle's own limit holds where it is smaller.",
    )
    num_threads: int | None = optional(
        kinds.integer(1, 64),
        "Threads that compute.",
        note="from the CPUs and the CPU quota given to the process",
    )
    num_slots: int | None = optional(
        kinds.integer(1, 16),
        "Answers made at the same time; each has memory for a context of its own.",
        note="as many as `budget.memory` has room for, up to 4",
    )
    warm_prompts: tuple[str, ...] = setting(
        kinds.text_list(PROMPT),
        (),
        "System prompts, beside `request.system_prompt`, whose keys and values are kept ready: in "
        "memory, and in `state.folder` for the first request after a boot.",
    )
    prefill_chunk_tokens: int | None = optional(
        kinds.integer(8, 4096),
        "Prompt tokens computed in one piece; a deadline is seen between two pieces.",
        note="the fastest that take 0.1 s at most, measured at the first start and kept in "
        "`state.folder`; without one, 64",
    )
