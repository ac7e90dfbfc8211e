"""A signature of a folder: its file ``model.sig``, read strictly.

The file is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists the files. Of
the methods that the format knows, only ``key`` is read here.

Rule: pure; no cryptography and no file. What is returned is what a key must still vouch for. Every
list and text has a bound, and what has two readings is refused.

Source: OpenSSF Model Signing 1.0; DSSE 1.0, "Signature definition"; in-toto Statement v1.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edged.bundle.strict_json import WrongValueError, read_json
from edged.errors import BundleError

SIGNATURE = "model.sig"
MAX_SIGNATURE_BYTES = 1 << 20
MAX_FILES = 1024
MAX_PATH_BYTES = 1024
_MAX_TEXT = 256
# A signature of P-384 in DER has 104 bytes at most.
_MAX_DER_BYTES = 128
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
# What the other methods of the format have in place of a key.
_OTHER_METHODS = {"certificate": "sigstore", "x509CertificateChain": "certificate"}
_HEX = re.compile(r"[0-9a-f]{64}")
# Control characters, and what another system reads as a separator.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
ADVICE = "sign the folder again with `edged sign`"


class SignatureError(BundleError):
    """A folder is not signed by a key that counts here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class FolderSignature:
    """What a signature says, before a key was asked."""

    message: bytes
    """What was signed."""
    signature: bytes
    """In DER."""
    key_id: str
    """SHA-256 of the public key in PEM, in hex."""
    files: Mapping[str, str]
    """SHA-256 of each file, in hex, by its path in the folder."""
    ignored: tuple[str, ...]
    """Paths that were not looked at; what is below them neither."""

    def ignores(self, path: str) -> bool:
        """Tell whether a path, or a folder above it, was not looked at."""
        return any(path == one or path.startswith(f"{one}/") for one in self.ignored)


def read_signature(data: bytes) -> FolderSignature:
    """Read the content of ``model.sig``.

    Raises:
        SignatureError: it is none, or of a form that is not read here; the message names the field.
    """
    try:
        return _read(data)
    except WrongValueError as error:
        raise SignatureError(f"{SIGNATURE}: {error}; {ADVICE}") from error


def authenticated(payload: bytes) -> bytes:
    """Return the pre-authentication encoding of a payload: the bytes that a key signs."""
    head = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} "
    return head.encode() + payload


def root_digest(files: Mapping[str, str]) -> str:
    """Return the hash of all hashes, in their order, as the statement's subject has it."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, files.values()))).hexdigest()


def compare_files(signed: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Compare the files that were signed with those that are there, by their hashes.

    Raises:
        SignatureError: one was added, changed or removed; the message names the first.
    """
    for name in sorted(signed.keys() | found.keys()):
        if name not in signed:
            raise SignatureError(f"{name}: not signed; remove it, or {ADVICE}")
        if name not in found:
            raise SignatureError(f"{name}: signed, but missing; copy the folder again")
        if signed[name] != found[name]:
            raise SignatureError(f"{name}: not what was signed; copy the folder again")


def _read(data: bytes) -> FolderSignature:
    if len(data) > MAX_SIGNATURE_BYTES:
        raise WrongValueError(f"larger than {MAX_SIGNATURE_BYTES} bytes")
    keys = {"mediaType", "verificationMaterial", "dsseEnvelope"}
    tree = _object(_json(data, "the file"), "the file", keys)
    if tree["mediaType"] != _MEDIA_TYPE:
        raise WrongValueError(f"mediaType must be {_MEDIA_TYPE}")
    key_id = _key_id(tree["verificationMaterial"])
    payload, signature = _envelope(tree["dsseEnvelope"])
    files, ignored = _statement(_json(payload, "dsseEnvelope.payload"))
    signed = FolderSignature(authenticated(payload), signature, key_id, files, ignored)
    for name in files:
        if signed.ignores(name) or name == SIGNATURE:
            raise WrongValueError(f"{name} is listed and ignored")
    return signed


def _key_id(material: object) -> str:
    """Return which key signed.

    Raises:
        WrongValueError: it is another method than ``key``.
    """
    name = "verificationMaterial"
    for key, method in _OTHER_METHODS.items():
        if isinstance(material, dict) and key in material:
            raise WrongValueError(f"the method {method} is not supported, only key is")
    tree = _object(material, name, {"publicKey"}, {"tlogEntries", "timestampVerificationData"})
    if tree.get("tlogEntries") not in (None, []):
        raise WrongValueError(f"{name}.tlogEntries must be empty: only the method key is supported")
    if tree.get("timestampVerificationData") not in (None, {}):
        raise WrongValueError(f"{name}.timestampVerificationData is not supported")
    known = {"hint", "rawBytes", "keyDetails"}
    named = _object(tree["publicKey"], f"{name}.publicKey", set(), known)
    if "hint" not in named:
        raise WrongValueError(f"{name}.publicKey.hint is missing: made by a tool older than 1.1")
    return _digest(named["hint"], f"{name}.publicKey.hint")


