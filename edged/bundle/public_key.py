"""A public key that vouches for models: an elliptic curve, P-256 or P-384, in PEM.

Rule: ``cryptography`` is imported when the first key is read, and nowhere else on a device: it
takes memory, which a device without keys should not pay for.
"""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edged.bundle.signature import SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

MAX_PEM_BYTES = 1 << 14
_BEGIN = b"-----BEGIN "
_PUBLIC = b"-----BEGIN PUBLIC KEY-----"
# The hash that goes with each curve, by the curve's name in the library.
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384"}
_ADVICE = (
    "make one with `openssl ecparam -genkey -name prime256v1 -noout -out key.pem`, and take its"
    " public half: `openssl pkey -in key.pem -pubout`"
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that was read and checked."""

    name: str
    """Of its file, without ``.pem``."""
    key_id: str
    """SHA-256 of it in PEM, in hex; signatures name it so."""
    pem: bytes
    """In the one form that the hash is made of."""
    _key: "EllipticCurvePublicKey" = field(repr=False, compare=False)

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Tell whether a signature, in DER, is this key's for a message.

        A signature (r, s) has a twin (r, -s) that holds as well; neither is preferred.
        """
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see the rule
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415

        algorithm = getattr(hashes, _HASHES[self._key.curve.name])()
        try:
            self._key.verify(signature, message, ECDSA(algorithm))
        except InvalidSignature:
            return False
        return True


def read_public_key(pem: bytes, name: str) -> PublicKey:
    """Read a key.

    Args:
        pem: The content of its file.
        name: Of the key, for people.

    Raises:
        SignatureError: It is no public key of a curve that is supported; says what to do.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see the rule
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey  # noqa: PLC0415

    if b"PRIVATE KEY" in pem:
        raise SignatureError(
            f"{name}: a private key, which belongs on no device; take its public half:"
            " `openssl pkey -in FILE -pubout`"
        )
    if len(pem) > MAX_PEM_BYTES or pem.count(_BEGIN) != 1 or _PUBLIC not in pem:
        raise SignatureError(f"{name}: not one public key in PEM; {_ADVICE}")
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{name}: not a public key ({error}); {_ADVICE}") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise SignatureError(f"{name}: not a key of the curve P-256 or P-384; {_ADVICE}")
    one_form = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return PublicKey(name, hashlib.sha256(one_form).hexdigest(), one_form, key)
