"""``edged build``: the command line of the builder."""

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from edged.builder.pipeline import build
from edged.builder.progress import Progress
from edged.builder.quantize import Scheme
from edged.bundle.manifest import KvType
from edged.errors import BuildError

# Roughly those of SmolLM2-135M. Only the shares matter: the time left that is shown follows what
# the steps took that are done.
_EXPECTED_S = {
    "Fetch ": 7.0,
    "Convert ": 14.0,
    "Export ": 18.0,
    "Fuse": 4.0,
    "Quantize ": 64.0,
    "Measure keys": 9.0,
    "Answer ": 22.0,
    "Compare with fp32": 28.0,
    "Compare on another": 8.0,
    "Compare the graph": 3.0,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged build``."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a recipe (models/*.yaml), a Hugging Face folder, a hub id with its revision"
        " (org/name@revision), or a .gguf file",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the bundle's folder (default: models/<name>)"
    )
    parser.add_argument(
        "--scheme",
        choices=[scheme.value for scheme in Scheme],
        help="number format of the weights (default: the recipe's, else the int8 schemes in turn)",
    )
    parser.add_argument(
        "--kv",
        choices=[kv_type.value for kv_type in KvType],
        help="number format of keys and values (default: the recipe's, else int8); int8 takes a"
        " quarter of the memory and decodes faster; it is kept only where the gate allows it",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where downloads and exports are kept (default: $XDG_CACHE_HOME/edged)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Build, print where the bundle is, and return 0; a missed gate ends with 1.

    Raises:
        BuildError: A step failed, or a file cannot be read or written.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        result = build(
            arguments.source,
            output=arguments.output,
            scheme=arguments.scheme,
            kv_type=arguments.kv and KvType(arguments.kv),
            cache=arguments.cache,
            progress=Progress(expected=_EXPECTED_S),
        )
    except OSError as error:
        raise BuildError(
            f"{error.filename or arguments.source}: {error.strerror or error}"
        ) from error
    print(result.bundle.folder)
    return 0


def _end(number: int, _: object) -> NoReturn:
    # As Ctrl-C does: what is half written is deleted on the way out, and a step's process is ended.
    sys.exit(128 + number)
