"""``edged ask``: the command line of the reference client.

Rule: options and environment in, one ``AskOptions`` out; what happens then is in ``conversation``.
"""

import argparse
import sys

from edged.broker_options import add_broker_options, read_broker_options
from edged.conversation import AskOptions, ask
from edged.errors import UsageError

MAX_TIMEOUT_S = 24 * 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged ask``."""
    parser.add_argument("prompt", metavar="PROMPT", help="what to ask; - reads standard input")
    add_broker_options(parser)
    parser.add_argument("--stream", action="store_true", help="print the text as it comes")
    parser.add_argument("--json", action="store_true", help="print the whole reply as JSON")
    parser.add_argument("--system", metavar="TEXT", help="system text")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer, in tokens")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 (greedy) to 2")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="deadline in s (default: 30)"
    )
    parser.add_argument(
        "--protocol", choices=("auto", "5", "3.1.1"), default="auto", help="MQTT version"
    )


def main(arguments: argparse.Namespace) -> int:
    """Ask one question and return the exit status.

    Raises:
        UsageError: An option is missing or wrong.
    """
    options = read_broker_options(arguments)
    if not 0 < arguments.timeout <= MAX_TIMEOUT_S:
        raise UsageError("--timeout: must be more than 0 s and at most a day")
    is_stdin = arguments.prompt == "-"
    return ask(
        AskOptions(
            prompt=sys.stdin.read() if is_stdin else arguments.prompt,
            node=options.node,
            broker=options.address,
            prefix=options.prefix,
            is_stream=arguments.stream,
            is_json=arguments.json,
            system=arguments.system,
            max_tokens=arguments.max_tokens,
            temperature=arguments.temperature,
            timeout_s=arguments.timeout,
            ca_file=options.ca_file,
            protocol=arguments.protocol,
        )
    )
