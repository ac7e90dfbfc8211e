"""``edged try``: ask a specialist, and see how probable its answers are."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from edged.commands.features import FeatureReader
from edged.commands.inputs_file import read_inputs
from edged.commands.writer_figures import AskedWriter
from edged.errors import ExitCode, UsageError
from edged.protocol.request import FinishReason
from edged.specialists.compact.shapes import Inputs
from edged.specialists.decision import Decision, decide
from edged.specialists.examples import MAX_PROMPT_CHARACTERS
from edged.specialists.folder import Specialist
from edged.specialists.writer import WRITER

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
    parser.add_argument(
        "--inputs", type=Path, metavar="FILE", help="JSON: what one that writes is told, too"
    )
    parser.add_argument("--json", action="store_true", help="print an object for each prompt")


def main(arguments: argparse.Namespace) -> int:
    """Ask about each prompt, and print the answers.

    Raises:
        UsageError: A prompt is too long.
        BundleError: The bundle or the specialist is wrong.
    """
    answer = _asked(arguments)
    is_talk = not arguments.prompt and sys.stdin.isatty()
    for prompt in arguments.prompt or _lines(is_talk=is_talk):
        if not prompt.strip():
            continue
        try:
            answer(_checked(prompt))
        except UsageError as error:
            if not is_talk:
                raise
            print(error, file=sys.stderr)
    return ExitCode.OK


def _checked(prompt: str) -> str:
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise UsageError(f"a prompt has at most {MAX_PROMPT_CHARACTERS} characters")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # of bytes that are no text, from the command line
        raise UsageError("a prompt must be text in UTF-8") from error
    return prompt


def _asked(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Return what asks the specialist, and prints what it says.

    Raises:
        UsageError: The inputs cannot be read, or it has no use for any.
        BundleError: The bundle or the specialist is wrong.
    """
    if (arguments.specialist / WRITER).exists():
        inputs = {} if arguments.inputs is None else read_inputs(arguments.inputs)
        asked = AskedWriter(arguments.specialist, arguments.model)
        return partial(_write, asked, inputs, is_json=arguments.json)
    if arguments.inputs is not None:
        raise UsageError("--inputs: this specialist writes no answers; leave it out")
    reader = FeatureReader(arguments.model)
    specialist = reader.specialist(arguments.specialist)
    return partial(_answer, specialist, reader, is_json=arguments.json)


def _write(asked: AskedWriter, inputs: Inputs, prompt: str, *, is_json: bool) -> None:
    started_s = time.perf_counter()
    answer = asked.answer(prompt, inputs)
    taken_ms = 1000 * (time.perf_counter() - started_s)
    confidence = answer.detail.get("confidence")
    is_unsure = answer.finish_reason is FinishReason.UNSURE
    if is_json:
        members = {
            "prompt": prompt,
            "text": answer.text,
            "json": answer.json,
            "confidence": confidence,
            "is_unsure": is_unsure,
            "finish_reason": answer.finish_reason.value,
            "ms": round(taken_ms, 1),
        }
        print(json.dumps(members, ensure_ascii=False), flush=True)
        return
    share = "cut off" if confidence is None else f"{confidence:.0%}"
    print(
        f"{answer.text}: {share}{', unsure' if is_unsure else ''}  ({taken_ms:.0f} ms)", flush=True
    )
    if answer.json is not None:
        print(f"  {json.dumps(answer.json, ensure_ascii=False)}", flush=True)


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