def _envelope(value: object) -> tuple[bytes, bytes]:
    """Return the payload and its signature.

    Raises:
        WrongValueError: there is not exactly one of each.
    """
    name = "dsseEnvelope"
    tree = _object(value, name, {"payload", "payloadType", "signatures"})
    if tree["payloadType"] != PAYLOAD_TYPE:
        raise WrongValueError(f"{name}.payloadType must be {PAYLOAD_TYPE}")
    signatures = tree["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise WrongValueError(f"{name}.signatures must have one entry")
    one = _object(signatures[0], f"{name}.signatures[0]", {"sig"}, {"keyid"})
    if one.get("keyid") not in (None, ""):
        raise WrongValueError(f"{name}.signatures[0].keyid must be empty")
    signature = _bytes(one["sig"], f"{name}.signatures[0].sig")
    if len(signature) > _MAX_DER_BYTES:
        raise WrongValueError(f"{name}.signatures[0].sig is too long for a key of P-256 or P-384")
    return _bytes(tree["payload"], f"{name}.payload"), signature


def _statement(value: object) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the files with their hashes, and what was ignored.

    Raises:
        WrongValueError: it is no statement of this kind, or contradicts itself.
    """
    tree = _object(value, "statement", {"_type", "subject", "predicateType", "predicate"})
    for key, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if tree[key] != wanted:
            raise WrongValueError(f"statement.{key} must be {wanted}")
    predicate = _object(tree["predicate"], "predicate", {"resources", "serialization"})
    ignored = _ignored(predicate["serialization"])
    files = _files(predicate["resources"])
    subjects = tree["subject"]
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise WrongValueError("statement.subject must have one entry")
    subject = _object(subjects[0], "subject", {"name", "digest"}, is_open=True)
    _text(subject["name"], "subject.name")
    digest = _object(subject["digest"], "subject.digest", {"sha256"})
    if _digest(digest["sha256"], "subject.digest.sha256") != root_digest(files):
        raise WrongValueError("subject.digest.sha256 is not that of the files listed")
    return files, ignored


def _ignored(value: object) -> tuple[str, ...]:
    name = "serialization"
    required = {"method", "hash_type", "allow_symlinks"}
    tree = _object(value, name, required, {"ignore_paths", "shard_size"})
    if tree["method"] != "files" or "shard_size" in tree:
        raise WrongValueError(f"{name}.method must be files")
    if tree["hash_type"] != "sha256":
        raise WrongValueError(f"{name}.hash_type must be sha256")
    if tree["allow_symlinks"] is not False:
        raise WrongValueError(f"{name}.allow_symlinks must be false")
    paths = tree.get("ignore_paths", [])
    if not isinstance(paths, list) or len(paths) > MAX_FILES:
        raise WrongValueError(f"{name}.ignore_paths must be a list of at most {MAX_FILES} paths")
    return tuple(_path(one, f"{name}.ignore_paths[{i}]") for i, one in enumerate(paths))


def _files(value: object) -> dict[str, str]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_FILES:
        raise WrongValueError(f"resources must be a list of 1 to {MAX_FILES} files")
    files: dict[str, str] = {}
    for index, one in enumerate(value):
        where = f"resources[{index}]"
        tree = _object(one, where, {"name", "digest", "algorithm"}, is_open=True)
        if tree["algorithm"] != "sha256":
            raise WrongValueError(f"{where}.algorithm must be sha256")
        name = _path(tree["name"], f"{where}.name")
        if name in files:
            raise WrongValueError(f"{where}.name is there twice: {name}")
        files[name] = _digest(tree["digest"], f"{where}.digest")
    return files


def _json(data: bytes, where: str) -> Any:  # noqa: ANN401 - any JSON
    # Without this ``json`` would take UTF-16 and UTF-32, which other readers do not.
    if b"\0" in data:
        raise WrongValueError(f"{where} is not JSON in UTF-8")
    try:
        return read_json(data)
    except (ValueError, RecursionError) as error:
        raise WrongValueError(f"{where} is not valid JSON ({error})") from error


def _object(
    value: object,
    where: str,
    required: set[str],
    optional: set[str] | None = None,
    *,
    is_open: bool = False,
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongValueError(f"{where} must be an object")
    for key in sorted(required - value.keys()):
        raise WrongValueError(f"{where} has no {key}")
    for key in sorted(value.keys() - required - (optional or set())):
        if not is_open:
            raise WrongValueError(f"{where} has an unknown key {key[:_MAX_TEXT]!r}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise WrongValueError(f"{where} must be a text of 1 to {_MAX_TEXT} characters")
    return value


def _digest(value: object, where: str) -> str:
    if not isinstance(value, str) or _HEX.fullmatch(value) is None:
        raise WrongValueError(f"{where} must be 64 hexadecimal digits, in small letters")
    return value


def _bytes(value: object, where: str) -> bytes:
    try:
        data = base64.b64decode(value if isinstance(value, str) else "", validate=True)
    except (ValueError, binascii.Error):
        data = b""
    # One text for one content: with bits left over, there would be several.
    if not data or base64.b64encode(data).decode() != value:
        raise WrongValueError(f"{where} must be base64")
    return data


def _path(value: object, where: str) -> str:
    """Return a path that stays in the folder and has one spelling.

    Raises:
        WrongValueError: it is another one.
    """
    is_text = isinstance(value, str) and 0 < len(value.encode("utf-8", "replace")) <= MAX_PATH_BYTES
    if not isinstance(value, str) or not is_text:
        raise WrongValueError(f"{where} must be a path of 1 to {MAX_PATH_BYTES} bytes")
    is_whole = not any(part in ("", ".", "..") for part in value.split("/"))
    is_encodable = not re.search(r"[\ud800-\udfff]", value)
    if not is_whole or not is_encodable or _UNSAFE.search(value):
        raise WrongValueError(
            f"{where} leaves the folder or is not written plainly: {value[:_MAX_TEXT]!r}"
        )
    return value
