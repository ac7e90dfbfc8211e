"""``edged verify``: compare a bundle with its fp32 reference on the gate's text or any other."""

import argparse
import json
from pathlib import Path

from edged.builder.pipeline import default_cache
from edged.builder.progress import Progress
from edged.builder.quality import figures, table
from edged.builder.verify import verify_bundle
from edged.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged verify``."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="EXPORT_DIR",
        help="fp32 export (default: the cached export of the bundle's source)",
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="UTF-8 text (default: the gate's prompts)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where exports are kept (default: $XDG_CACHE_HOME/edged)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure, print the figures, and return 0, or 1 when they miss the bundle's limits."""
    quality = verify_bundle(
        arguments.bundle,
        arguments.reference,
        arguments.text,
        arguments.cache or default_cache(),
        Progress(),
    )
    print(json.dumps(figures(quality), indent=2) if arguments.json else table(quality))
    return ExitCode.OK if quality.passed else ExitCode.FAILURE
