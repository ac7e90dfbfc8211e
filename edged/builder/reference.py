"""The fp32 graph that is quantized, and against which the result is compared."""

from dataclasses import dataclass
from pathlib import Path

from edged.builder.export import Export
from edged.builder.fuse import NotFusable, fuse
from edged.builder.progress import Progress
from edged.builder.provenance import tool_versions
from edged.builder.store import new_entry, open_entry, seal
from edged.bundle.manifest import MODEL, GraphKind


@dataclass(frozen=True, slots=True)
class Reference:
    """A graph in fp32."""

    folder: Path
    kind: GraphKind

    @property
    def size_bytes(self) -> int:
        """Of the graph and its weights."""
        return _size_bytes(self.folder)


def make_reference(
    exported: Export, sha256: str, max_model_len: int, cache: Path, progress: Progress
) -> Reference:
    """Fuse an export, or find it in the cache; use the export itself where it cannot be fused.

    Args:
        exported: Optimum's export.
        sha256: of the source.
        max_model_len: context length of the fused graph in tokens.
        cache: the build cache.
        progress: receives the step.

    Raises:
        BuildError: the export cannot be read.
    """
    folder = cache / "fused" / sha256
    expected = {"tools": tool_versions(), "max_model_len": max_model_len}
    if open_entry(folder) != expected:
        need_bytes = int(1.1 * _size_bytes(exported.folder))
        try:
            with progress.step("Fuse"), new_entry(folder, need_bytes) as partial:
                report = fuse(exported.folder, partial, max_model_len=max_model_len)
                seal(partial, expected)
        except NotFusable as reason:
            progress.say(f"Not fused, so the slower portable graph is taken: {reason}")
            return Reference(exported.folder, GraphKind.PORTABLE)
        for note in report.notes:
            progress.say(note)
    return Reference(folder, GraphKind.FUSED)


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"{MODEL}*"))
