"""The ``edged`` command: finds the subcommand and imports its module only when it runs.

Rule: no logic of a subcommand here. A subcommand is a module with ``add_arguments(parser)`` and
``main(arguments) -> int``.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import edged
from edged.commands.terminal import shown
from edged.errors import EdgedError, ExitCode


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand."""

    module: str
    summary: str
    install: str | None = None
    """How to install its further dependencies, if any."""


_BUILD = "`pip install 'edged[build]'`, on a workstation rather than the device"
COMMANDS = {
    "build": Command("edged.builder.build_command", "build an int8 bundle from a model", _BUILD),
    "verify": Command("edged.builder.verify_command", "measure a bundle against fp32", _BUILD),
    "sign": Command("edged.builder.sign_command", "sign a bundle or a specialist", _BUILD),
    "run": Command("edged.daemon.run", "run the daemon"),
    "check": Command("edged.daemon.check", "check a configuration and its model without starting"),
    "plan": Command("edged.commands.plan", "compute the memory that a model needs on this device"),
    "ask": Command("edged.commands.ask", "ask a running daemon over MQTT"),
    "conformance": Command(
        "edged_conformance.command",
        "test that a node conforms to the protocol, over MQTT",
        "`pip install ./tests/conformance`, in a checkout of edged (docs/conformance.md)",
    ),
    "top": Command("edged.commands.top", "show the state of a node, from the broker"),
    "health": Command("edged.commands.health", "check the health of the daemon on this machine"),
    "doctor": Command("edged.commands.doctor.command", "find problems of device, broker and model"),
    "install": Command("edged.commands.install.command", "install the service on this machine"),
    "uninstall": Command(
        "edged.commands.install.uninstall", "remove the service from this machine"
    ),
    "model": Command("edged.commands.models", "bring models onto this device, and go back"),
    "key": Command("edged.commands.keys", "install the keys whose models this device uses"),
    "teach": Command("edged.commands.teach", "teach a model to decide or to write, from examples"),
    "eval": Command("edged.commands.evaluate", "measure what was taught on other examples"),
    "try": Command("edged.commands.try_specialist", "ask what was taught, and see how sure it is"),
    "bench": Command("edged.commands.bench.command", "measure a model on this device"),
    "demo": Command("edged.commands.demo", "teach, start a broker and a daemon, and ask"),
}


class _Parser(argparse.ArgumentParser):
    """Exit with EX_USAGE of sysexits and refer to the help."""

    def error(self, message: str) -> NoReturn:
        """Print the error and how to see the help; exit with 64."""
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Raises:
        ModuleNotFoundError: If a dependency of the base install is missing: a broken install.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
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
        prog: Name of the command, for the help and before errors.
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
        # It may quote a stranger: a node, a model's files.
        print(f"{prog}: {shown(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as a shell reports it
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    parser = _Parser(
        prog="edged",
        description="A resident small language model, asked over MQTT.",
        epilog="commands:\n" + "\n".join(lines) + "\n\n`edged COMMAND --help` lists its options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edged {edged.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
