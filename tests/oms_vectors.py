"""Compare the reader of signatures with the test vectors of OpenSSF Model Signing 1.0.

    python -m tests.oms_vectors DIR

DIR is the folder ``test-vectors/v1.0`` of the specification's repository, which is not a part of
this one. Prints what is said to each vector; exits with 1 where it is not what it should be.
"""

import sys
from pathlib import Path

from edged.bundle.signature import SignatureError, read_signature

# By its path: what the message has in it; "read" for what is read.
EXPECTED = {
    "valid/key": "read",
    "valid/certificate": "the method certificate is not supported",
    "valid/sigstore": "the method sigstore is not supported",
    "invalid/empty": "not valid JSON",
    "invalid/missing-envelope": "the file has no dsseEnvelope",
    "invalid/missing-tlog-entries": "the method sigstore is not supported",
    "invalid/missing-verification-material": "the file has no verificationMaterial",
    "invalid-payload/wrong-predicate": "statement.predicateType must be",
}


def main(folder: Path) -> int:
    """Compare all vectors; return the exit status."""
    found = {
        path.relative_to(folder).as_posix().removesuffix(".bundle.json"): said(path.read_bytes())
        for path in sorted(folder.rglob("*.bundle.json"))
    }
    is_right = found.keys() == EXPECTED.keys()
    for name, text in found.items():
        is_right &= EXPECTED.get(name, "nothing, it is new") in text
        print(f"{name}: {text}")
    return 0 if is_right else 1


def said(data: bytes) -> str:
    """Return what the reader says."""
    try:
        return f"read: {', '.join(read_signature(data).files)}"
    except SignatureError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
