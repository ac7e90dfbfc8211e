"""``python -m benchmarks.writers``."""

import sys

from edged.cli import run


def main(words: list[str]) -> int:
    """Run the command line and return the exit status."""
    return run("python -m benchmarks.writers", "benchmarks.writers.command", words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
