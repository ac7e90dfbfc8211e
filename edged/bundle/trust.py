"""Whose models are used on this device: the keys in a folder, those revoked, and what was pinned.

The folder, ``/etc/edged/keys``, has a public key in each ``NAME.pem``. ``revoked`` lists keys that
no longer count, ``pinned`` what is used without a signature; both have a hash at the start of each
line, then what a person should know of it.

Rule: whatever cannot be read takes nobody's side. A key that is damaged vouches for nothing, and
lists that are damaged let nothing pass.
"""

import errno
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edged.bundle.manifest import GOLDEN
from edged.bundle.plain_file import opened_folder, read_plain
from edged.bundle.public_key import MAX_PEM_BYTES, PublicKey, read_public_key
from edged.bundle.signature import (
    SIGNATURE,
    FolderSignature,
    SignatureError,
    compare_files,
    read_signature,
)
from edged.bundle.signed_folder import hash_folder, signature_in
from edged.bundle.version import VERSION
from edged.errors import BundleUnavailableError

REVOKED, PINNED = "revoked", "pinned"
SUFFIX = ".pem"
MAX_KEYS = 64
MAX_LIST_BYTES = 1 << 18
# Of the files beside those that are used: a daemon hashes them while nobody is answered.
_MAX_BESIDE_BYTES = 256 << 20
_LINE = re.compile(r"([0-9a-f]{64})(?: +(\S.*))?")


@dataclass(frozen=True, slots=True)
class Trust:
    """What counts on this device."""

    folder: Path
    """Where the keys are."""
    is_required: bool = False
    """Whether only what is signed, or pinned, is used."""
    keys: tuple[PublicKey, ...] = ()
    """Those that were not revoked."""
    revoked: Mapping[str, str] = field(default_factory=dict)
    """Key to what is known of it."""
    pinned: Mapping[str, str] = field(default_factory=dict)
    """Hash of a folder's content to what is known of it."""
    problems: tuple[str, ...] = ()
    """Files of keys that cannot be used."""

    def check_folder(self, folder: Path, folder_fd: int, known: Mapping[str, str]) -> None:
        """Check that a folder may be used; blocks while it reads the files that are not ``known``.

        Args:
            folder: For errors.
            folder_fd: The open folder.
            known: SHA-256, in hex, of the files that are used, as they were read.

        Raises:
            SignatureError: It may not; the message names the key and says what to do.
            OSError: A file cannot be read.
        """
        if not self.is_required:
            return
        try:
            if self.pinned and self._is_pinned(folder_fd, known):
                return
            signed = self._signature(folder_fd)
            found = hash_folder(folder_fd, known, signed, max_bytes=_MAX_BESIDE_BYTES)
            compare_files(signed.files, found)
        except SignatureError as error:
            raise SignatureError(f"{folder}: {error}") from error

    def _is_pinned(self, folder_fd: int, known: Mapping[str, str]) -> bool:
        """Tell whether a folder is pinned as it is.

        Raises:
            SignatureError: It has what is never pinned, and no signature that might leave that out.
        """
        try:
            found = hash_folder(folder_fd, known, max_bytes=_MAX_BESIDE_BYTES)
        except SignatureError:
            if signature_in(folder_fd) is None:
                raise
            return False
        return content_id(found) in self.pinned

    def _signature(self, folder_fd: int) -> FolderSignature:
        """Return the signature of a folder, if it is by a key of this device.

        Raises:
            SignatureError: There is none, or it leaves out what anybody could then add.
        """
        data = signature_in(folder_fd)
        if data is None:
            raise SignatureError(f"not signed: it has no {SIGNATURE}; {self._advice}")
        signed = read_signature(data)
        self._check_key(signed)
        for name in (VERSION, GOLDEN):
            if signed.ignores(name):
                raise SignatureError(f"{name}: not signed: the signature leaves it out")
        return signed

    def check_read(self, folder: Path, contents: Mapping[str, bytes]) -> None:
        """Check a folder of which some files were read; blocks while it reads the others.

        Args:
            folder: May be a symbolic link, its files may not.
            contents: Of each file that is used, by name.

        Raises:
            SignatureError: It may not be used; the message names the key and says what to do.
            BundleUnavailableError: It cannot be read now.
        """
        if not self.is_required:
            return
        known = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        try:
            with opened_folder(folder) as folder_fd:
                self.check_folder(folder, folder_fd, known)
        except OSError as error:
            raise BundleUnavailableError(f"{folder}: cannot be read: {error.strerror}") from error

    def _check_key(self, signed: FolderSignature) -> None:
        """Check that a key of this device has signed.

        Raises:
            SignatureError: None has.
        """
        shown = signed.key_id[:12]
        if signed.key_id in self.revoked:
            raise SignatureError(f"signed by the key {shown}, which was revoked; {self._advice}")
        key = next((one for one in self.keys if one.key_id == signed.key_id), None)
        if key is None:
            raise SignatureError(f"signed by the unknown key {shown}; {self._advice}")
        if not key.has_signed(signed.message, signed.signature):
            raise SignatureError(f"{SIGNATURE}: not made by the key {key.name}; {self._advice}")

    @property
    def _advice(self) -> str:
        names = ", ".join(key.name for key in self.keys) or "none is installed"
        broken = f" ({'; '.join(self.problems)})" if self.problems else ""
        return (
            f"sign it with a key of {self.folder} ({names}){broken}, or add the signer's with"
            " `edged key add`"
        )


