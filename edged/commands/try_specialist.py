"""``edged try``: ask a specialist, and see how probable its answers are."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from edged.commands.features import FeatureReader
from edged.errors import ExitCode, UsageError
from edged.specialists.decision import Decision, decide
from edged.specialists.examples import MAX_PROMPT_CHARACTERS
from edged.specialists.folder import Specialist

_BAR_WIDTH = 30
_NONE = "none of these"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("specialist", type=Path, metavar="DIR", help="the specialist")
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="what to ask; may be given several times (default: each line of standard input)",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="the base")
    parser.add_argument("--json", action="store_true", help="print an object for each prompt")


def main(arguments: argparse.Namespace) -> int:
    """Ask about each prompt, and print the answers.

    Raises:
        UsageError: A prompt is too long.
        BundleError: The bundle or the specialist is wrong.
    """
    reader = FeatureReader(arguments.model)
    specialist = reader.specialist(arguments.specialist)
    is_talk = not arguments.prompt and sys.stdin.isatty()
    for prompt in arguments.prompt or _lines(is_talk=is_talk):
        if not prompt.strip():
            continue
        try:
            _answer(specialist, reader, prompt, is_json=arguments.json)
        except UsageError as error:
            if not is_talk:
                raise
            print(error, file=sys.stderr)
    return ExitCode.OK


def _lines(*, is_talk: bool) -> Iterator[str]:
    """Yield the lines of standard input, up to its end or Ctrl-D; ask for them on a terminal."""
    while True:
        if is_talk:
            print("> ", end="", file=sys.stderr, flush=True)
        # One character more than is allowed is enough to refuse it.
        line = sys.stdin.readline(MAX_PROMPT_CHARACTERS + 2)
        if not line:
            break
        yield line.removesuffix("\n")
    if is_talk:
        print(file=sys.stderr)


def _answer(specialist: Specialist, reader: FeatureReader, prompt: str, *, is_json: bool) -> None:
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise UsageError(f"a prompt has at most {MAX_PROMPT_CHARACTERS} characters")
    started_s = time.perf_counter()
    decision = decide(specialist, reader.one(prompt))
    taken_ms = 1000 * (time.perf_counter() - started_s)
    if is_json:
        members = {"prompt": prompt, **asdict(decision), "ms": round(taken_ms, 1)}
        print(json.dumps(members, ensure_ascii=False), flush=True)
    else:
        print("\n".join(_described(decision, taken_ms)), flush=True)


def _described(decision: Decision, taken_ms: float) -> Iterator[str]:
    unsure = ", unsure" if decision.is_unsure else ""
    yield f"{decision.text or _NONE}: {decision.confidence:.0%}{unsure}  ({taken_ms:.0f} ms)"
    if decision.interval is not None:
        low, high = decision.interval
        yield f"  nine of ten such numbers are from {low:g} to {high:g}"
    width = max((len(text or _NONE) for text, _ in decision.guesses), default=0)
    for text, probability in decision.guesses:
        bar = "#" * round(_BAR_WIDTH * probability)
        yield f"  {text or _NONE:<{width}}  {probability:4.0%}  {bar}".rstrip()
