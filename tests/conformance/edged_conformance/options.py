"""The options for broker and node, the same as those of ``edged ask``."""

import argparse
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edged_conformance.errors import UsageError

_DEFAULT_BROKER = "mqtt://localhost:1883"
_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_NODE = re.compile(r"[a-z0-9-]{1,32}")
_USER = re.compile(r"[^/+#\x00-\x1f\x7f-\x9f]+")
_MAX_USER_BYTES = 64
_PREFIX = re.compile(r"(?!\$)[^/+#\0]+(/[^/+#\0]+)*")


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a broker, with credentials."""

    host: str
    port: int
    is_tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The URL without credentials, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.is_tls else 'mqtt'}://{host}:{self.port}"

    def check_account(self, option: str) -> None:
        """Check that its account has topics of its own, if it has one.

        Raises:
            UsageError: Its name cannot be a level of a topic.
        """
        name = self.username
        if name is not None and not (
            _USER.fullmatch(name) and len(name.encode()) <= _MAX_USER_BYTES
        ):
            raise UsageError(f"{option}: the user name must be 1 to 64 bytes without /, + and #")


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--broker``, ``--node``, ``--prefix`` and the credentials."""
    parser.add_argument(
        "--broker",
        default=os.environ.get("EDGED_BROKER", _DEFAULT_BROKER),
        metavar="URL",
        help="mqtt://[user:password@]host[:port] or mqtts://… "
        f"(default: $EDGED_BROKER, else {_DEFAULT_BROKER})",
    )
    parser.add_argument(
        "--node",
        default=os.environ.get("EDGED_NODE"),
        help="name of the node (default: $EDGED_NODE)",
    )
    parser.add_argument("--prefix", default="edged", help="first topic level (default: edged)")
    parser.add_argument("--username", help="user name at the broker; its own topics are used")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is used")
    parser.add_argument(
        "--other",
        metavar="URL",
        help="the same broker with a second account, for cases that need one",
    )
    parser.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="CA certificate for mqtts://, PEM"
    )


def check_node(arguments: argparse.Namespace) -> None:
    """Check ``--node`` and ``--prefix``.

    Raises:
        UsageError: One of them is missing or wrong.
    """
    if not arguments.node:
        raise UsageError("--node: name the node to test, or set EDGED_NODE")
    if not _NODE.fullmatch(arguments.node):
        raise UsageError("--node: must be 1 to 32 of a-z, 0-9 and -")
    if not _PREFIX.fullmatch(arguments.prefix):
        raise UsageError("--prefix: not a valid topic prefix; give the prefix of the node")


def read_address(arguments: argparse.Namespace) -> Address:
    """Read the address of the broker and the credentials, including the password file.

    Raises:
        UsageError: An option is wrong.
    """
    found = _read_url(arguments.broker, "--broker")
    username, password = arguments.username or found.username, found.password
    if arguments.password_file is not None:
        try:
            password = arguments.password_file.read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--password-file: cannot be read: {error}") from error
    address = replace(found, username=username, password=password)
    address.check_account("--broker")
    return address


def read_other(arguments: argparse.Namespace, address: Address) -> Address | None:
    """Read the second account; None without one.

    Raises:
        UsageError: It is no other account.
    """
    if arguments.other is None:
        return None
    other = _read_url(arguments.other, "--other")
    other.check_account("--other")
    if address.username is None or other.username in (None, address.username):
        raise UsageError("--other: give another account than --broker, and both a user name")
    return other


def _read_url(url: str, option: str) -> Address:
    try:
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.path.strip("/"):
            raise ValueError  # noqa: TRY301 - reported below, with those of urlsplit
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
    except ValueError:
        # Never quoted: it may hold a password.
        raise UsageError(f"{option}: write it like mqtt://user:password@host:1883") from None
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return Address(parts.hostname, port, parts.scheme == "mqtts", username, password)
