"""The files a connection to the broker needs: a password, a CA certificate."""

import ssl
from pathlib import Path

from edged.errors import UnavailableError


def read_password_file(path: Path, name: str) -> str:
    """Return the first line of a password file; ``name`` is the key or option that names it.

    Raises:
        UnavailableError: It cannot be read, or is not UTF-8; the text starts with ``name``.
    """
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise UnavailableError(f"{name}: cannot be read: {error}") from error


def load_authorities(ca_file: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts a CA file, or the system's authorities where it is None.

    Raises:
        UnavailableError: The file cannot be read, or is not PEM.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        problem = f"broker.ca_file: {ca_file}: not a readable PEM certificate"
        raise UnavailableError(problem) from error
