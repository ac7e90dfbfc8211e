"""Load a model as the daemon would, have it answer, measure it, and end: a process of its own.

``edged model install`` starts it before a model may serve. What the model does wrong ends this
process and nothing else, and twice ``budget.memory`` is all that it can take.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edged.bundle.folder import open_bundle
from edged.config.load import load_config
from edged.daemon import memory
from edged.daemon.loader import GROWTH, load
from edged.daemon.memory_plan import decide_budget
from edged.engine import golden
from edged.errors import EdgedError, ExitCode
from edged.scheduling.latency_model import CostEstimate

GOLDEN = "--golden"
# Of a prompt and of its answer, by whose time models are compared.
_TYPICAL_TOKENS = 64, 32


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found out about a model."""

    answers: str
    """How its golden answers compare, in words; empty where that was not asked for."""
    typical_s: float
    """The time of a typical answer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the bundle")
    parser.add_argument(GOLDEN, action="store_true", help="compare its golden answers, too")
    parser.add_argument("--state", type=Path, required=True, help="for the prepared copy of it")
    parser.add_argument("--limit", type=int, required=True, help="seconds until it is ended")


def main(arguments: argparse.Namespace) -> int:
    """Load, answer and print a ``Measured`` as JSON.

    Raises:
        EdgedError: What a start would raise, or it answers otherwise than where it was built.
    """
    config = load_config(arguments.config.read_text("utf-8"), str(arguments.config))
    state = replace(config.state, folder=arguments.state, corrections=0, file=None)
    model = replace(config.model, path=arguments.model)
    # Before it is tuned: its tokens were recorded without that.
    answers = ""
    budget = decide_budget(config, memory.kernel_limits(), memory.snapshot())
    growth_bytes = GROWTH * budget.limit_bytes
    if arguments.golden:
        with memory.limited_growth(growth_bytes):
            answers = golden.check(open_bundle(arguments.model, verify=False))
        memory.return_freed()  # the plan counts what this process holds
    loaded = load(replace(config, model=model, state=state, specialists=()))
    with memory.limited_growth(growth_bytes):
        typical_s = _typical_s(loaded.engine.measure())
    print(json.dumps(asdict(Measured(answers, typical_s))))
    return ExitCode.OK


def _typical_s(cost: CostEstimate) -> float:
    prompt, answer = _TYPICAL_TOKENS
    return prompt * cost.prefill_token_s + answer * cost.decode_token_s


def command_line(config: Path, model: Path, state: Path, limit_s: int) -> Sequence[str]:
    """Return the command that starts it; after so many seconds SIGALRM ends it."""
    options = ["--config", str(config), "--model", str(model), "--state", str(state)]
    return [sys.executable, "-m", "edged.commands.load_child", *options, "--limit", str(limit_s)]


def run() -> int:
    """Read the command line, load, and print why not."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args()
    # A graph may loop for ever. Without a handler the signal ends that, and also where who started
    # this process was killed.
    signal.alarm(arguments.limit)
    try:
        return main(arguments)
    except EdgedError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(run())
