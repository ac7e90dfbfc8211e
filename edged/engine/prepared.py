"""A copy of the model with its weights prepacked for this processor's kernels.

Without it, ONNX Runtime prepacks the weights at each start and holds the result in private memory.
With it, the weights are mapped from the file: shared, clean pages that the kernel can evict.

Rule: the copy is optional. A missing or damaged one costs memory and a log line, never the start.
A child process makes it, and must get the same tokens from it as from the model itself.
"""

import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnxruntime

from edged.bundle.folder import Bundle
from edged.bundle.manifest import ADAPTED_MODEL, GraphKind
from edged.bundle.plain_file import open_plain, read_plain
from edged.engine.loading import load_graph
from edged.engine.session import PREPARED, save_prepared

_LOG = logging.getLogger(__name__)

# A smaller model loads faster than its copy could be checked.
MIN_WEIGHTS_BYTES = 16 << 20
# Version of this module's procedure; a new one invalidates all copies.
_RECIPE = "1"
_RECORD = "record.json"
_FILES = (PREPARED, f"{PREPARED}.data")
# Size on disk: both layouts of the weights are kept, ONNX Runtime finds the new by the old one.
_SIZE_FACTOR = 2.2
# No copy is larger, however the kernels of another processor lay out the weights.
_MAX_FACTOR = 4.0
_MAX_RECORD_BYTES = 4096
# The child's heap holds the new layout; the old one is mapped.
_MEMORY_FACTOR = 1.1
# The child's other memory: the interpreter, its libraries, the graph as text.
_CHILD_BYTES = 64 << 20
# For the child; the systemd unit allows 3 minutes for a start.
_LIMIT_S = 120.0
_CHUNK_BYTES = 1 << 20
_ALIGNMENT = 64
# File offsets of the weights: in the old layout (a StringStringEntryProto), and in the new.
_OFFSETS = re.compile(rb"\x0a\x06offset\x12[\x01-\x14](\d+)|\|(\d+);\d+;\d+")
# x86 lists its "flags", Arm its "Features", and both name the core.
_PROCESSOR = ("model name", "flags", "Features", "CPU part", "CPU variant")
_CPUINFO = Path("/proc/cpuinfo")
_PROMPT_TOKENS = 32
_ANSWER_TOKENS = 16


def prepared_model(
    bundle: Bundle, folder: Path, room_bytes: int, *, is_adapted: bool = False
) -> Path | None:
    """Return the graph of the bundle's copy for this device; blocks for seconds while it is made.

    It is None when there is no copy; then load the bundle's own graph: ``is_adapted`` is whether
    that is the one that takes adapters. ``folder`` holds the copy of one graph and nothing else.
    The child that makes it may take ``room_bytes`` of memory.
    """
    weights_bytes = bundle.manifest.loaded_bytes(is_adapted=is_adapted)
    if weights_bytes < MIN_WEIGHTS_BYTES:
        return None
    graph_path = bundle.adapted_path if is_adapted else bundle.model_path
    copy = folder / device_key(bundle.sha256 + ADAPTED_MODEL * is_adapted)
    try:
        if not _is_whole(copy, weights_bytes):
            _make((graph_path, bundle.manifest.graph), copy, weights_bytes, room_bytes)
    except (OSError, MemoryError, subprocess.SubprocessError) as error:
        _LOG.warning("%s: no prepared copy of the model, which takes more memory: %s", copy, error)
        return None
    return copy / PREPARED


