"""The version of a folder: ``version.json`` in it, which is signed with the other files.

A device that has accepted a version takes no earlier one of the same model.
"""

import json
import os
from dataclasses import dataclass
from typing import Annotated

from edged.bundle.plain_file import open_plain
from edged.bundle.strict_json import decode, read_json
from edged.errors import BundleError

VERSION = "version.json"
MAX_VERSION_BYTES = 1024
MAX_VERSION = 10**15


@dataclass(frozen=True, slots=True)
class FolderVersion:
    """What the file holds."""

    version: Annotated[int, MAX_VERSION]


def version_bytes(version: int) -> bytes:
    """Return the content of the file."""
    return json.dumps({"version": version}).encode() + b"\n"


def version_in(folder_fd: int) -> int:
    """Return the version of a folder; 0 where it says none.

    Raises:
        BundleError: the file is damaged.
        OSError: it cannot be read, or is no plain file.
    """
    try:
        file_fd = open_plain(VERSION, os.O_RDONLY, folder=folder_fd)
    except FileNotFoundError:
        return 0
    with os.fdopen(file_fd, "rb") as file:
        data = file.read(MAX_VERSION_BYTES + 1)
    if len(data) > MAX_VERSION_BYTES:
        raise BundleError(f"{VERSION}: larger than {MAX_VERSION_BYTES} bytes")
    try:
        return decode(FolderVersion, read_json(data)).version
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{VERSION}: {error}; sign the folder with `edged sign`") from error
