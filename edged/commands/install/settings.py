"""The settings of a service: the options, combined with an existing configuration.

Rule: options that are not given keep the existing settings; a configuration that was edited by hand
is never overwritten.
"""

import argparse
import hashlib
import ipaddress
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from edged.commands.install import files
from edged.commands.install.layout import MODELS, InstallError, Layout
from edged.config.broker_url import BrokerAddress, parse_broker_url
from edged.config.keys import IDENTITY_REQUIRED, Config, node_name_of
from edged.config.kinds import size
from edged.config.load import load_config
from edged.daemon.confinement import broker_addresses
from edged.errors import UsageError

MIB = 1024**2
_DEFAULT_BUDGET_BYTES = 800 * MIB  # MemoryMax= of the unit as shipped
# Share of the budget in budget.memory: edged refuses requests before the kernel kills the process.
_OWN_SHARE = 7, 8
_BUDGET = size("64M", "1024G")
_HEADER = re.compile(r"# Made by `edged install` \(sum ([0-9a-f]{16})\)[^\n]*\n")
_HEADER_LINE = "# Made by `edged install` (sum {}); once edited, it is left alone.\n"
# What answers a question for a name through a socket, which no address rule covers.
_NO_LOOK_UP = "InaccessiblePaths=-/run/systemd/resolve -/run/avahi-daemon"
# In ``MODELS``: the stores of ``edged model``, and the folder of deploy/updates/edged-drop.path.
_TAKEN = re.compile("store(-.*)?|drop")
_OPTIONS = ("model", "node", "broker", "password_file", "ca_file", "budget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a service."""

    node: str | None
    model: Path
    """Path of the bundle in the target system."""
    broker: BrokerAddress
    """With a password only if it is to be written."""
    has_password: bool
    has_authority: bool
    budget_bytes: int
    """Memory limit of the service."""
    needs_identity: bool = False
    """Whether only accounts of the broker are answered, on topics of their own."""
    authority: str | None = None
    """CA certificate of the broker in PEM, if it is to be written."""


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


def read_settings(arguments: argparse.Namespace, layout: Layout) -> tuple[Settings, bool]:
    """Combine the options with the existing configuration.

    Returns:
        The settings, and whether the configuration may be overwritten.

    Raises:
        UsageError: If an option is wrong, or no model is given.
        InstallError: If the configuration cannot be read, or was edited and options are given.
        ConfigError: If the configuration is wrong.
    """
    changes = _changes(arguments)
    current, is_ours = _read_current(layout)
    if not is_ours and any(getattr(arguments, name) is not None for name in _OPTIONS):
        raise InstallError(
            f"{layout.configuration} was edited by hand: change it there (then `systemctl reload"
            f" {layout.unit}`), or remove it and install again"
        )
    if current is None:
        if arguments.model is None:
            raise UsageError("--model: name the folder of the bundle that `edged build` made")
        current = Settings(
            # An image has no host name yet: the node gets its name when it starts.
            node=node_name_of(socket.gethostname()) if layout.root == Path("/") else None,
            model=Path(),
            broker=BrokerAddress("localhost", 1883),
            has_password=False,
            has_authority=False,
            budget_bytes=_DEFAULT_BUDGET_BYTES,
        )
    broker = changes.get("broker")
    if isinstance(broker, BrokerAddress):
        if broker.username is None:
            changes["broker"] = replace(broker, username=current.broker.username)
        else:
            # A broker with accounts; one that was configured before keeps its clients' topics.
            changes["needs_identity"] = True
    settings = replace(current, **changes)  # type: ignore[arg-type] # each has the field's type
    has_user, is_tls = settings.broker.username is not None, settings.broker.is_tls
    is_known = settings.has_password or settings.broker.password is not None
    has_authority = settings.has_authority or settings.authority is not None
    settings = replace(
        settings, has_password=has_user and is_known, has_authority=is_tls and has_authority
    )
    return settings, is_ours


def _changes(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the given options as fields of ``Settings``."""
    given = {
        "node": arguments.node,
        "model": _model(arguments.model),
        "broker": _broker(arguments),
        "authority": _text(arguments.ca_file, "--ca-file"),
        "budget_bytes": _budget_bytes(arguments.budget),
    }
    return {name: value for name, value in given.items() if value is not None}


def _model(source: Path | None) -> Path | None:
    """Return where a bundle is copied to.

    Raises:
        UsageError: Something else is there.
    """
    if source is None:
        return None
    name = source.resolve().name
    if _TAKEN.fullmatch(name):
        raise UsageError(f"--model: {MODELS / name} is for updates; rename the bundle's folder")
    return MODELS / name


def _budget_bytes(text: str | None) -> int | None:
    try:
        # Whole MiB, as the unit gets it.
        return None if text is None else int(_BUDGET.read(text)) // MIB * MIB
    except ValueError:
        raise UsageError(f"--budget: expected {_BUDGET.expected}, such as 800M") from None


def _broker(arguments: argparse.Namespace) -> BrokerAddress | None:
    try:
        address = None if arguments.broker is None else parse_broker_url(arguments.broker)
    except ValueError as error:
        raise UsageError(f"--broker: {error}") from error
    if arguments.password_file is None:
        return address
    if address is None or address.username is None:
        raise UsageError("--password-file: give the user it belongs to, in --broker mqtt://user@…")
    password = _text(arguments.password_file, "--password-file") or ""
    return replace(address, password=password.partition("\n")[0])


def _text(path: Path | None, option: str) -> str | None:
    try:
        # Not through a link: its owner could make it lead to a file that only root may read.
        return None if path is None else files.read_plain(path)[0].decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: cannot be read as a plain file: {error}") from error


def _read_current(layout: Layout) -> tuple[Settings | None, bool]:
    """Read the existing configuration, and whether it is unchanged since ``edged install``.

    Raises:
        InstallError: If it cannot be read.
    """
    path = layout.inside(layout.configuration)
    try:
        with files.opened_folder(layout.root, path.parent) as folder_fd:
            text = files.read_plain(path.name, folder_fd)[0].decode()
    except FileNotFoundError:
        return None, True
    except (OSError, UnicodeDecodeError) as error:
        raise InstallError(f"{path}: cannot be read: {error}") from error
    return _parsed(text, layout)


def naming_another_model(text: str, layout: Layout, model: Path) -> str | None:
    """Return a configuration with another ``model.path``; None where it was edited by hand.

    Raises:
        ConfigError: It is wrong.
    """
    settings, is_ours = _parsed(text, layout)
    return configuration_text(layout, replace(settings, model=model)) if is_ours else None


def _parsed(text: str, layout: Layout) -> tuple[Settings, bool]:
    header = _HEADER.match(text)
    is_ours = header is not None and header[1] == _sum(text[header.end() :])
    # Without a node the host name is used at the start, and the host may be another machine.
    config = load_config(text, str(layout.configuration), default_node="")
    broker = config.broker
    settings = Settings(
        node=config.node or None,
        model=config.model.path,
        broker=BrokerAddress(broker.host, broker.port, broker.tls, broker.username),
        has_password=broker.password_file is not None,
        has_authority=broker.ca_file is not None,
        budget_bytes=_budget_of(config),
        needs_identity=config.security.identity == IDENTITY_REQUIRED,
    )
    return settings, is_ours


def _budget_of(config: Config) -> int:
    """Return the budget from which ``configuration_text`` computed budget.memory."""
    if config.budget.memory_bytes is None:
        return _DEFAULT_BUDGET_BYTES
    # Rounded up: edged 0.2.0 wrote its share rounded down to whole MiB.
    return -(-config.budget.memory_bytes * _OWN_SHARE[1] // (_OWN_SHARE[0] * MIB)) * MIB


def configuration_text(layout: Layout, settings: Settings) -> str:
    """Return the text of the configuration file."""
    broker = settings.broker
    own_mib = settings.budget_bytes * _OWN_SHARE[0] / _OWN_SHARE[1] / MIB
    address: dict[str, object] = {"host": broker.host, "port": broker.port}
    if broker.username is not None:
        address["username"] = broker.username
    if settings.has_password:
        address["password_file"] = str(layout.credential)
    if broker.is_tls:
        address["tls"] = True
    if settings.has_authority:
        address["ca_file"] = str(layout.authority)
    values = {
        **({"node": settings.node} if settings.node else {}),
        "model": {"path": str(settings.model)},
        "broker": address,
        **({"security": {"identity": IDENTITY_REQUIRED}} if settings.needs_identity else {}),
        "budget": {"memory": f"{own_mib:.10g}M"},  # exact: the budget is computed from it
        "state": {"file": f"{layout.runtime}/state.json", "folder": str(layout.state)},
    }
    hint = f"# Every key: docs/configuration.md. Then: systemctl reload {layout.unit}\n"
    body = hint + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return _HEADER_LINE.format(_sum(body)) + body


def drop_in_text(layout: Layout, settings: Settings) -> str:
    """Return the text of the drop-in for the unit."""
    mib = settings.budget_bytes // MIB
    lines = ["[Service]", f"MemoryMax={mib}M", f"LimitDATA={mib * 3 // 2}M"]
    if settings.has_password:
        lines.append(f"LoadCredential=mqtt-password:{layout.password}")
    lines += _network_rules(layout, settings.broker.host)
    return "# Made by `edged install`.\n" + "\n".join(lines) + "\n"


def _network_rules(layout: Layout, host: str) -> list[str]:
    """Return the directives that let the service reach the broker and, for a name, look it up."""
    addresses = broker_addresses(host)
    if addresses:
        return ["IPAddressAllow=", f"IPAddressAllow={' '.join(addresses)}", _NO_LOOK_UP]
    # Its address may change: the networks of the unit as shipped stay; name servers are added.
    servers = _public_name_servers(layout)
    return [f"IPAddressAllow={' '.join(servers)}"] if servers else []


def _public_name_servers(layout: Layout) -> list[str]:
    """Return this machine's name servers outside of the unit's networks; none for an image."""
    path = layout.inside("/etc/resolv.conf")
    if layout.root != Path("/") or not path.exists():
        return []
    found = re.findall(r"(?m)^nameserver\s+([0-9a-fA-F.:]+)", path.read_text("utf-8", "replace"))
    addresses = {server for name in found for server in broker_addresses(name)}
    return sorted(text for text in addresses if ipaddress.ip_address(text).is_global)


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
