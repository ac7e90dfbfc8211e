"""What the options of ``edged install`` ask for, beside what is configured already.

Rule: an option that is not given leaves what is there, so that a second run needs no options.
"""

import argparse
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from edged.commands.install.configuration import (
    DEFAULT_BUDGET_BYTES,
    MIB,
    Settings,
    budget_of,
)
from edged.commands.install.layout import Layout
from edged.config import Config, node_name_of
from edged.config.broker_url import BrokerAddress, parse_broker_url
from edged.config.kinds import size
from edged.errors import UsageError

_BUDGET = size(64 * MIB, 1024 * 1024 * MIB)


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options that say how the service is configured; None where not given."""

    model: Path | None = None
    node: str | None = None
    broker: BrokerAddress | None = None
    authority: str | None = None
    """The certificate, PEM."""
    budget_bytes: int | None = None

    @property
    def is_anything(self) -> bool:
        """Whether the configuration would have to say something new."""
        return self != Wishes()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that configure the service."""
    parser.add_argument("--model", type=Path, metavar="DIR", help="bundle to copy to this machine")
    parser.add_argument("--node", metavar="NAME", help="name in every topic (default: host name)")
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="mqtt[s]://[user[:password]@]host[:port]; default: localhost",
    )
    parser.add_argument(
        "--password-file", type=Path, metavar="FILE", help="its first line is the user's password"
    )
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="authority for mqtts://, PEM")
    parser.add_argument(
        "--budget", metavar="SIZE", help="memory the service may take in all (default: 800M)"
    )


def read_wishes(arguments: argparse.Namespace) -> Wishes:
    """Read the options.

    Raises:
        UsageError: If one of them is wrong.
    """
    budget_bytes = None
    if arguments.budget is not None:
        try:
            budget_bytes = _BUDGET.read(arguments.budget)
        except ValueError:
            raise UsageError(f"--budget: expected {_BUDGET.expected}, such as 800M") from None
    if arguments.password_file is not None and arguments.broker is None:
        raise UsageError("--password-file: give the user it belongs to, in --broker mqtt://user@…")
    return Wishes(
        model=arguments.model,
        node=arguments.node,
        broker=None if arguments.broker is None else _broker(arguments),
        authority=_text(arguments.ca_file, "--ca-file"),
        budget_bytes=budget_bytes,
    )


def _broker(arguments: argparse.Namespace) -> BrokerAddress:
    try:
        address = parse_broker_url(arguments.broker)
    except ValueError as error:
        raise UsageError(f"--broker: {error}") from error
    if arguments.password_file is None:
        return address
    if address.username is None:
        raise UsageError("--password-file: give the user it belongs to, in --broker mqtt://user@…")
    password = _text(arguments.password_file, "--password-file") or ""
    return replace(address, password=password.partition("\n")[0])


def _text(path: Path | None, option: str) -> str | None:
    try:
        return None if path is None else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: cannot be read: {error}") from error


def decide(layout: Layout, wishes: Wishes, current: Config | None) -> Settings:
    """Combine the options with the configuration that is there.

    Raises:
        UsageError: If there is no model in either.
    """
    if wishes.model is None and current is None:
        raise UsageError("--model: name the folder of the bundle that `edged build` made")
    broker = wishes.broker or BrokerAddress("localhost", 1883)
    if current is not None:
        broker = _merged(broker if wishes.broker else None, current)
    is_kept = current is not None and current.broker.password_file is not None
    model = layout.models / wishes.model.resolve().name if wishes.model else None
    if model is None:
        assert current is not None  # noqa: S101 - said above
        model = current.model.path
    has_own_authority = current is not None and current.broker.ca_file is not None
    return Settings(
        node=wishes.node or (current.node or None if current else _host_node(layout)),
        model=model,
        broker=broker,
        has_password=broker.username is not None and (is_kept or broker.password is not None),
        has_authority=broker.is_tls and (has_own_authority or wishes.authority is not None),
        budget_bytes=wishes.budget_bytes
        or (budget_of(current) if current else DEFAULT_BUDGET_BYTES),
    )


def _merged(wanted: BrokerAddress | None, current: Config) -> BrokerAddress:
    """Take the address that is wanted, and the user that is there unless another is named."""
    old = current.broker
    if wanted is None:
        return BrokerAddress(old.host, old.port, old.tls, old.username)
    return wanted if wanted.username else replace(wanted, username=old.username)


def _host_node(layout: Layout) -> str | None:
    """Name the node after this machine; an image in the making has no name yet."""
    return node_name_of(socket.gethostname()) if layout.root == Path("/") else None
