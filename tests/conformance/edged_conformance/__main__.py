"""``python -m edged_conformance``, and the command ``edged-conformance``."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from edged_conformance import __version__, command
from edged_conformance.errors import USAGE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the error and how to see the help; exit with 64."""
        self.exit(USAGE, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = _Parser(prog="edged-conformance", description=command.SUMMARY)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    command.add_arguments(parser)
    try:
        return command.main(parser.parse_args(words))
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell reports it


if __name__ == "__main__":
    sys.exit(main())
