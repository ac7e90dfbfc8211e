"""The files with settings that an installation writes: the configuration and the unit's drop-in.

Rule: a configuration that somebody edited is theirs; it is never written over.
"""

import hashlib
import ipaddress
import json
import re
from dataclasses import dataclass
from pathlib import Path

from edged.commands.install.layout import InstallError, Layout
from edged.config import Config, load_config
from edged.config.broker_url import BrokerAddress

MIB = 1024**2
DEFAULT_BUDGET_BYTES = 800 * MIB
"""``MemoryMax=`` of the unit as shipped."""
_OWN_SHARE = 7, 8
"""Of the budget, what edged plans with: it refuses a request before the kernel kills."""
_HEADER = re.compile(r"# Made by `edged install` \(sum ([0-9a-f]{16})\)[^\n]*\n")
_PLAIN = re.compile(r"[A-Za-z0-9/._@-]+")
_HEADER_LINE = "# Made by `edged install` (sum {}); once edited, it is left alone.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an installation decides about a service."""

    node: str | None
    model: Path
    """The bundle, as the installed system sees it."""
    broker: BrokerAddress
    has_password: bool
    has_authority: bool
    budget_bytes: int
    """What the kernel allows the service in all."""


def read_current(layout: Layout) -> tuple[Config | None, bool]:
    """Read the configuration that is there.

    Returns:
        The configuration, None when there is none; and whether it is as ``edged install`` wrote it.

    Raises:
        InstallError: If it cannot be read.
        ConfigError: If it is wrong.
    """
    path = layout.inside(layout.configuration)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None, True
    except (OSError, UnicodeDecodeError) as error:
        raise InstallError(f"{path}: cannot be read: {error}") from error
    header = _HEADER.match(text)
    is_ours = header is not None and header[1] == _sum(text[header.end() :])
    # No node in it: named after the host when it starts, which may be another machine than this.
    return load_config(text, str(layout.configuration), default_node=""), is_ours


def configuration_text(layout: Layout, settings: Settings) -> str:
    """Write the configuration."""
    broker = settings.broker
    own_bytes = settings.budget_bytes * _OWN_SHARE[0] // _OWN_SHARE[1]
    values: dict[str, dict[str, str | None]] = {
        "": {"node": settings.node},
        "model": {"path": str(settings.model)},
        "broker": {
            "host": broker.host,
            "port": str(broker.port),
            "username": broker.username,
            "password_file": str(layout.credential) if settings.has_password else None,
            "tls": "true" if broker.is_tls else None,
            "ca_file": str(layout.authority) if settings.has_authority else None,
        },
        "budget": {"memory": f"{own_bytes // MIB}M"},
        "state": {"file": f"{layout.runtime}/state.json", "folder": str(layout.state)},
    }
    lines = ["# Every key: docs/configuration.md. Then: systemctl reload " + layout.unit]
    for section, keys in values.items():
        indent = "  " if section else ""
        lines += [f"{section}:"] if section else []
        lines += [
            f"{indent}{key}: {_scalar(value)}" for key, value in keys.items() if value is not None
        ]
    body = "\n".join(lines) + "\n"
    return _HEADER_LINE.format(_sum(body)) + body


def budget_of(config: Config) -> int:
    """Give the budget that ``configuration_text`` made this configuration's of."""
    if config.budget.memory_bytes is None:
        return DEFAULT_BUDGET_BYTES
    mib = -(-config.budget.memory_bytes * _OWN_SHARE[1] // _OWN_SHARE[0]) / MIB
    return round(mib) * MIB


def drop_in_text(layout: Layout, settings: Settings) -> str:
    """Write what of the unit is different on this machine."""
    mib = settings.budget_bytes // MIB
    lines = ["[Service]", f"MemoryMax={mib}M", f"LimitDATA={mib * 3 // 2}M"]
    if settings.has_password:
        lines.append(f"LoadCredential=mqtt-password:{layout.password}")
    if _is_public(settings.broker.host):
        lines.append(f"IPAddressAllow={settings.broker.host}")
    return "# Made by `edged install`.\n" + "\n".join(lines) + "\n"


def _scalar(value: str) -> str:
    """Write a value plainly where YAML reads it as it stands, else in quotes."""
    is_plain = _PLAIN.fullmatch(value) and value.lower() != "null"
    return value if is_plain else json.dumps(value)


def _is_public(host: str) -> bool:
    """Tell whether this is an address that the unit as shipped does not allow."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
