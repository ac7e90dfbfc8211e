"""The model in full precision that a writer is taught to, and what teaching takes of memory."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from edged.builder.pipeline import default_cache
from edged.builder.writer.rows import Row, batches
from edged.builder.writer.training import Course
from edged.bundle.folder import Bundle
from edged.bundle.manifest import MODEL
from edged.engine.tokenizer import Tokenizer
from edged.errors import UsageError

# torch and transformers themselves.
_PROCESS_BYTES = 420 << 20
_FP32_BYTES, _HALF_BYTES = 4, 2
# Numbers of a token that a layer keeps for the way back, in units of its hidden and inner size.
_KEPT_HIDDEN, _KEPT_INNER = 14, 4
# More than is used: the allocator keeps the memory of batches of other lengths for some time.
_SLACK = 1.25
_TRIES, _TRIAL = 3, (384, 576, 1536)


@dataclass(frozen=True, slots=True)
class TaughtModel:
    """The bundle that is taught to, and what it is in full precision."""

    bundle: Bundle
    tokenizer: Tokenizer
    weights: Path
    reference: Path
    """The fp32 graph that the bundle was made of."""
    kind: torch.dtype


def find_weights(bundle: Bundle, given: Path | None) -> Path:
    """Return the folder of the weights that a bundle was built from.

    Raises:
        UsageError: There is none on this machine; it says what to do.
    """
    source = bundle.manifest.source
    folder = given or default_cache() / "checkpoints" / source.sha256
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"the weights of {source.location} are not in {folder}; build the bundle on this "
            "machine with `edged build`, or name the model's Hugging Face folder with --weights"
        )
    return folder


def find_reference(bundle: Bundle) -> Path:
    """Return the folder of the fp32 graph that a bundle was made of.

    Raises:
        UsageError: There is none on this machine; it says what to do.
    """
    source = bundle.manifest.source
    folder = default_cache() / "fused" / source.sha256
    if not (folder / MODEL).is_file():
        raise UsageError(
            f"the graph of {source.location} in full precision is not in {folder}; build the "
            "bundle on this machine with `edged build`"
        )
    return folder


def fastest_type() -> torch.dtype:
    """Return bfloat16 where this processor multiplies matrices of it clearly faster than fp32."""
    taken = {}
    rows, width, out = _TRIAL
    for kind in (torch.float32, torch.bfloat16):
        x, weights = torch.ones(rows, width, dtype=kind), torch.ones(out, width, dtype=kind)
        times = []
        for _ in range(_TRIES + 1):
            started_s = time.process_time()
            torch.nn.functional.linear(x, weights)
            times.append(time.process_time() - started_s)
        taken[kind] = min(times)
    return torch.bfloat16 if 1.3 * taken[torch.bfloat16] < taken[torch.float32] else torch.float32


def load_model(folder: Path, kind: torch.dtype) -> Any:  # noqa: ANN401 - transformers' class
    """Load a model; blocks for seconds.

    Raises:
        UsageError: It cannot be loaded.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise UsageError(f"--weights: {folder}: cannot be loaded ({reason})") from error
    return model.eval()


def teaching_bytes(
    config: Any,  # noqa: ANN401 - transformers' class
    rows: Sequence[Row],
    course: Course,
    first_layer: int,
    kind: torch.dtype,
) -> int:
    """Return about how much memory teaching takes at most."""
    size = _HALF_BYTES if kind is torch.bfloat16 else _FP32_BYTES
    num_layers, hidden, inner = (
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
    )
    layer = 2 * hidden * hidden + 2 * hidden * hidden // 3 + 3 * hidden * inner
    weights = size * (num_layers * layer + config.vocab_size * hidden)
    made = batches(rows, range(len(rows)), course.batch_rows, 0)
    num_tokens = max(len(one) * max(len(rows[index].ids) for index in one) for one in made)
    num_answers = max(sum(sum(rows[index].is_answer) for index in one) for one in made)
    kept_layers = num_layers - first_layer
    activations = num_tokens * kept_layers * (_KEPT_HIDDEN * hidden + _KEPT_INNER * inner) * size
    logits = num_answers * config.vocab_size * 3 * _FP32_BYTES
    num_kept = num_tokens if course.epochs == 1 else sum(len(row.ids) for row in rows)
    lower = num_kept * hidden * _HALF_BYTES if first_layer else 0
    return int(_SLACK * (_PROCESS_BYTES + weights + activations + logits + lower))


def check_memory(need_bytes: int) -> None:
    """Refuse to begin what does not fit.

    Raises:
        UsageError: There is less memory than is needed.
    """
    free = psutil.virtual_memory().available
    if need_bytes > free:
        raise UsageError(
            f"teaching takes about {need_bytes >> 20} MiB of memory, {free >> 20} MiB are free; "
            "use fewer or shorter examples, a smaller --batch, or another machine"
        )
