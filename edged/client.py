"""``edged ask``: the command line of the reference client.

Rule: options and environment in, one ``AskOptions`` out; what happens then is in ``conversation``.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from edged.broker_url import BrokerAddress, parse_broker_url
from edged.conversation import AskOptions, ask
from edged.errors import UsageError

DEFAULT_BROKER = "mqtt://localhost:1883"
MAX_TIMEOUT_S = 24 * 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged ask``."""
    environment = os.environ
    parser.add_argument("prompt", metavar="PROMPT", help="what to ask; - reads standard input")
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
    parser.add_argument("--stream", action="store_true", help="print the text as it comes")
    parser.add_argument("--json", action="store_true", help="print the whole reply as JSON")
    parser.add_argument("--system", metavar="TEXT", help="system text")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer, in tokens")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 (greedy) to 2")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="deadline in s (default: 30)"
    )
    parser.add_argument("--username", help="user name at the broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is used")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="authority for mqtts://, PEM")
    parser.add_argument(
        "--protocol", choices=("auto", "5", "3.1.1"), default="auto", help="MQTT version"
    )


def main(arguments: argparse.Namespace) -> int:
    """Ask one question and return the exit status.

    Raises:
        UsageError: An option is missing or wrong.
    """
    if not arguments.node:
        raise UsageError("--node: name the node to ask, or set EDGED_NODE")
    if not 0 < arguments.timeout <= MAX_TIMEOUT_S:
        raise UsageError("--timeout: must be more than 0 s and at most a day")
    is_stdin = arguments.prompt == "-"
    return ask(
        AskOptions(
            prompt=sys.stdin.read() if is_stdin else arguments.prompt,
            node=arguments.node,
            broker=_address(arguments),
            prefix=arguments.prefix,
            is_stream=arguments.stream,
            is_json=arguments.json,
            system=arguments.system,
            max_tokens=arguments.max_tokens,
            temperature=arguments.temperature,
            timeout_s=arguments.timeout,
            ca_file=arguments.ca_file,
            protocol=arguments.protocol,
        )
    )


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
