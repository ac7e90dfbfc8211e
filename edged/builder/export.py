"""Export a checkpoint to ONNX with Optimum, in fp32, into the build cache.

Rule: an export is used only after its logits were compared with the torch model's.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged.builder import child
from edged.builder.fetch import Checkpoint
from edged.builder.hffolder import tensor_sizes
from edged.builder.store import new_entry, open_entry, seal
from edged.bundle.manifest import MODEL
from edged.errors import BuildError

if TYPE_CHECKING:
    from edged.builder.progress import Progress

_TARGET, _LOG = "edged.builder.optimum:export_checkpoint", Path("logs") / "export.log"
_EXPORTER = 1  # increase it when the same checkpoint would give another export
_FIXED_BYTES = 450_000_000
_FACTOR = 5.0


@dataclass(frozen=True, slots=True)
class Export:
    """Optimum's checked fp32 ONNX export of a checkpoint."""

    folder: Path
    """``model.onnx``, ``config.json``, ``generation_config.json`` and the tokenizer's files."""
    max_abs_diff: float
    """Largest difference of a logit from the torch model's."""
    logit_scale: float
    """Largest torch logit, in absolute value, of the same rows."""

    @property
    def model_path(self) -> Path:
        """The graph; over 2 GB its weights are in a file beside it."""
        return self.folder / MODEL


def prepare_export(cache: Path) -> None:
    """Have what ``export`` needs imported beside the work before it."""
    child.prepare(_TARGET, cache / _LOG)


def export(checkpoint: Checkpoint, cache: Path, progress: "Progress") -> Export:
    """Export a checkpoint, or find its export in the cache; blocks for minutes.

    Raises:
        BuildError: Memory or disk space is too small, Optimum cannot export the model, or the
            export computes other logits.
    """
    folder = _folder(checkpoint.sha256, cache)
    with progress.step("Check the cached export") as step:
        facts = open_entry(folder)
        step.update(1, 1)
    if facts is None or facts.get("tools") != _tools():
        need = estimate_memory_bytes(checkpoint)
        _check_memory(need)
        weights_bytes = _fp32_bytes(checkpoint)
        with (
            progress.step("Export to ONNX (fp32)") as step,
            new_entry(folder, 2 * weights_bytes) as partial,
        ):
            job = child.Step(
                "the export",
                _TARGET,
                {"checkpoint": str(checkpoint.folder), "folder": str(partial)},
                need_bytes=need,
                folder=folder.parent,
                disk_bytes=2 * weights_bytes,
            )
            facts = child.run(job, cache / _LOG, step.update)
            facts = {**facts, "tools": _tools()}
            seal(partial, facts)
    return _export(folder, facts)


def find_export(sha256: str, cache: Path) -> Export | None:
    """Return the cached export of a source by its hash, or None; hashes it again, for seconds."""
    folder = _folder(sha256, cache)
    facts = open_entry(folder)
    return None if facts is None else _export(folder, facts)


def estimate_memory_bytes(checkpoint: Checkpoint) -> int:
    """Estimate the peak resident memory of the export."""
    # Measured with torch 2.13 and optimum-onnx 0.1.0 (the last line of logs/export.log in the
    # cache): 3.03 GB for SmolLM2-135M, whose weights are 0.54 GB in fp32; 0.41, 3.08 and 7.54 GB
    # for llama models with random weights of 0.00, 0.64 and 1.43 GB. Above 2 GB of graph the
    # exporter writes the weights to a file of their own and needs less: 5.57 GB for a random
    # Qwen2.5-0.5B (1.98 GB).
    return int(_FIXED_BYTES + _FACTOR * _fp32_bytes(checkpoint))


def count_parameters(checkpoint: Checkpoint) -> int:
    """Count the checkpoint's parameters; a tied table counts once."""
    return _fp32_bytes(checkpoint) // 4


def _fp32_bytes(checkpoint: Checkpoint) -> int:
    """Return the size of the weights as 32-bit floats."""
    return 4 * sum(tensor_sizes(checkpoint.folder))


def _check_memory(need_bytes: int) -> None:
    available = _available_bytes()
    if need_bytes > available:
        raise BuildError(
            f"the export needs about {need_bytes / 2**30:.1f} GiB of memory and "
            f"{available / 2**30:.1f} GiB are free: close other programs, add swap, or build on "
            "a larger machine and copy the bundle"
        )


def _available_bytes() -> int:
    """Return the free and reclaimable memory and the free swap."""
    kibibytes = {}
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        kibibytes[key] = int(value.split()[0])
    return (kibibytes["MemAvailable"] + kibibytes["SwapFree"]) * 1024


def _folder(sha256: str, cache: Path) -> Path:
    return cache / "exports" / sha256


def _tools() -> dict[str, Any]:
    names = ("optimum-onnx", "optimum", "torch", "transformers", "onnx")
    return {**{name: version(name) for name in names}, "exporter": _EXPORTER}


def _export(folder: Path, facts: dict[str, Any]) -> Export:
    return Export(folder, facts["max_abs_diff"], facts["logit_scale"])
