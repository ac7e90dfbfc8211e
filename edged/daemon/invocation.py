"""The configuration of ``edged run`` and its like: from a file and command-line options.

Rule: the result is one ``Config``, or an error that names the option or the key.
"""

import argparse
import contextlib
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from edged.bundle.trust import Trust, read_trust
from edged.config.broker_url import BrokerAddress, parse_broker_url
from edged.config.keys import BrokerConfig, Config, SecurityConfig, node_name_of
from edged.config.load import broker_overrides, load_config
from edged.errors import ConfigError, UnavailableError, UsageError
from edged.transport.settings import read_password_file, tls_context


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name the configuration file and override its keys."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (YAML)")
    parser.add_argument("--model", metavar="DIR", help="bundle folder; overrides model.path")
    parser.add_argument(
        "--broker", metavar="URL", help="mqtt://[user:password@]host[:port], or mqtts://"
    )
    parser.add_argument("--node", metavar="NAME", help="name of this device in every topic")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])


def read_config(
    arguments: argparse.Namespace, further: Mapping[str, str | None] | None = None
) -> Config:
    """Return the configuration; options override the file, and so do ``further`` keys if set.

    Raises:
        UsageError: If neither a file nor a model is given.
        ConfigError: If a key or option is wrong; the message starts with its path.
        UnavailableError: If the file cannot be read.
    """
    node = node_name_of(socket.gethostname())
    options = {
        "node": arguments.node,
        "log.level": arguments.log_level,
        "model.path": arguments.model,
        **(further or {}),
    }
    overrides = {key: text for key, text in options.items() if text is not None}
    if arguments.broker is not None:
        try:
            overrides |= broker_overrides(parse_broker_url(arguments.broker))
        except ValueError as error:
            raise ConfigError(f"--broker: {error}") from error
    text, source = "", "command line"
    if arguments.config is not None:
        text, source = _read_text(arguments.config), str(arguments.config)
    elif arguments.model is None:
        raise UsageError("give --config FILE, or --model DIR with --broker URL and --node NAME")
    return load_config(text, source, default_node=node, overrides=overrides)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"{path}: cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text in UTF-8: {error}") from error


def configured_broker(broker: BrokerConfig) -> BrokerAddress:
    """Return the broker's address and the credentials for it.

    Raises:
        UnavailableError: If the password file cannot be read.
    """
    password = broker.password
    if broker.password_file is not None:
        _check_regular(broker.password_file, "broker.password_file")
        password = read_password_file(broker.password_file, "broker.password_file")
    return BrokerAddress(broker.host, broker.port, broker.tls, broker.username, password)


def configured_trust(security: SecurityConfig) -> Trust:
    """Return whose models are used.

    Raises:
        SignatureError: A list of keys is damaged.
        BundleUnavailableError: The keys cannot be read now.
    """
    return read_trust(security.keys, is_required=security.require_signature)


def check_broker_files(broker: BrokerConfig) -> None:
    """Read the files that a connection to the broker needs.

    Raises:
        UnavailableError: If one of them cannot be read, or is not what it should be.
    """
    configured_broker(broker)
    if broker.ca_file is not None:
        _check_regular(broker.ca_file, "broker.ca_file")
        tls_context(broker.ca_file)


def _check_regular(path: Path, key: str) -> None:
    """Refuse what may be waited for without an end, such as a named pipe.

    Raises:
        UnavailableError: It is no regular file, nor a link to one.
    """
    with contextlib.suppress(OSError):  # reading it says what is wrong
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnavailableError(f"{key}: {path}: not a regular file; name one")
