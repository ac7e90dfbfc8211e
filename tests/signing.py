"""Signed folders for tests, made with `cryptography` alone: each part can be another one."""

import base64
import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edged.bundle.public_key import PublicKey, read_public_key
from edged.bundle.signature import SIGNATURE

Change = Callable[[dict[str, Any]], object]
PrivateKey = ec.EllipticCurvePrivateKey
P256, P384 = ec.SECP256R1(), ec.SECP384R1()


def private_key(curve: ec.EllipticCurve = P256) -> PrivateKey:
    """Return a new key."""
    return ec.generate_private_key(curve)


def private_pem(key: PrivateKey) -> bytes:
    """Return a private key in PEM."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def public_pem(key: PrivateKey) -> bytes:
    """Return its public half in PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def public_key(key: PrivateKey, name: str = "maker") -> PublicKey:
    """Return its public half as a device reads it."""
    return read_public_key(public_pem(key), name)


def signed(key: PrivateKey, message: bytes) -> bytes:
    """Return a signature in DER, with the hash that goes with the curve."""
    is_small = key.curve.name == P256.name
    return key.sign(message, ec.ECDSA(hashes.SHA256() if is_small else hashes.SHA384()))


def statement(
    files: Mapping[str, bytes], ignored: tuple[str, ...] = (SIGNATURE,)
) -> dict[str, Any]:
    """Return the statement about these files."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    root = hashlib.sha256(b"".join(map(bytes.fromhex, digests.values()))).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest}
                for name, digest in digests.items()
            ],
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(ignored),
            },
        },
    }


def envelope(
    key: PrivateKey, said: dict[str, Any] | bytes, hint: str | None = None
) -> dict[str, Any]:
    """Return the bundle around a statement, or around any payload."""
    kind = "application/vnd.in-toto+json"
    payload = said if isinstance(said, bytes) else json.dumps(said).encode()
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": hint or hashlib.sha256(public_pem(key)).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"sig": base64.b64encode(signed(key, message)).decode(), "keyid": ""}],
        },
    }


def changed(tree: dict[str, Any], change: Change) -> bytes:
    """Return the bytes of a bundle after a change of it."""
    tree = copy.deepcopy(tree)
    change(tree)
    return json.dumps(tree).encode()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder but its signature, by path."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SIGNATURE)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def sign(folder: Path, key: PrivateKey, ignored: tuple[str, ...] = (SIGNATURE,)) -> None:
    """Write the signature of a folder into it."""
    said = statement(
        {
            name: data
            for name, data in contents(folder).items()
            if not any(name == one or name.startswith(f"{one}/") for one in ignored)
        },
        ignored,
    )
    (folder / SIGNATURE).write_text(json.dumps(envelope(key, said)))