def device_key(bundle_sha256: str, cpuinfo: Path = _CPUINFO) -> str:
    """Return a key of the weights, ONNX Runtime's version and the processor."""
    processor = describe_processor(_PROCESSOR, cpuinfo)
    parts = [_RECIPE, bundle_sha256, onnxruntime.__version__, platform.machine(), *processor]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def describe_processor(fields: Collection[str], cpuinfo: Path = _CPUINFO) -> list[str]:
    """Return the distinct lines of ``/proc/cpuinfo`` with these names, sorted."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return sorted({line for line in lines if line.partition(":")[0].strip() in fields})


def _make(graph: tuple[Path, GraphKind], copy: Path, weights_bytes: int, room_bytes: int) -> None:
    # For lack of memory the kernel would kill the child, and the service with it.
    needed_bytes = round(_MEMORY_FACTOR * weights_bytes) + _CHILD_BYTES
    if room_bytes < needed_bytes:
        left = f"budget.memory and the device leave {max(room_bytes, 0) >> 20}"
        raise MemoryError(f"{needed_bytes >> 20} MiB are needed to make it, {left}")
    folder = copy.parent
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    free_bytes, needed_bytes = shutil.disk_usage(folder).free, round(_SIZE_FACTOR * weights_bytes)
    if free_bytes < needed_bytes:
        raise OSError(f"{needed_bytes >> 20} MiB of disk are needed, {free_bytes >> 20} are free")
    _LOG.info("preparing the model for this device, once: %s", copy)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        arguments = [str(graph[0]), str(partial), graph[1]]
        child = subprocess.run(
            [sys.executable, "-m", __spec__.name, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
        if child.returncode:
            lines = child.stderr.strip().splitlines() or ["no message"]
            raise subprocess.SubprocessError(f"exit status {child.returncode}: {lines[-1]}")
        max_bytes = round(_MAX_FACTOR * weights_bytes)
        (partial / _RECORD).write_bytes(_record(partial, max_bytes))
        # Written to the disk, the mapped weights are clean pages. Not for a power cut: what that
        # leaves has other checksums.
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        partial.rename(copy)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _clear(folder: Path) -> None:
    for old in folder.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()


def _is_whole(copy: Path, weights_bytes: int) -> bool:
    try:
        record = read_plain(copy / _RECORD, _MAX_RECORD_BYTES)
        is_whole = record == _record(copy, round(_MAX_FACTOR * weights_bytes))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        is_whole = False
    if not is_whole:
        _LOG.warning("%s: damaged, will be made again", copy)
    return is_whole


def _record(folder: Path, max_bytes: int) -> bytes:
    return json.dumps({name: _checksum(folder / name, max_bytes) for name in _FILES}).encode()


def _checksum(path: Path, max_bytes: int) -> str:
    # A CRC detects disk errors at four times the speed of a hash. An attacker who can write the
    # copy can write the record, too.
    size_bytes = crc = 0
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        # What grew to a terabyte must not be read before the start.
        while size_bytes <= max_bytes and (chunk := file.read(_CHUNK_BYTES)):
            size_bytes += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return f"{size_bytes}-{crc:08x}"


def main(model: Path, folder: Path, kind: GraphKind) -> str | None:
    """Make a copy in an empty folder and try it, in a child process; return what is wrong."""
    copy = folder / PREPARED
    save_prepared(model, copy)
    offsets = [int(a or b) for a, b in _OFFSETS.findall(copy.read_bytes())]
    if not offsets or any(offset % _ALIGNMENT for offset in offsets):
        # Some kernels round the address of their packed weights up to the alignment.
        return "the weights are not aligned"
    expected, found = (_answer(path, kind) for path in (model, copy))
    return None if found == expected else f"tokens {found} instead of {expected}"


def _answer(model_path: Path, kind: GraphKind) -> list[int]:
    """Return the tokens that follow a synthetic prompt."""
    length = _PROMPT_TOKENS + _ANSWER_TOKENS
    is_fused = kind is GraphKind.FUSED
    graph = load_graph(model_path, is_fused=is_fused, max_model_len=length)
    prompt = np.arange(_PROMPT_TOKENS, dtype=np.int64) * 7919 % graph.vocab_size
    token_ids = [int(graph.forward(prompt, 0)[0].argmax())]
    for position in range(_PROMPT_TOKENS, length):
        logits = graph.forward(np.array(token_ids[-1:]), position, is_prefill=False)
        token_ids.append(int(logits[0].argmax()))
    return token_ids


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), GraphKind(sys.argv[3])))