def content_id(found: Mapping[str, str]) -> str:
    """Return the hash of a folder's content, from the hashes of its files by path."""
    lines = (f"{digest}  {path}\n" for path, digest in sorted(found.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_trust(folder: Path, *, is_required: bool | None = None) -> Trust:
    """Read the keys and lists of a folder, which may be missing.

    Args:
        folder: Of the keys.
        is_required: Whether a signature is; None for "as soon as there is a key".

    Raises:
        SignatureError: A list is damaged.
        BundleUnavailableError: The folder or a list cannot be read now.
    """
    if is_required is False:
        return Trust(folder)
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return Trust(folder, is_required=is_required or False)
    except OSError as error:
        raise BundleUnavailableError(f"{folder}: cannot be read: {error.strerror}") from error
    files = [name for name in names if name.endswith(SUFFIX)]
    if len(files) > MAX_KEYS:
        raise SignatureError(f"{folder}: more than {MAX_KEYS} keys; remove those not needed")
    revoked = read_list(folder / REVOKED)
    keys, problems = [], []
    for name in files:
        try:
            pem = read_plain(folder / name, MAX_PEM_BYTES)
            key = read_public_key(pem, name.removesuffix(SUFFIX))
        except (OSError, SignatureError) as error:
            problems.append(str(error))
        else:
            keys.append(key)
    # A key that was revoked is one that was installed, so nothing unsigned is let in again.
    is_required = bool(files or revoked) if is_required is None else is_required
    valid = tuple(key for key in keys if key.key_id not in revoked)
    pinned = read_list(folder / PINNED)
    return Trust(folder, is_required, valid, revoked, pinned, tuple(problems))


def read_list(path: Path) -> dict[str, str]:
    """Return the hashes of a list, each with what stands behind it; none if there is no file.

    Raises:
        SignatureError: It is damaged.
        BundleUnavailableError: It cannot be read now.
    """
    try:
        text = read_plain(path, MAX_LIST_BYTES).decode()
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise SignatureError(f"{path}: not text in UTF-8; write it again") from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise SignatureError(f"{path}: {error.strerror}; shorten it") from error
        raise BundleUnavailableError(f"{path}: cannot be read: {error.strerror}") from error
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise SignatureError(f"{path}: line {number} does not begin with a hash; correct it")
        found[match[1]] = match[2] or ""
    return found


def list_text(entries: Mapping[str, str]) -> str:
    """Return the text of a list that ``read_list`` reads."""
    return "".join(f"{digest}  {' '.join(note.split())}\n" for digest, note in entries.items())
