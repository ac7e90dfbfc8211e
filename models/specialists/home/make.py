"""``python -m models.specialists.home.make --model BUNDLE``: make the home specialist.

Writes examples and whole sentences, teaches them with ``edged teach``, calibrates what it made on
forms and names that are held out, and puts what a node needs into ``specialist/``. Teaching that
was killed goes on where it was when it is called again.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

from edged.specialists.writer import ADAPTER, WRITER
from models.specialists.home.calibrate import calibrate
from models.specialists.home.generator.examples import make_many
from models.specialists.home.generator.shape import schema
from models.specialists.home.sentences import lessons

HERE = Path(__file__).parent
_TAUGHT = ("prompt", "inputs", "group")
# Examples to calibrate on, of homes from small to large; ``measure`` asks with other seeds.
_NUM_ASKED = 600
_ASKED_SEED = 1000


def main() -> int:
    """Make it; return the exit status of ``edged teach``."""
    parser = argparse.ArgumentParser(prog="python -m models.specialists.home.make")
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="for examples")
    parser.add_argument("--count", type=int, default=35_600, help="how many examples")
    parser.add_argument("--times", type=int, default=2, help="how often each whole sentence comes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--begin", type=Path, metavar="DIR", help="go on from this adapter")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    examples, shape = given.work / "examples.jsonl", given.work / "schema.json"
    with examples.open("w", encoding="utf-8") as file:
        for example in make_many(given.count, given.seed, "train", (1, 20)):
            made = example.as_json()
            _write(file, {"answer": made["said"], **{name: made[name] for name in _TAUGHT}})
        for line in lessons(given.times):
            _write(file, line)
    shape.write_text(json.dumps(schema()), encoding="utf-8")
    output = given.work / "home"
    command = [sys.executable, "-m", "edged", "teach", str(examples), "--schema", str(shape)]
    command += ["--template", str(HERE / "template.txt"), "--model", str(given.model)]
    command += ["--output", str(output), "--threads", str(given.threads)]
    command += ["--epochs", "1", "--variations", "1", "--rate", str(given.rate)]
    command += ["--begin", str(given.begin or "none")]
    status = subprocess.run(command, check=False).returncode
    if status == 0:
        asked = list(make_many(_NUM_ASKED, _ASKED_SEED + given.seed, "held-out", (1, 30)))
        result = calibrate(output, given.model, asked)
        print(
            f"calibrated on {len(asked)} held-out sentences: {result.accuracy:.1%} right, "
            f"ECE {result.ece:.3f}; answers {result.answered:.1%} of them"
        )
        target = HERE / "specialist"
        target.mkdir(exist_ok=True)
        for name in (WRITER, ADAPTER):
            shutil.copyfile(output / name, target / name)
    return status


def _write(file: TextIO, line: dict[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
