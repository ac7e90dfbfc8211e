"""``python -m benchmarks.writers``: the command line."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.writers.commands import task
from benchmarks.writers.last_answers import SETS, judge
from edged import cli
from edged.errors import ExitCode, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="the base")
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        metavar="DIR",
        help="where examples, tests and the specialist are written",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sentences")
    parser.add_argument("--only-write", action="store_true", help="write the files, teach nothing")
    parser.add_argument(
        "--dialogues",
        choices=SETS,
        nargs="?",
        const="home",
        help="teach 50 dialogues, and judge the last answers of 150 others (default: home)",
    )
    parser.add_argument("teach", nargs="*", help="behind --: options of `edged teach`")


def main(arguments: argparse.Namespace) -> int:
    """Sample the sentences, teach a writer with them, and measure it on the forms kept apart.

    Raises:
        UsageError: The package with the sentences is not installed.
    """
    folder: Path = arguments.folder
    if arguments.dialogues:
        return _dialogues(arguments)
    try:
        made = task(seed=arguments.seed)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed; `pip install home-assistant-intents hassil` into an "
            "environment of this checkout"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "examples.jsonl", made.taught)
    _write(folder / "tests.jsonl", made.tests)
    (folder / "tools.json").write_text(json.dumps(made.tools, indent=1) + "\n", encoding="utf-8")
    print(f"{folder}: {len(made.taught)} examples, {len(made.tests)} tests of other forms")
    if arguments.only_write:
        return 0
    paths = {
        "--tools": folder / "tools.json",
        "--test": folder / "tests.jsonl",
        "--model": arguments.model,
        "--output": folder / "commands",
    }
    words = [str(word) for pair in paths.items() for word in pair]
    return cli.main(["teach", str(folder / "examples.jsonl"), *words, *arguments.teach])


def _dialogues(arguments: argparse.Namespace) -> int:
    dialogues, writer = SETS[arguments.dialogues], arguments.folder / arguments.dialogues
    words = ["teach", dialogues.taught, "--tools", dialogues.tools]
    words += ["--model", arguments.model, "--output", writer]
    status = cli.main([*map(str, words), *arguments.teach])
    if status == ExitCode.OK:
        judge(writer, arguments.model, dialogues)
    return status


def _write(path: Path, rows: Sequence[object]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
