"""A copy of the model whose weights lie on disk as this processor's kernels want them.

Without it, ONNX Runtime rearranges the weights at each start and holds the result as private
memory. From the copy it maps them: pages that are shared, clean, and the kernel's to drop.

Rule: never needed. Whatever is wrong with a copy costs memory and a line of log, not the start. It
is made by a child process, which must get the same tokens from it as from the model itself.
"""

import argparse
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

from edged.bundle.folder import Bundle, GraphKind
from edged.engine.graph import load_graph
from edged.engine.session import PREPARED, save_prepared

_LOG = logging.getLogger(__name__)

MIN_WEIGHTS_BYTES = 16 << 20
"""A smaller model is loaded before a copy of it could be checked."""
_RECIPE = "1"
"""Of this module: a new one makes all copies anew."""
_RECORD = "record.json"
_FILES = (PREPARED, f"{PREPARED}.data")
_SIZE_FACTOR = 2.2
"""Both layouts of the weights are kept: by the old one ONNX Runtime finds the new."""
_MEMORY_FACTOR = 1.1
"""The child holds the new layout on its heap; the old one is mapped."""
_CHILD_BYTES = 64 << 20
"""What else the child holds: the interpreter and its libraries, the graph as text."""
_LIMIT_S = 120.0
"""For the child; the unit gives a start 3 minutes."""
_CHUNK_BYTES = 1 << 20
_ALIGNMENT = 64
_OFFSETS = re.compile(rb"\x0a\x06offset\x12[\x01-\x14](\d+)|\|(\d+);\d+;\d+")
"""Where weights begin: in the old layout (a StringStringEntryProto), and in the new."""
_CPUINFO = Path("/proc/cpuinfo")
_PROMPT_TOKENS = 32
_ANSWER_TOKENS = 16


def prepared_model(bundle: Bundle, folder: Path, room_bytes: int) -> Path | None:
    """Return the graph of the bundle's copy for this device; blocks for seconds while it is made.

    Args:
        bundle: the model, its hashes compared.
        folder: holds the copy and nothing else; made if it is not there.
        room_bytes: memory that the child may take.

    Returns:
        None when there is none: the bundle's own graph is to be loaded.
    """
    weights_bytes = sum(entry.size_bytes for entry in bundle.manifest.files.values())
    if weights_bytes < MIN_WEIGHTS_BYTES:
        return None
    copy = folder / device_key(bundle.sha256)
    try:
        if not _is_whole(copy):
            _check_room(weights_bytes, room_bytes)
            _make(bundle, copy, round(weights_bytes * _SIZE_FACTOR))
    except (OSError, MemoryError, subprocess.SubprocessError) as error:
        _LOG.warning("%s: no prepared copy of the model, which takes more memory: %s", copy, error)
        return None
    return copy / PREPARED


def device_key(bundle_sha256: str, cpuinfo: Path = _CPUINFO) -> str:
    """Name what the layout depends on: the weights, ONNX Runtime's version, the processor."""
    # x86 lists its "flags", Arm its "Features", and both name the core.
    processor = describe_processor(
        ("model name", "flags", "Features", "CPU part", "CPU variant"), cpuinfo
    )
    parts = [_RECIPE, bundle_sha256, onnxruntime.__version__, platform.machine(), *processor]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def describe_processor(fields: Collection[str], cpuinfo: Path = _CPUINFO) -> list[str]:
    """Return the different lines that Linux has about the processor under these names, sorted."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return sorted({line for line in lines if line.partition(":")[0].strip() in fields})


def _check_room(weights_bytes: int, room_bytes: int) -> None:
    """Refuse to start a child that the kernel might kill, and the service with it.

    Raises:
        MemoryError: there is too little.
    """
    needed_bytes = round(_MEMORY_FACTOR * weights_bytes) + _CHILD_BYTES
    if room_bytes < needed_bytes:
        raise MemoryError(
            f"{needed_bytes >> 20} MiB are needed to make it, budget.memory and the device leave"
            f" {max(room_bytes, 0) >> 20}"
        )


def _make(bundle: Bundle, copy: Path, needed_bytes: int) -> None:
    """Have a child make and try the copy, and put it in its place, alone.

    Raises:
        OSError: the disk is full or cannot be written, or the copy is no good.
        SubprocessError: the child failed.
    """
    folder = copy.parent
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        shutil.rmtree(old)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OSError(f"{needed_bytes >> 20} MiB of disk are needed, {free_bytes >> 20} are free")
    _LOG.info("preparing the model for this device, once: %s", copy)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        command = [sys.executable, "-m", __spec__.name, str(bundle.model_path), str(partial)]
        is_fused = bundle.manifest.graph is GraphKind.FUSED
        _run([*command, *["--fused"] * is_fused])
        (partial / _RECORD).write_bytes(_record(partial))
        for path in (*partial.iterdir(), partial):
            _sync(path)
        partial.rename(copy)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise subprocess.SubprocessError(
            f"the trial ended with status {done.returncode}: {said[-1] if said else 'nothing said'}"
        )


def _is_whole(copy: Path) -> bool:
    """Tell whether the copy is there, as it was written."""
    try:
        is_whole = (copy / _RECORD).read_bytes() == _record(copy)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not is_whole:
        _LOG.warning("%s: damaged, and made anew", copy)
    return is_whole


def _record(folder: Path) -> bytes:
    """Return what is written beside a copy, to compare it with."""
    return json.dumps({name: _checksum(folder / name) for name in _FILES}).encode()


def _checksum(path: Path) -> str:
    """Return length and CRC-32 of a file.

    Against a disk that forgets, which a CRC finds at four times the speed of a hash. Whoever could
    change the copy could change the record beside it just as well.
    """
    size_bytes = sum_ = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size_bytes += len(chunk)
            sum_ = zlib.crc32(chunk, sum_)
    return f"{size_bytes}-{sum_:08x}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> int:
    """Make a copy and try it: the child process; its exit status is 0 when the copy is good."""
    parser = argparse.ArgumentParser(prog="prepared")
    parser.add_argument("model", type=Path, help="the bundle's graph")
    parser.add_argument("folder", type=Path, help="where the copy goes; empty")
    parser.add_argument("--fused", action="store_true", help="which form the graph has")
    arguments = parser.parse_args()
    copy = arguments.folder / PREPARED
    save_prepared(arguments.model, copy)
    offsets = [int(a or b) for a, b in _OFFSETS.findall(copy.read_bytes())]
    if not offsets or any(offset % _ALIGNMENT for offset in offsets):
        # Some kernels look for the next aligned address inside what they packed.
        print("the weights are not aligned", file=sys.stderr)
        return 1
    expected, found = (_answer(path, is_fused=arguments.fused) for path in (arguments.model, copy))
    if found != expected:
        print(f"tokens {found} instead of {expected}", file=sys.stderr)
        return 1
    return 0


def _answer(model_path: Path, *, is_fused: bool) -> list[int]:
    """Return the tokens that follow on a made-up prompt."""
    length = _PROMPT_TOKENS + _ANSWER_TOKENS
    graph = load_graph(model_path, is_fused=is_fused, max_model_len=length)
    prompt = np.arange(_PROMPT_TOKENS, dtype=np.int64) * 7919 % graph.vocab_size
    token_ids = [int(graph.forward(prompt, 0)[0].argmax())]
    for position in range(_PROMPT_TOKENS, length):
        logits = graph.forward(np.array(token_ids[-1:]), position, is_prefill=False)
        token_ids.append(int(logits[0].argmax()))
    return token_ids


if __name__ == "__main__":
    sys.exit(main())
