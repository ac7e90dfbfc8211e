"""``edged teach``: examples become a specialist.

Labels, numbers and fields are decided by a head, which is taught on this device in seconds, without
a token of an answer. Answers that are written take adapters of the model, which are taught with the
builder's tools.
"""

import argparse
import importlib
import os
from pathlib import Path

from edged.commands.broker_options import add_credentials
from edged.errors import UnavailableError, UsageError
from edged.specialists.dialogues import MAX_DIALOGUES, is_written
from edged.specialists.examples import read_rows
from edged.specialists.names import taught_name

_WRITER = "edged.builder.writer.command"
# What only a writer has a use for.
_OF_WRITERS = ("tools", "schema", "template", "adapter", "weights")
# Chosen by measurement: `docs/specialists.md`, what it costs.
RANK, EPOCHS, RATE, BATCH = 16, 3, 1.5e-3, 16


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Declare EXAMPLES, ``--corrections``, ``--teacher`` and what belongs to it."""
    parser.add_argument("examples", type=Path, metavar="EXAMPLES", help="JSONL or CSV")
    parser.add_argument(
        "--corrections",
        type=Path,
        metavar="PATH",
        help="what a person said of wrong answers: a node's state folder, or JSONL",
    )
    parser.add_argument(
        "--teacher",
        metavar="MODEL",
        help="asked for the answers of lines without one: mqtt://host[:port]/NODE, or a bundle",
    )
    parser.add_argument(
        "--labels",
        metavar="LABELS",
        help="what the teacher chooses from: a,b,c or a file, one a line (default: the answers)",
    )
    parser.add_argument(
        "--review",
        type=Path,
        metavar="FILE",
        help="write the prompts that a person should look at first, to be corrected and given back "
        "as --corrections",
    )
    add_credentials(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source_options(parser)
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="the base")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the specialist")
    parser.add_argument("--name", help="default: the name of DIR")
    parser.add_argument(
        "--precision",
        type=float,
        default=0.95,
        metavar="P",
        help="share of the answers that must be right; less sure ones are unsure (default: 0.95)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="of numbers: error up to which an answer is right (default: a tenth of their range)",
    )
    parser.add_argument(
        "--floor",
        type=float,
        default=0.0,
        metavar="A",
        help="least accuracy, else only the report is written",
    )
    parser.add_argument(
        "--escalate",
        metavar="NAME",
        help="pass unsure prompts on: to this specialist, or to `model`, which writes an answer",
    )
    parser.add_argument(
        "--test", type=Path, metavar="FILE", help="measure on these examples (default: held-out)"
    )
    _add_writer_options(parser.add_argument_group("answers that are written"))


def _add_writer_options(group: "argparse._ArgumentGroup") -> None:
    shape = group.add_mutually_exclusive_group()
    shape.add_argument(
        "--tools", type=Path, metavar="FILE", help="JSON: the functions that answers call (OpenAI)"
    )
    shape.add_argument(
        "--schema", type=Path, metavar="FILE", help="JSON Schema that answers are held to"
    )
    group.add_argument("--write", action="store_true", help="write the answers, whatever they are")
    group.add_argument(
        "--template",
        type=Path,
        metavar="FILE",
        help="Jinja: what is said before every prompt; may use `inputs`",
    )
    group.add_argument(
        "--adapter", type=Path, metavar="DIR", help="take one that was trained elsewhere (PEFT)"
    )
    group.add_argument(
        "--begin",
        type=Path,
        metavar="DIR",
        help="go on from this one (default: the home specialist beside the model; none: nothing)",
    )
    group.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help="the base before it was quantized (default: what `edged build` kept on this machine)",
    )
    _add_course_options(group)


def _add_course_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--rank", type=int, default=RANK, metavar="N", help=f"default: {RANK}")
    group.add_argument(
        "--targets", default="all", metavar="NAMES", help="linears, such as q_proj,v_proj"
    )
    group.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"default: {EPOCHS}")
    group.add_argument("--rate", type=float, default=RATE, metavar="R", help=f"default: {RATE}")
    group.add_argument("--batch", type=int, default=BATCH, metavar="N", help=f"default: {BATCH}")
    group.add_argument(
        "--variations",
        type=int,
        metavar="N",
        help="of each example, made by exchanging what the schema lists (default: as many as there "
        "is time for)",
    )
    group.add_argument("--threads", type=int, default=2, metavar="N", help="default: 2")


def main(arguments: argparse.Namespace) -> int:
    """Teach, print what was measured, and write the folder.

    Raises:
        UsageError: The examples are wrong, or the accuracy is below the floor.
        BundleError: The bundle is wrong, or gives no hidden states.
        UnavailableError: Answers are to be written, and the tools for that are not installed.
    """
    taught_name(arguments.output, arguments.name, arguments.escalate)
    if _is_writer(arguments):
        return _teach_writer(arguments)
    # numpy's threads spin while they wait, and its matrices are small here. It reads the variable
    # when it is imported, which nothing has done so far.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from edged.commands.teaching import run  # noqa: PLC0415

    return run(arguments)


def _is_writer(arguments: argparse.Namespace) -> bool:
    if arguments.write or any(getattr(arguments, name) is not None for name in _OF_WRITERS):
        return True
    return is_written(read_rows(arguments.examples, MAX_DIALOGUES))


def _teach_writer(arguments: argparse.Namespace) -> int:
    try:
        module = importlib.import_module(_WRITER)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "edged":
            raise
        raise UnavailableError(
            f"{error.name} is not installed, and answers that are written need it: `pip install "
            "'edged[build]'`, on a workstation rather than the device"
        ) from error
    if arguments.teacher is not None:
        # Imported here: nobody else connects to a broker.
        from edged.commands.written_teacher import with_answers  # noqa: PLC0415

        arguments.examples = with_answers(arguments)
    elif arguments.review is not None:
        raise UsageError("--review: only with --teacher")
    return int(module.main(arguments))
