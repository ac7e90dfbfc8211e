"""``edged check``: would a start with this configuration work?

Rule: it loads no model and uses no network, so it may run beside the daemon, which does the same
before it takes up a changed configuration.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from edged.bundle.folder import Bundle, open_bundle
from edged.config.keys import Config
from edged.daemon.invocation import (
    add_config_arguments,
    check_broker_files,
    configured_trust,
    read_config,
)
from edged.daemon.memory_plan import lasting_problem
from edged.errors import ConfigError, ExitCode

add_arguments = add_config_arguments


def main(arguments: argparse.Namespace) -> int:
    """Check the configuration and print one line; raises the first error of a start."""
    config = read_config(arguments)
    bundle = check(config)
    print(f"ok: {bundle.model_id} for node {config.node}")
    return ExitCode.OK


def check(config: Config, *, trusted_sha256: str | None = None) -> Bundle:
    """Check what a start would check, and return the bundle; blocks while it reads its files.

    Those of a bundle with ``trusted_sha256`` are not read again.

    Raises:
        ConfigError: A key is wrong, or the model cannot fit this device.
        BundleError: The model is missing or damaged, or not signed by a key that is needed.
        UnavailableError: A file cannot be read; a start waits for it.
    """
    trust = configured_trust(config.security)
    bundle = open_bundle(config.model.path, verify=False, trust=trust)
    if bundle.sha256 != trusted_sha256:
        bundle = open_bundle(config.model.path, trust=trust)
    # Not what is free now: the running daemon will free its part of the rest.
    problem = lasting_problem(config, bundle)
    if problem is not None:
        raise ConfigError(problem)
    check_broker_files(config.broker)
    return bundle


class Checked(NamedTuple):
    """A configuration, and the model that it names."""

    config: Config
    bundle: Bundle


def changed(read: Callable[[], Config], running_sha256: str) -> Checked:
    """Return the configuration as it is now, checked for a daemon that runs.

    Raises:
        EdgedError: Why it must not be used.
    """
    config = read()
    return Checked(config, check(config, trusted_sha256=running_sha256))
