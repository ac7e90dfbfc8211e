"""The ``edged`` command: finds the subcommand and imports its module only when it runs.

Rule: no logic of a subcommand here. A subcommand is a module with ``add_arguments(parser)`` and
``main(arguments) -> int``.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import edged
from edged.errors import EdgedError, ExitCode


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand."""

    module: str
    summary: str
    install: str | None = None
    """How to get what it needs beside the base install, if anything."""


_BUILD = "`pip install 'edged[build]'`, on a workstation rather than the device"
COMMANDS = {
    "build": Command("edged.builder.build_command", "build an int8 bundle from a model", _BUILD),
    "verify": Command("edged.builder.verify_command", "measure a bundle against fp32", _BUILD),
    "run": Command("edged.daemon.run", "run the daemon"),
    "check": Command("edged.daemon.check", "check a configuration and its model without starting"),
    "plan": Command("edged.commands.plan", "tell what a model will take in memory here"),
    "ask": Command("edged.commands.ask", "ask a running daemon over MQTT"),
    "conformance": Command(
        "edged_conformance.command",
        "prove that a node keeps to the protocol, over the wire",
        "`pip install ./tests/conformance`, in a checkout of edged (docs/conformance.md)",
    ),
    "top": Command("edged.commands.top", "show how a node is, from its state at the broker"),
    "health": Command("edged.commands.health", "tell whether the daemon on this machine is well"),
    "doctor": Command(
        "edged.commands.doctor.command", "find what is wrong with device, broker, model"
    ),
    "install": Command("edged.commands.install.command", "install the service on this machine"),
    "uninstall": Command("edged.commands.install.uninstall", "take the service off this machine"),
    "bench": Command("edged.commands.bench.command", "measure a model on this device"),
    "demo": Command("edged.commands.demo", "start a broker and a daemon and ask one question"),
}


class _Parser(argparse.ArgumentParser):
    """Exit with sysexits' EX_USAGE and point at the help."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and how to see the help; exit 64."""
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Raises:
        ModuleNotFoundError: If a dependency of the base install is missing: a broken install.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = _parser().parse_args(words[:1]).command
    command = COMMANDS[name]
    try:
        return run(f"edged {name}", command.module, words[1:], command.summary)
    except ModuleNotFoundError as error:
        if command.install is None or (error.name or "").partition(".")[0] == "edged":
            raise
        print(
            f"edged {name}: {error.name} is not installed; it comes with {command.install}",
            file=sys.stderr,
        )
        return ExitCode.UNAVAILABLE


def run(prog: str, name: str, words: Sequence[str], summary: str | None = None) -> int:
    """Import a command's module, run it and return the exit status.

    Args:
        prog: What the user called, for the help and before an error.
        name: The module, with ``add_arguments(parser)`` and ``main(arguments) -> int``.
        words: The options.
        summary: One line for the help.
    """
    try:
        module = importlib.import_module(name)
        parser = _Parser(prog=prog, description=summary)
        module.add_arguments(parser)
        return int(module.main(parser.parse_args(words)))
    except EdgedError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell reports it


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    parser = _Parser(
        prog="edged",
        description="A resident small language model, asked over MQTT.",
        epilog="commands:\n" + "\n".join(lines) + "\n\n`edged COMMAND --help` tells its options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edged {edged.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
