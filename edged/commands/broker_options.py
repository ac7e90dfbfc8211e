"""The options that say which node to talk to: the same for every client subcommand."""

import argparse
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from edged.config.broker_url import BrokerAddress, parse_broker_url
from edged.errors import UsageError
from edged.protocol.topic import refuse_prefix

_NODE = re.compile(r"[a-z0-9-]{1,32}")
DEFAULT_BROKER = "mqtt://localhost:1883"


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """A node, and the broker it is at."""

    address: BrokerAddress
    node: str
    prefix: str
    ca_file: Path | None


def add_broker_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--broker``, ``--node``, ``--prefix`` and who to be at the broker."""
    environment = os.environ
    parser.add_argument(
        "--broker",
        default=environment.get("EDGED_BROKER", DEFAULT_BROKER),
        metavar="URL",
        help="mqtt://[user:password@]host[:port] or mqtts://… "
        f"(default: $EDGED_BROKER, else {DEFAULT_BROKER})",
    )
    parser.add_argument(
        "--node",
        default=environment.get("EDGED_NODE"),
        help="name of the node (default: $EDGED_NODE)",
    )
    parser.add_argument("--prefix", default="edged", help="first topic level (default: edged)")
    parser.add_argument("--username", help="user name at the broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is used")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="authority for mqtts://, PEM")


def read_broker_options(arguments: argparse.Namespace) -> BrokerOptions:
    """Read what ``add_broker_options`` has declared; reads the password file.

    Raises:
        UsageError: An option is missing or wrong.
    """
    if not arguments.node:
        raise UsageError("--node: name the node to ask, or set EDGED_NODE")
    if not _NODE.fullmatch(arguments.node):
        raise UsageError("--node: must be 1 to 32 of a-z, 0-9 and -")
    refused = refuse_prefix(arguments.prefix)
    if refused is not None:
        raise UsageError(f"--prefix: cannot begin a topic: {refused}; give the node's own prefix")
    return BrokerOptions(_address(arguments), arguments.node, arguments.prefix, arguments.ca_file)


def _address(arguments: argparse.Namespace) -> BrokerAddress:
    try:
        address = parse_broker_url(arguments.broker)
    except ValueError as error:
        raise UsageError(f"--broker: {error}") from error
    if arguments.username is not None:
        address = replace(address, username=arguments.username)
    if arguments.password_file is not None:
        try:
            password = arguments.password_file.read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--password-file: cannot be read: {error}") from error
        address = replace(address, password=password)
    return address
