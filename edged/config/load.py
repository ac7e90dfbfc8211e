"""Make a validated ``Config`` from the text of a file and the options of a command.

Rule: every error starts with the path of the key, and names the value, what is expected and where
it was given; a secret is never quoted.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from edged.config.broker_url import DEFAULT_PORTS, BrokerAddress
from edged.config.declare import Setting, settings_of
from edged.config.document import Document, Given, unknown_key
from edged.config.keys import Config
from edged.errors import ConfigError

# Section name → its dataclass; the empty name is the top level.
SECTIONS: dict[str, Any] = {"": Config} | {
    item.name: item.type for item in fields(Config) if not item.metadata
}
# Dotted path → declaration, in the order of the reference.
SETTINGS: Mapping[str, Setting] = {
    item.path: item for name, section in SECTIONS.items() for item in settings_of(section, name)
}

_COMMAND_LINE = "command line"


def load_config(
    text: str,
    source_name: str,
    *,
    default_node: str = "edged",
    overrides: Mapping[str, str | None] | None = None,
) -> Config:
    """Read a configuration.

    ``overrides``, dotted path → value as text, win over the document. ``default_node`` is the name
    of a node without a configured one; see ``node_name_of``.

    Raises:
        ConfigError: a key is unknown, missing or has a wrong value.
    """
    given = Document(source_name, SETTINGS.keys(), SECTIONS.keys() - {""}).read(text)
    # A path in a document starts at its folder, one on the command line at the working directory.
    folder = Path(source_name).parent
    values = {path: _value(SETTINGS[path], item, folder) for path, item in given.items()}
    for path, raw in (overrides or {}).items():
        if path not in SETTINGS:
            raise ConfigError(unknown_key(path, _COMMAND_LINE, SETTINGS.keys()))
        values[path] = _value(SETTINGS[path], Given(raw, _COMMAND_LINE), Path())
    values.setdefault("node", default_node)
    # The defaults that depend on another key.
    if values.get("broker.tls"):
        values.setdefault("broker.port", DEFAULT_PORTS["mqtts"])
    prefix = values.get("prefix", SETTINGS["prefix"].default)
    values.setdefault("request.reply_prefixes", (f"{prefix}/", "reply/"))
    for path, item in SETTINGS.items():
        if item.advice is not None and path not in values:
            raise ConfigError(f"{path}: required ({source_name}). {item.advice}")
    config = _build(values)
    _check_together(config)
    return config


def broker_overrides(broker: BrokerAddress) -> dict[str, str | None]:
    """Return the overrides for a broker's URL; without a user in it, the configured one stays."""
    overrides: dict[str, str | None] = {
        "broker.host": broker.host,
        "broker.port": str(broker.port),
        "broker.tls": str(broker.is_tls),
    }
    # The CA file that is configured for another address contradicts a URL without TLS.
    if not broker.is_tls:
        overrides["broker.ca_file"] = None
    # The configured password is the configured user's.
    if broker.username is not None:
        overrides["broker.username"] = broker.username
        overrides["broker.password"] = broker.password
        overrides["broker.password_file"] = None
    return overrides


def _value(item: Setting, given: Given, folder: Path) -> Any:  # noqa: ANN401 - as the kind says
    if given.raw is None and item.default is None and item.advice is None:
        return None
    try:
        value = item.kind.read(given.raw if given.raw is not None else "")
    except ValueError:
        shown = "(secret)" if item.is_secret else _shown(given)
        got = f"got {shown} ({given.place})"
        # Not chained to the error of the kind, which quotes a secret as well.
        raise ConfigError(f"{item.path}: expected {item.kind.expected}, {got}") from None
    if isinstance(value, tuple) and value and isinstance(value[0], Path):
        return tuple(folder / path for path in value)
    return folder / value if isinstance(value, Path) else value


def _shown(given: Given) -> str:
    if given.raw is None:
        return "null"
    # Shortened: it may be all of a text that was pasted to the wrong place.
    return reprlib.repr(given.raw if isinstance(given.raw, str) else list(given.raw))


def _build(values: Mapping[str, Any]) -> Config:
    def keywords(name: str) -> dict[str, Any]:
        declared = settings_of(SECTIONS[name], name)
        return {item.field_name: values[item.path] for item in declared if item.path in values}

    nested = {name: kind(**keywords(name)) for name, kind in SECTIONS.items() if name}
    return Config(**keywords(""), **nested)


def _check_together(config: Config) -> None:
    broker, request = config.broker, config.request
    has_password = broker.password is not None or broker.password_file is not None
    contradictions = {
        "broker.password: set beside broker.password_file; keep one of them": (
            broker.password is not None and broker.password_file is not None
        ),
        "broker.password: set without broker.username; set the user name as well": (
            has_password and broker.username is None
        ),
        "broker.ca_file: set, but broker.tls is false; set broker.tls: true": (
            broker.ca_file is not None and not broker.tls
        ),
        "state.corrections: set without state.folder, which they are kept in; set it as well": (
            config.state.corrections > 0 and config.state.folder is None
        ),
        # ``PREFIX/group/request/generate`` would be read as a topic of the node's.
        "node: `group` is reserved for the topics of groups; choose another name": (
            config.node == "group"
        ),
        "request.escalate_to: names this node or its own group; name another one": (
            request.escalate_to in {"group", config.node, f"group/{config.group.name}"}
        ),
        "request.timeout: longer than request.max_timeout; shorten it, or raise that": (
            request.timeout_s > request.max_timeout_s
        ),
        "request.max_tokens: leaves no room for a prompt in model.max_model_len; lower it": (
            request.max_tokens >= config.model.max_model_len
        ),
    }
    for message, is_wrong in contradictions.items():
        if is_wrong:
            raise ConfigError(message)
