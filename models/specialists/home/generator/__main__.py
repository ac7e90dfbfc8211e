"""``python -m models.specialists.home.generator``: examples as JSON lines on standard output."""

import argparse
import json
import sys

from models.specialists.home.generator import by_hand, shape
from models.specialists.home.generator.examples import make_many
from models.specialists.home.generator.tables import SPLITS


def _sizes(text: str) -> tuple[int, int]:
    """Read ``LOW-HIGH``, or one number.

    Raises:
        ValueError: It is neither.
    """
    low, _, high = text.partition("-")
    sizes = int(low), int(high or low)
    if not 1 <= sizes[0] <= sizes[1]:
        raise ValueError(text)
    return sizes


def main() -> None:
    """Write examples."""
    parser = argparse.ArgumentParser(prog="python -m models.specialists.home.generator")
    parser.add_argument("--count", type=int, default=100, help="how many examples")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same examples")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--devices", type=_sizes, default=(1, 40), metavar="LOW-HIGH")
    parser.add_argument("--each", type=int, default=1, help="how many of them in one home")
    parser.add_argument("--by-hand", action="store_true", help="write those of by-hand.txt")
    parser.add_argument("--schema", action="store_true", help="write the schema of the answers")
    given = parser.parse_args()
    if given.schema:
        sys.stdout.write(json.dumps(shape.schema(), indent=1) + "\n")
        return
    made = make_many(given.count, given.seed, given.split, given.devices, given.each)
    lines = by_hand.read(by_hand.READ) if given.by_hand else (one.as_json() for one in made)
    for line in lines:
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
