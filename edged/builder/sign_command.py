"""``edged sign``: sign a bundle or a specialist, so that devices can tell whose it is.

The signature is made by the format's own tool, and then looked at as a device does.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from model_signing import hashing, signing

from edged.bundle.folder import open_bundle
from edged.bundle.manifest import MANIFEST
from edged.bundle.plain_file import opened_folder
from edged.bundle.signature import SIGNATURE, FolderSignature, compare_files, read_signature
from edged.bundle.signed_folder import hash_folder
from edged.bundle.version import MAX_VERSION, VERSION, version_bytes
from edged.errors import BuildError, ExitCode, UsageError
from edged.specialists.folder import DESCRIPTION
from edged.specialists.writer import WRITER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged sign``."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the bundle or the specialist")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="PEM",
        help="private key of the curve P-256 or P-384, without a password",
    )
    parser.add_argument(
        "--version",
        type=int,
        metavar="N",
        help="whole number; a device takes none below the one it has (default: the time in UTC, as"
        " 202611281530)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Write ``model.sig`` into the folder, and print the key that devices need.

    Raises:
        UsageError: the folder is none that is signed, or the version none.
        BuildError: it cannot be signed; the message says why.
    """
    version = arguments.version
    if version is None:
        version = int(datetime.now(UTC).strftime("%Y%m%d%H%M"))
    if not 1 <= version <= MAX_VERSION:
        raise UsageError(f"--version: must be from 1 to {MAX_VERSION}")
    folder = arguments.folder.resolve()
    _check_kind(folder)
    signed = sign_folder(folder, arguments.key, version)
    print(f"{folder / SIGNATURE}: version {version}, {len(signed.files)} files, by the key")
    print(f"  {signed.key_id}")
    print("on a device, once: `edged key add PUBLIC.pem`; the public half of the key is made with")
    print(f"  openssl pkey -in {arguments.key} -pubout -out PUBLIC.pem")
    return ExitCode.OK


def sign_folder(folder: Path, key: Path, version: int) -> FolderSignature:
    """Sign all files of a folder, with a version among them; blocks while it reads them.

    Raises:
        BuildError: it cannot be signed; the message says why.
    """
    signature = folder / SIGNATURE
    try:
        (folder / VERSION).write_bytes(version_bytes(version))
        signature.unlink(missing_ok=True)
        files = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)
        signer = signing.Config().use_elliptic_key_signer(private_key=key)
        signer.set_hashing_config(files).sign(folder, signature)
        signed = read_signature(signature.read_bytes())
        with opened_folder(folder) as folder_fd:
            compare_files(signed.files, hash_folder(folder_fd, {}, signed))
    except OSError as error:
        raise BuildError(f"{error.filename or folder}: {error.strerror}") from error
    except (ValueError, TypeError) as error:  # the tool's: a key with a password, a link
        raise BuildError(f"{folder}: not signed with {key}: {error}") from error
    return signed


def _check_kind(folder: Path) -> None:
    """Check that a device would know what to do with the folder.

    Raises:
        UsageError: it would not.
    """
    if (folder / MANIFEST).exists():
        open_bundle(folder)
    elif not any((folder / name).exists() for name in (DESCRIPTION, WRITER)):
        raise UsageError(f"{folder}: neither a bundle of `edged build` nor one of `edged teach`")
