"""``edged conformance``: the command line of the conformance kit.

Rule: options in, an exit status out; what is done is in ``suite``.
"""

import argparse
from fnmatch import fnmatch
from pathlib import Path

from edged.commands.broker_options import add_broker_options, read_broker_options
from edged.commands.conformance.cases import Case
from edged.commands.conformance.peer import Broker
from edged.commands.conformance.read_cases import case_folder, read_folder
from edged.commands.conformance.report import print_table, summary, write_junit
from edged.commands.conformance.suite import Target, run_cases
from edged.errors import ExitCode, UsageError

_VERSIONS = {"5": ["5"], "3.1.1": ["3.1.1"], "both": ["5", "3.1.1"]}
_MAX_TIMEOUT_S = 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged conformance``."""
    add_broker_options(parser)
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML")
    parser.add_argument(
        "--case",
        metavar="PATTERN",
        help="only cases whose 'theme: name' has this in it, or matches it (with * and ?)",
    )
    parser.add_argument("--cases", type=Path, metavar="FOLDER", help="YAML cases of your own")
    parser.add_argument("--list", action="store_true", help="print the cases and send nothing")
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="longest wait for a message, in s",
    )
    parser.add_argument(
        "--protocol", choices=_VERSIONS, default="both", help="MQTT version (default: both)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Play the cases, print the table, return 0 only when none failed.

    Raises:
        UsageError: An option is missing or wrong.
    """
    cases = _select(read_folder(arguments.cases or case_folder()), arguments.case)
    if arguments.list:
        print("\n".join(case.title for case in cases))
        return ExitCode.OK
    if not 0 < arguments.timeout <= _MAX_TIMEOUT_S:
        raise UsageError(f"--timeout: must be more than 0 s and at most {_MAX_TIMEOUT_S}")
    options = read_broker_options(arguments)
    broker = Broker(options.address, options.ca_file, arguments.timeout)
    target = Target(broker, options.prefix, options.node)
    results = []
    for version in _VERSIONS[arguments.protocol]:
        played = run_cases(cases, target, version)
        place = f"{options.prefix}/{options.node} at {options.address.url}"
        print_table(played, f"{place}, MQTT {version}")
        results += played
    if arguments.junit is not None:
        write_junit(results, arguments.junit)
    print(summary(results))
    return ExitCode.FAILURE if any(result.problems for result in results) else ExitCode.OK


def _select(cases: list[Case], pattern: str | None) -> list[Case]:
    found = [
        case
        for case in cases
        if pattern is None or pattern in case.title or fnmatch(case.title, pattern)
    ]
    if not found:
        raise UsageError(f"--case: no case is named like {pattern}; --list prints all")
    return found
