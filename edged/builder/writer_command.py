"""The work of ``edged teach`` where answers are written: read, train, measure, write a folder."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edged.builder.lora import LINEARS, MAX_RANK, AdapterForm, attach, load_state, state_of
from edged.builder.peft_folder import read_peft, write_peft
from edged.builder.pipeline import default_cache
from edged.builder.progress import Progress
from edged.builder.trunk import Trunk
from edged.builder.writer_answers import Answerer, Written
from edged.builder.writer_material import SEED, Material, read_material
from edged.builder.writer_model import (
    check_memory,
    fastest_type,
    find_weights,
    load_model,
    teaching_bytes,
)
from edged.builder.writer_prompts import Prompts, rows_of
from edged.builder.writer_rows import Row
from edged.builder.writer_training import Course, Epoch, Trainer
from edged.bundle.folder import Bundle, open_bundle
from edged.engine.tokenizer import Tokenizer
from edged.engine.tokenizer.inputs_template import InputsTemplate
from edged.errors import ExitCode, UsageError
from edged.specialists.dialogues import Dialogue
from edged.specialists.folder import BaseModel, Result
from edged.specialists.measures import calibration_error, interval
from edged.specialists.multiply import Multiplier
from edged.specialists.names import check_names
from edged.specialists.training import probability_scale, unsure_below
from edged.specialists.writer import (
    ADAPTER,
    DEFAULT_TEMPLATE,
    FORMAT,
    WriterDescription,
    adapter_sha256,
    schema_text,
    write_writer,
)

_SHOWN = 5
_RANGES: dict[str, tuple[float, float]] = {
    "precision": (0, 1),
    "floor": (0, 1),
    "rank": (1, MAX_RANK),
    "layers": (0.01, 1),
    "epochs": (1, 1000),
    "rate": (0, 1),
    "batch": (1, 1024),
    "variations": (1, 64),
    "threads": (1, 1024),
}
_NOT_MEASURED = Result(0.0, 0.0, 1.0, 0.0, 0, 0.0, 0.0, 0.0, None)


@dataclass(frozen=True, slots=True)
class TaughtModel:
    """The bundle that is taught to, and what it is in full precision."""

    bundle: Bundle
    tokenizer: Tokenizer
    weights: Path
    kind: torch.dtype


def main(arguments: argparse.Namespace) -> int:
    """Teach a writer, print what was measured, and write its folder.

    Raises:
        UsageError: An option or the examples are wrong, or the accuracy is below the floor.
        BundleError: The bundle is wrong.
    """
    _check_options(arguments)
    progress = Progress()
    torch.set_num_threads(arguments.threads)
    material = read_material(arguments)
    bundle = open_bundle(arguments.model)
    weights = find_weights(bundle, arguments.weights)
    base = TaughtModel(bundle, Tokenizer.load(bundle), weights, fastest_type())
    template = _template(arguments)
    prompts = Prompts(base.tokenizer, material.wording, InputsTemplate(template))
    if arguments.adapter is None:
        form, state = _taught(arguments, material, base, prompts, progress)
    else:
        num_layers = json.loads((weights / "config.json").read_text())["num_hidden_layers"]
        form, state = read_peft(arguments.adapter, num_layers)
    model = load_model(weights, torch.float32)
    attach(model, form, seed=SEED)
    load_state(model, state)
    answerer = Answerer(model, base.tokenizer, material.wording)
    held_out = _answers(answerer, prompts, material.held_out or material.taught, progress)
    description = _described(arguments, material, base, template, held_out)
    if material.tests:
        tests = _answers(answerer, prompts, material.tests, progress)
        description = replace(description, result=result_of(tests, description, arguments))
    return _write(arguments, description, form, state)


def _check_options(arguments: argparse.Namespace) -> None:
    # Before minutes of work, not after them.
    name_of(arguments)
    for option in ("corrections", "teacher", "labels", "review", "tolerance"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option}: is not for answers that are written; leave it out")
    for option, (least, most) in _RANGES.items():
        value = getattr(arguments, option)
        if not least <= value <= most:
            raise UsageError(f"--{option}: {value:g} is not from {least:g} to {most:g}")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise UsageError(f"--output: {arguments.output} is no folder")


def _template(arguments: argparse.Namespace) -> str:
    if arguments.template is None:
        return DEFAULT_TEMPLATE
    try:
        return str(arguments.template.read_text(encoding="utf-8")).rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{arguments.template}: cannot be read ({error})") from error


def _taught(
    arguments: argparse.Namespace,
    material: Material,
    base: TaughtModel,
    prompts: Prompts,
    progress: Progress,
) -> tuple[AdapterForm, dict[str, torch.Tensor]]:
    """Train adapters, and return them."""
    rows, num_held_out = _rows(arguments, material, prompts)
    model = load_model(base.weights, base.kind)
    form = _form(arguments, model.config.num_hidden_layers)
    course = Course(arguments.epochs, arguments.rate, arguments.batch, seed=SEED)
    need = teaching_bytes(model.config, rows, course.batch_rows, form.layers[0], base.kind)
    num_tokens = sum(len(row.ids) for row in rows)
    print(
        f"{arguments.examples}: {len(rows) - num_held_out} rows of {num_tokens} tokens to learn "
        f"from, {num_held_out} kept apart; about {need >> 20} MiB of memory, in {base.kind}"
    )
    check_memory(need)
    attach(model, form, seed=SEED)
    place = hashlib.sha256(str(arguments.output.resolve()).encode()).hexdigest()
    checkpoint = default_cache() / "teaching" / f"{place[:16]}.pt"
    trainer = Trainer(
        model,
        Trunk(model, form.layers[0]),
        rows,
        num_held_out,
        course,
        checkpoint=checkpoint,
        fingerprint=_fingerprint(rows, form, course, base),
    )
    _train(trainer, progress)
    trainer.forget()
    return form, state_of(model)


def _train(trainer: Trainer, progress: Progress) -> None:
    with progress.step("Teach") as step:

        def note(share: float, epoch: Epoch | None) -> None:
            step.update(round(1000 * share), 1000)
            if epoch is not None:
                progress.say(
                    f"epoch {epoch.number}: loss {epoch.loss:.4f}, held-out examples: loss "
                    f"{epoch.held_out_loss:.3f}, {epoch.held_out_exact:.1%} right"
                )

        trainer.run(note)


def _rows(
    arguments: argparse.Namespace, material: Material, prompts: Prompts
) -> tuple[list[Row], int]:
    multiplier = Multiplier(material.taught, material.wording.shape, SEED)
    made = [
        multiplier.variation(one, number)
        for number in range(1, arguments.variations)
        for one in material.taught
    ]
    held_out = rows_of(prompts, material.held_out)
    return [*rows_of(prompts, [*material.taught, *made]), *held_out], len(held_out)


def _form(arguments: argparse.Namespace, num_layers: int) -> AdapterForm:
    first = num_layers - round(num_layers * arguments.layers)
    targets = LINEARS if arguments.targets == "all" else tuple(arguments.targets.split(","))
    if unknown := set(targets) - set(LINEARS):
        raise UsageError(f"--targets: {min(unknown)} is none of {', '.join(LINEARS)}")
    layers = tuple(range(min(first, num_layers - 1), num_layers))
    return AdapterForm(arguments.rank, 2.0 * arguments.rank, targets, layers)


def _fingerprint(rows: Sequence[Row], form: AdapterForm, course: Course, base: TaughtModel) -> str:
    found = hashlib.sha256(base.bundle.manifest.source.sha256.encode())
    found.update(json.dumps([asdict(form), asdict(course), str(base.kind)]).encode())
    for number in chain.from_iterable(row.ids for row in rows):
        found.update(number.to_bytes(4, "little"))
    return found.hexdigest()


def _answers(
    answerer: Answerer, prompts: Prompts, dialogues: Sequence[Dialogue], progress: Progress
) -> list[Written]:
    asked = [one for dialogue in dialogues for one in prompts.asked(dialogue)]
    with progress.step("Measure") as step:
        return answerer.answers(asked, lambda share: step.update(round(1000 * share), 1000))


def _described(
    arguments: argparse.Namespace,
    material: Material,
    base: TaughtModel,
    template: str,
    held_out: Sequence[Written],
) -> WriterDescription:
    answers = [turn.answer for one in material.taught for turn in one.turns]
    is_right = np.array([one.is_right for one in held_out])
    slope, shift = probability_scale(np.array([one.log_probability for one in held_out]), is_right)
    description = WriterDescription(
        FORMAT,
        name_of(arguments),
        BaseModel.of(base.bundle.manifest),
        template,
        schema_text(material.wording),
        any(isinstance(one, list) for one in answers),
        arguments.tools is not None and any(isinstance(one, str) for one in answers),
        material.wording.grounded,
        slope,
        shift,
        0.0,
        _NOT_MEASURED,
        "",
        arguments.escalate,
    )
    confidence = np.array([description.confidence(one.log_probability) for one in held_out])
    threshold = unsure_below(confidence, is_right, arguments.precision)
    description = replace(description, unsure_below=threshold)
    return replace(description, result=result_of(held_out, description, arguments))


def name_of(arguments: argparse.Namespace) -> str:
    """Return what the specialist is called.

    Raises:
        UsageError: No request could name it.
    """
    name: str = arguments.name or arguments.output.resolve().name
    try:
        check_names(name, arguments.escalate)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    return name


def result_of(
    written: Sequence[Written], description: WriterDescription, arguments: argparse.Namespace
) -> Result:
    """Return the figures of what was answered, and print what was wrong."""
    right = [one.is_right for one in written]
    confidence = [description.confidence(one.log_probability) for one in written]
    is_answered = [one >= description.unsure_below for one in confidence]
    answered_right = [one for one, known in zip(right, is_answered, strict=True) if known]
    for one in [one for one in written if not one.is_right][:_SHOWN]:
        turn = one.asked.dialogue
        print(f"{turn.place}: {one.text!r} for {one.asked.text!r}: {turn.turns[-1].said[-80:]!r}")
    return Result(
        *(float(np.mean(right)), *interval(sum(right), len(right))),
        *(calibration_error(confidence, right), len(right), arguments.precision),
        float(np.mean(is_answered)),
        float(np.mean(answered_right)) if answered_right else 0.0,
        None,
    )


def _write(
    arguments: argparse.Namespace,
    description: WriterDescription,
    form: AdapterForm,
    state: dict[str, Any],
) -> int:
    result, output = description.result, arguments.output
    print(
        f"{result.accuracy:.1%} right ({result.low:.1%} to {result.high:.1%}), ECE {result.ece:.3f}"
        f"; answers {result.answered:.1%}, of these {result.answered_right:.1%} right"
    )
    if result.accuracy < arguments.floor:
        raise UsageError(
            f"{result.accuracy:.1%} right is below --floor {arguments.floor:.1%}: no specialist is "
            "written"
        )
    try:
        write_peft(output / ADAPTER, form, state, description.base.source)
        write_writer(output, replace(description, adapter_sha256=adapter_sha256(output)))
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror})") from error
    print(f"{output}: written")
    return ExitCode.OK
