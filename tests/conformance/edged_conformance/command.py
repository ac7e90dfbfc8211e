"""The command line, also of ``edged conformance``.

Rule: only options and exit status; ``suite`` runs the cases.
"""

import argparse
import sys
from fnmatch import fnmatch
from pathlib import Path

from edged_conformance.cases import Case
from edged_conformance.errors import FAILURE, OK, ConformanceError, UsageError
from edged_conformance.options import add_node_options, check_node, read_address, read_other
from edged_conformance.peer import Broker
from edged_conformance.read_cases import case_folder, read_folder
from edged_conformance.report import print_table, summary, write_junit
from edged_conformance.suite import Target, run_cases

SUMMARY = "test that a node conforms to the protocol, over MQTT"
_VERSIONS = {"5": ["5"], "3.1.1": ["3.1.1"], "both": ["5", "3.1.1"]}
_MAX_TIMEOUT_S = 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.set_defaults(prog=parser.prog)
    add_node_options(parser)
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML")
    parser.add_argument(
        "--case",
        metavar="PATTERN",
        help="only cases whose 'theme: name' contains this, or matches it (with * and ?)",
    )
    parser.add_argument("--cases", type=Path, metavar="FOLDER", help="your own cases in YAML")
    parser.add_argument("--list", action="store_true", help="print the cases and send nothing")
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="timeout for a message, in s",
    )
    parser.add_argument(
        "--protocol", choices=_VERSIONS, default="both", help="MQTT version (default: both)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Play the cases, print the table, and return 0 only if none failed."""
    try:
        return _run(arguments)
    except ConformanceError as error:
        print(f"{arguments.prog}: {error}", file=sys.stderr)
        return error.exit_status


def _run(arguments: argparse.Namespace) -> int:
    cases = _select(read_folder(arguments.cases or case_folder()), arguments.case)
    if arguments.list:
        print("\n".join(case.title for case in cases))
        return OK
    if not 0 < arguments.timeout <= _MAX_TIMEOUT_S:
        raise UsageError(f"--timeout: must be more than 0 s and at most {_MAX_TIMEOUT_S}")
    check_node(arguments)
    address = read_address(arguments)
    other = read_other(arguments, address)
    target = Target(
        Broker(address, arguments.ca_file, arguments.timeout),
        arguments.prefix,
        arguments.node,
        None if other is None else Broker(other, arguments.ca_file, arguments.timeout),
    )
    results = []
    for version in _VERSIONS[arguments.protocol]:
        played = run_cases(cases, target, version)
        place = f"{arguments.prefix}/{arguments.node} at {address.url}"
        print_table(played, f"{place}, MQTT {version}")
        results += played
    if arguments.junit is not None:
        write_junit(results, arguments.junit)
    print(summary(results))
    return FAILURE if any(result.problems for result in results) else OK


def _select(cases: list[Case], pattern: str | None) -> list[Case]:
    found = [
        case
        for case in cases
        if pattern is None or pattern in case.title or fnmatch(case.title, pattern)
    ]
    if not found:
        raise UsageError(f"--case: no case matches {pattern}; --list prints all")
    return found
