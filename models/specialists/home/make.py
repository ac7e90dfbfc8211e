"""``python -m models.specialists.home.make --model BUNDLE``: make the home specialist.

Writes examples and whole sentences, teaches them with ``edged teach`` in rounds, of which each
begins with the adapter of the one before, calibrates the last on forms and names that are held
out, and puts what a node needs into ``specialist/``. If it was killed, call it again: it continues
where it was.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from edged.specialists.writer import ADAPTER, WRITER
from models.specialists.home.calibrate import calibrate
from models.specialists.home.generator.examples import make_many
from models.specialists.home.generator.shape import schema
from models.specialists.home.sentences import lessons

HERE = Path(__file__).parent
_TAUGHT = ("prompt", "inputs", "group")


@dataclass(frozen=True, slots=True)
class Round:
    """A part of the teaching, with examples of its own."""

    num_examples: int
    times: int
    """How often each whole sentence comes."""
    rate: float
    """The highest."""


_ROUNDS = (Round(35_600, 2, 1.5e-3), Round(35_600, 2, 1e-3), Round(17_800, 1, 7e-4))
# Examples to calibrate on, of homes from small to large; ``measure`` asks with other seeds.
_NUM_ASKED, _ASKED_SEED = 600, 1002


def main() -> int:
    """Make it; return the exit status of ``edged teach``."""
    parser = argparse.ArgumentParser(prog="python -m models.specialists.home.make")
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="of this run alone")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next adds 1")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    begun, made = None, given.work
    for seed, lesson in enumerate(_ROUNDS, given.seed):
        made = given.work / f"round-{seed}"
        if not (made / WRITER).is_file():
            status = _teach(given, lesson, seed, begun, made)
            if status != 0:
                return status
        begun = made
    asked = list(make_many(_NUM_ASKED, _ASKED_SEED, "held-out", (1, 30)))
    result = calibrate(made, given.model, asked)
    print(
        f"calibrated on {len(asked)} held-out sentences: {result.accuracy:.1%} right, "
        f"ECE {result.ece:.3f}; answers {result.answered:.1%} of them"
    )
    target = HERE / "specialist"
    target.mkdir(exist_ok=True)
    for name in (WRITER, ADAPTER):
        shutil.copyfile(made / name, target / name)
    return 0


def _teach(
    given: argparse.Namespace, lesson: Round, seed: int, begun: Path | None, output: Path
) -> int:
    """Teach a round from what the one before made; return the exit status of ``edged teach``."""
    examples, shape = given.work / f"examples-{seed}.jsonl", given.work / "schema.json"
    with examples.open("w", encoding="utf-8") as file:
        for example in make_many(lesson.num_examples, seed, "train", (1, 20)):
            made = example.as_json()
            _write(file, {"answer": made["said"], **{name: made[name] for name in _TAUGHT}})
        for line in lessons(lesson.times):
            _write(file, line)
    shape.write_text(json.dumps(schema()), encoding="utf-8")
    command = [sys.executable, "-m", "edged", "teach", str(examples), "--schema", str(shape)]
    command += ["--template", str(HERE / "template.txt"), "--model", str(given.model)]
    command += ["--output", str(output), "--name", "home", "--threads", str(given.threads)]
    command += ["--epochs", "1", "--variations", "1", "--rate", str(lesson.rate)]
    command += ["--begin", str(begun or "none")]
    return subprocess.run(command, check=False).returncode


def _write(file: TextIO, line: dict[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
