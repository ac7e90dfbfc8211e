"""Load a model as the daemon would, have it answer once, and end: a process of its own.

``edged model install`` starts it before a model may serve. What the model does wrong ends this
process and nothing else, and twice ``budget.memory`` is all that it can take.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edged.config.load import load_config
from edged.daemon.loader import load
from edged.errors import EdgedError, ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the bundle")
    parser.add_argument("--state", type=Path, required=True, help="for the prepared copy of it")


def main(arguments: argparse.Namespace) -> int:
    """Load and answer; raises what a start would."""
    config = load_config(arguments.config.read_text("utf-8"), str(arguments.config))
    state = replace(config.state, folder=arguments.state, corrections=0, file=None)
    model = replace(config.model, path=arguments.model)
    load(replace(config, model=model, state=state, specialists=()))
    return ExitCode.OK


def command_line(config: Path, model: Path, state: Path) -> Sequence[str]:
    """Return the command that starts it."""
    options = ["--config", str(config), "--model", str(model), "--state", str(state)]
    return [sys.executable, "-m", "edged.commands.load_child", *options]


def run() -> int:
    """Read the command line, load, and print why not."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    try:
        return main(parser.parse_args())
    except EdgedError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(run())
