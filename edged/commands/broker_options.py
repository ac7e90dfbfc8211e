"""The options that select a node and its broker, the same for every client command."""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edged.commands.sync_client import SyncClient
from edged.config.broker_url import BrokerAddress, parse_broker_url
from edged.errors import UnavailableError, UsageError
from edged.protocol.topic import refuse_prefix
from edged.protocol.wire import ClientTopics, Topics, is_user
from edged.transport.settings import BrokerSettings, read_password_file

_NODE = re.compile(r"[a-z0-9-]{1,32}")
DEFAULT_BROKER = "mqtt://localhost:1883"


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """A node and its broker."""

    address: BrokerAddress
    node: str
    prefix: str = "edged"
    ca_file: Path | None = None

    @property
    def topics(self) -> Topics:
        """The topics of the node."""
        return Topics(self.prefix, self.node)

    @property
    def client_topics(self) -> ClientTopics:
        """The topics of who asks: those of the account, if its name is a level of a topic."""
        user = self.address.username
        return self.topics.client(user if user and is_user(user) else None)

    def reply_topic(self, name: str) -> str:
        """Return a reply topic of one's own."""
        return self.client_topics.response(f"generate/{name}")

    def client(
        self, client_id: str, subscriptions: Sequence[str], protocol: str = "auto"
    ) -> SyncClient:
        """Return a client that starts a clean session and receives retained messages.

        Raises:
            UnavailableError: The CA file cannot be read.
        """
        settings = BrokerSettings(
            address=self.address,
            client_id=client_id,
            ca_file=self.ca_file,
            protocol=protocol,
            session_expiry_s=0,
            wants_retained=True,
        )
        return SyncClient(settings, subscriptions)


def add_broker_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--broker``, ``--node``, ``--prefix`` and the credentials."""
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
    add_credentials(parser)


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """Declare ``--username``, ``--password-file`` and ``--ca-file``."""
    parser.add_argument("--username", help="user name at the broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="password, first line")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="CA for mqtts://, PEM")


def read_broker_options(arguments: argparse.Namespace) -> BrokerOptions:
    """Read the options of ``add_broker_options``, and the password file.

    Raises:
        UsageError: An option is missing or wrong.
    """
    if not arguments.node:
        raise UsageError("--node: name the node to ask, or set EDGED_NODE")
    if not _NODE.fullmatch(arguments.node):
        raise UsageError("--node: must be 1 to 32 of a-z, 0-9 and -")
    refused = refuse_prefix(arguments.prefix)
    if refused is not None:
        raise UsageError(f"--prefix: not a topic prefix: {refused}; use the node's own prefix")
    address = _address(arguments.broker, arguments, "--broker")
    return BrokerOptions(address, arguments.node, arguments.prefix, arguments.ca_file)


def node_of_url(url: str, arguments: argparse.Namespace, option: str) -> BrokerOptions:
    """Read ``mqtt://host[:port]/NODE``, with the options of ``add_credentials``.

    Raises:
        UsageError: The URL or an option is wrong; the message begins with ``option``.
    """
    broker, _, node = url.rpartition("/")
    if not _NODE.fullmatch(node) or broker.endswith("/"):
        raise UsageError(f"{option}: write a node like mqtt://broker.local:1883/NODE")
    return BrokerOptions(_address(broker, arguments, option), node, ca_file=arguments.ca_file)


def _address(url: str, arguments: argparse.Namespace, option: str) -> BrokerAddress:
    try:
        address = parse_broker_url(url)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
    if arguments.username is not None:
        address = replace(address, username=arguments.username)
    if arguments.password_file is not None:
        try:
            password = read_password_file(arguments.password_file, "--password-file")
        except UnavailableError as error:
            raise UsageError(str(error)) from error
        address = replace(address, password=password)
    return address
