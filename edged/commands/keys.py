"""``edged key``: the keys whose models this device uses.

Rule: what serves at the time serves on. Installing the first key notes what is configured by its
hash, before the key is there, so that a power cut in between changes nothing.
"""

import argparse
import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from edged.bundle.disk import Disk, make_folders, replace_file
from edged.bundle.folder import open_bundle
from edged.bundle.manifest import MANIFEST
from edged.bundle.plain_file import opened_folder, read_plain
from edged.bundle.public_key import MAX_PEM_BYTES, read_public_key
from edged.bundle.signed_folder import hash_folder
from edged.bundle.store import stores_of
from edged.bundle.trust import (
    MAX_KEYS,
    MAX_LIST_BYTES,
    PINNED,
    REVOKED,
    SUFFIX,
    Trust,
    content_id,
    list_text,
    read_list,
    read_trust,
)
from edged.commands.install.layout import InstallError
from edged.config.keys import SecurityConfig
from edged.config.load import load_config
from edged.errors import BundleError, EdgedError, ExitCode, UsageError

_CONFIGURATIONS = Path("/etc/edged")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_RELOAD = "a running service takes it up with `systemctl reload edged`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of ``edged key``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="use what this key signs")
    add.add_argument("file", type=Path, metavar="PEM", help="public key: P-256 or P-384")
    add.add_argument("--name", metavar="NAME", help="what to call it (default: the file's name)")
    show = actions.add_parser("list", help="print the keys")
    revoke = actions.add_parser("revoke", help="use nothing that this key signed, ever again")
    revoke.add_argument("key", metavar="NAME", help="its name, or its 64 digits")
    pin = actions.add_parser("pin", help="use a folder as it is now, without a signature")
    pin.add_argument("folder", type=Path, metavar="DIR", help="a bundle or a specialist")
    for one in (add, show, revoke, pin):
        one.add_argument(
            "--keys", type=Path, default=SecurityConfig().keys, metavar="DIR", help="their folder"
        )
        one.add_argument(
            "--config",
            type=Path,
            action="append",
            metavar="FILE",
            help=f"what is served (default: {_CONFIGURATIONS}/*.yaml)",
        )


def main(arguments: argparse.Namespace) -> int:
    """Carry out the action.

    Raises:
        InstallError: The folder of the keys cannot be written.
        EdgedError: The key or the folder is wrong.
    """
    keys: Path = arguments.keys
    if arguments.action == "list":
        _list(read_trust(keys))
        return ExitCode.OK
    configurations = arguments.config or sorted(_CONFIGURATIONS.glob("*.yaml"))
    try:
        with _locked(keys):
            if arguments.action == "add":
                _add(keys, arguments.file, arguments.name, configurations)
            elif arguments.action == "revoke":
                _revoke(keys, arguments.key, configurations)
            else:
                _pin(keys, arguments.folder)
    except OSError as error:
        advice = "; use sudo" if isinstance(error, PermissionError) else ""
        raise InstallError(f"{keys}: cannot be changed: {error.strerror}{advice}") from error
    print(_RELOAD)
    return ExitCode.OK


@contextlib.contextmanager
def _locked(keys: Path) -> Iterator[None]:
    """Make the folder, and have no other command change it meanwhile."""
    make_folders(keys)
    Disk().sync(keys.parent)
    with opened_folder(keys) as folder_fd:
        fcntl.flock(folder_fd, fcntl.LOCK_EX)
        yield


def _add(keys: Path, file: Path, name: str | None, configurations: list[Path]) -> None:
    """Install a key.

    Raises:
        UsageError: It is none, or there is another of this name, or there are too many.
    """
    name = name or file.name.removesuffix(SUFFIX)
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"--name: expected 1 to 64 of letters, digits, ., _ and -, not {name!r}")
    try:
        key = read_public_key(read_plain(file, MAX_PEM_BYTES), name)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
    trust = read_trust(keys, is_required=True)
    if key.key_id in trust.revoked:
        raise UsageError(f"{file}: was revoked; to take that back, edit {keys / REVOKED}")
    same = next((one for one in trust.keys if one.key_id == key.key_id), None)
    if same is not None:
        print(f"{same.name} is installed already")
        return
    if (keys / (name + SUFFIX)).exists():
        raise UsageError(f"{name}: there is another key of this name; give --name")
    num_keys = len(list(keys.glob(f"*{SUFFIX}")))
    if num_keys >= MAX_KEYS:
        raise UsageError(
            f"{keys}: has {num_keys} keys, and no more are read; remove the file of one that is not"
            " needed any more"
        )
    if num_keys == 0:
        _pin_served(keys, configurations)
    replace_file(Disk(), keys / (name + SUFFIX), key.pem)
    print(f"{name}: installed, {key.key_id}")


