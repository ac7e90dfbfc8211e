"""The node's MQTT client identifier, with a part that others cannot guess.

A broker keeps a client's session under its identifier, and gives it to whoever connects with that:
who can guess it can delete what is queued for the node, and take the session again and again. The
file of the state folder has the identifier of the node's session in its first line. Behind it are
those of before, whose messages have not been taken in yet.

Rule: the identifier is written down before it is used, and never logged.
"""

import contextlib
import hashlib
import logging
import os
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edged.bundle.plain_file import open_plain, opened_folder
from edged.config.keys import Config

_LOG = logging.getLogger(__name__)

FILE_NAME = "client-id"
# Of the part that nobody can guess: 64 bits.
PART_BYTES = 8
# Brokers write identifiers into their logs: to try passwords with one has to be slow. 0.03 s here.
ROUNDS = 100_000
# What is kept, the own one included: a password that is changed again before the broker is back.
MAX_KEPT = 4
_MAX_FILE_BYTES = 1024


class ClientIds(NamedTuple):
    """The identifier of the node's connection, and those that it had before."""

    own: str
    former: tuple[str, ...] = ()
    """Of sessions that the broker may still keep messages in."""


def client_ids(config: Config, password: str | None) -> ClientIds:
    """Return the identifiers, and write them down; a folder that cannot be used is logged."""
    plain = config.client_id
    if config.broker.client_id is not None:
        return ClientIds(plain)
    folder = config.state.folder
    if folder is None:
        return ClientIds(_derived(config, password), (plain,)) if password else ClientIds(plain)
    file = _File(folder, plain)
    known, is_private = file.read()
    if password:
        own = _derived(config, password)
    elif known and known[0] != plain and is_private:
        own = known[0]
    else:
        own = f"{plain}-{secrets.token_hex(PART_BYTES)}"
    former = tuple(one for one in known or [plain] if one != own)[: MAX_KEPT - 1]
    lines = (own, *former)
    is_kept = (is_private and lines == tuple(known)) or file.write(lines)
    if is_kept or password:
        return ClientIds(own, former)
    # A random one that is not written down would be another one at the next start.
    _LOG.warning("broker.client_id: %s, which others can guess; correct state.folder", plain)
    return ClientIds(plain)


def forget_former(config: Config, ids: ClientIds) -> None:
    """Write down which former sessions are left; a failure is logged, and they are tried again."""
    if config.state.folder is not None:
        _File(config.state.folder, config.client_id).write((ids.own, *ids.former))


def passing_id(config: Config, purpose: str) -> str:
    """Return the identifier of a connection beside the node's own, whose session nobody needs."""
    if config.broker.client_id is not None:
        return f"{config.client_id}-{purpose}"
    return f"{config.client_id}-{secrets.token_hex(PART_BYTES)}-{purpose}"


def _derived(config: Config, password: str) -> str:
    names = ("edged client id", config.prefix, config.node, config.broker.username or "")
    key = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), "\n".join(names).encode(), ROUNDS, PART_BYTES
    )
    return f"{config.client_id}-{key.hex()}"


class _File:
    """The identifiers in a state folder, of the node whose name gives the ``plain`` one."""

    def __init__(self, folder: Path, plain: str) -> None:
        self._folder, self._path = folder, folder / FILE_NAME
        # Of no other node: a copied state folder must not take the session of the original.
        self._line = re.compile(rf"{re.escape(plain)}(-[0-9a-f]{{{2 * PART_BYTES}}})?")

    def read(self) -> tuple[list[str], bool]:
        """Return the lines that are identifiers, and whether nobody else can read the file."""
        try:
            with opened_folder(self._folder) as folder:
                file = open_plain(FILE_NAME, os.O_RDONLY, folder=folder)
                with os.fdopen(file, "rb") as stream:
                    status = os.fstat(file)
                    content = stream.read(_MAX_FILE_BYTES)
        except FileNotFoundError:
            return [], True
        except OSError as error:
            _LOG.warning("%s: cannot be read: %s", self._path, error)
            return [], False
        lines = content.decode("ascii", "replace").splitlines()
        ids = [line for line in lines if self._line.fullmatch(line)]
        if not ids:
            _LOG.warning("%s: cannot be read: it has no identifier of this node", self._path)
        is_private = status.st_uid == os.geteuid() and not status.st_mode & stat.S_IRWXO
        return ids, is_private

    def write(self, lines: Sequence[str]) -> bool:
        """Replace the file; return whether that could be done."""
        new = f"{FILE_NAME}.new"
        try:
            with opened_folder(self._folder) as folder:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(new, dir_fd=folder)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                file = open_plain(new, flags, folder=folder)
                with os.fdopen(file, "wb") as stream:
                    stream.write("".join(f"{line}\n" for line in lines).encode())
                    stream.flush()
                    os.fsync(file)
                os.replace(new, FILE_NAME, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
        except OSError as error:
            _LOG.warning("%s: cannot be written: %s", self._path, error)
            return False
        return True