def _pin_served(keys: Path, configurations: list[Path]) -> None:
    pinned = read_list(keys / PINNED)
    for folder in _served(configurations):
        try:
            pinned = _with_pin(pinned, folder)
        except EdgedError as error:
            print(f"does not serve, so it is not pinned: {error}")
        else:
            print(f"{folder}: pinned as it is now")
    _write_list(keys / PINNED, pinned)


def _revoke(keys: Path, named: str, configurations: list[Path]) -> None:
    """Revoke a key, which need not be installed.

    Raises:
        UsageError: The name is none of a key.
    """
    trust = read_trust(keys, is_required=True)
    found = next((one for one in trust.keys if named in (one.name, one.key_id)), None)
    if found is None and (named in trust.revoked or named in trust.revoked.values()):
        print(f"{named} was revoked already")
        return
    if found is None and _KEY_ID.fullmatch(named) is None:
        names = ", ".join(one.name for one in trust.keys) or "none"
        raise UsageError(f"{named}: no such key; there is {names}. Give a name, or the 64 digits")
    key_id, note = (named, "") if found is None else (found.key_id, found.name)
    _write_list(keys / REVOKED, {**trust.revoked, key_id: note})
    print(f"{note or key_id}: revoked")
    _warn(read_trust(keys), configurations)


def _warn(trust: Trust, configurations: list[Path]) -> None:
    """Print what is configured, or could be gone back to, and will not be used."""
    folders: list[Path] = []
    for path in configurations:
        try:
            folders += _served([path])
        except EdgedError as error:  # the key is revoked all the same
            print(f"not known what is used by it: {error}")
    for folder in folders:
        with contextlib.suppress(OSError):
            try:
                if (folder / MANIFEST).exists():
                    open_bundle(folder, verify=False, trust=trust)
                else:
                    trust.check_read(folder, {})
            except EdgedError as error:
                print(f"not used from the next start on: {error}")


def _pin(keys: Path, folder: Path) -> None:
    _write_list(keys / PINNED, _with_pin(read_list(keys / PINNED), folder))
    print(f"{folder}: pinned as it is now")


def _with_pin(pinned: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return what is pinned with a folder as it is now, and no longer as it was.

    Raises:
        EdgedError: It cannot be read.
    """
    digest = _content_id(folder)
    # Of a store, the link to what serves leads to another folder at another time.
    note = " ".join(os.path.realpath(folder).split())
    kept = {one: said for one, said in pinned.items() if said != note}
    # Another folder may have the same content, which stays when this one changes.
    said = pinned.get(digest, note)
    return {**kept, digest: said if note in said.split(", ") else f"{said}, {note}"}


def _write_list(path: Path, entries: Mapping[str, str]) -> None:
    """Replace a list.

    Raises:
        UsageError: It would be too long to be read.
    """
    content = list_text(entries).encode()
    if len(content) > MAX_LIST_BYTES:
        raise UsageError(
            f"{path}: would be longer than the {MAX_LIST_BYTES} bytes that are read; remove the"
            " lines that are not needed any more"
        )
    replace_file(Disk(), path, content)


def _list(trust: Trust) -> None:
    for key in trust.keys:
        print(f"{key.name}  {key.key_id}")
    for key_id, note in trust.revoked.items():
        print(f"{note or '-'}  {key_id}  revoked")
    for problem in trust.problems:
        print(f"not usable: {problem}")
    for digest, note in trust.pinned.items():
        print(f"pinned  {digest}  {note}")
    if not trust.is_required:
        print(f"no key in {trust.folder}: models need no signature; `edged key add` installs one")


def _served(configurations: list[Path]) -> Iterator[Path]:
    """Yield the folders that the configurations name, and those that stores can go back to.

    Raises:
        UsageError: One cannot be read.
        ConfigError: One is wrong.
    """
    for path in configurations:
        try:
            config = load_config(path.read_text("utf-8"), str(path))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
        yield from config.served_folders
        for store in stores_of(config.served_folders):
            try:
                state = store.state()
            except (OSError, BundleError) as error:
                print(f"{store.root}: not known what can be gone back to: {error}")
            else:
                others = (one for one in sorted(state.needed) if one != state.current)
                yield from map(store.folder, others)


def _content_id(folder: Path) -> str:
    """Return the hash of what is in a folder; reads all of it.

    Raises:
        UsageError: There is none.
        BundleError: It is a bundle, and damaged.
    """
    try:
        known = open_bundle(folder).hashes if (folder / MANIFEST).exists() else {}
        with opened_folder(folder) as folder_fd:
            return content_id(hash_folder(folder_fd, known))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from error
