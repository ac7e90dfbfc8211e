"""The work of ``edged teach`` where answers are written: read, train, measure, write a folder."""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import torch

from edged.builder.adapted import adapted_layers
from edged.builder.adapter_gate import MeanKl, gated_adapter
from edged.builder.adapters import convert_adapter
from edged.builder.lora import LINEARS, MAX_RANK, AdapterForm, attach, load_state, state_of
from edged.builder.peft import CONFIG, read_peft
from edged.builder.peft_folder import trained, write_peft
from edged.builder.pipeline import default_cache
from edged.builder.progress import Progress
from edged.builder.trunk import Trunk
from edged.builder.writer.answers import Answerer
from edged.builder.writer.asides import asides_of
from edged.builder.writer.begin import begin
from edged.builder.writer.choice import ChoiceTeacher
from edged.builder.writer.material import SEED, Material, read_material
from edged.builder.writer.model import (
    TaughtModel,
    check_memory,
    fastest_type,
    find_reference,
    find_weights,
    load_model,
    teaching_bytes,
)
from edged.builder.writer.prompts import MOST_VARIATIONS, Prompts, rows_of, rows_to_learn
from edged.builder.writer.results import calibrated, compare_exact, result_of
from edged.builder.writer.rows import Row
from edged.builder.writer.training import Course, Epoch, Trainer
from edged.bundle.folder import Bundle, open_bundle
from edged.daemon.memory import return_freed
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings
from edged.engine.tokenizer import Tokenizer
from edged.engine.writer_runner import WriterRunner
from edged.errors import BuildError, ExitCode, UsageError
from edged.specialists.adapter import AdaptedModel, AdapterPart, adapter_bytes, made_adapter
from edged.specialists.dialogues import Dialogue
from edged.specialists.folder import BaseModel, Result
from edged.specialists.follow_ups import goes_on
from edged.specialists.names import taught_name
from edged.specialists.writer import (
    DEFAULT_TEMPLATE,
    FORMAT,
    PEFT,
    Writer,
    WriterDescription,
    schema_text,
    tokens_allowed,
    write_writer,
)
from edged.specialists.written import Written

_CONTEXT = 2048
# Prompts with their answers that 8 bits are compared on.
_COMPARED = 32
_RANGES: dict[str, tuple[float, float]] = {
    "precision": (0, 1),
    "floor": (0, 1),
    "rank": (1, MAX_RANK),
    "epochs": (1, 1000),
    "rate": (0, 1),
    "batch": (1, 1024),
    "threads": (1, 1024),
}
_NOT_MEASURED = Result(0.0, 0.0, 1.0, 0.0, 0, 0.0, 0.0, 0.0, None)


@dataclass(frozen=True, slots=True)
class Made:
    """An adapter, as it was trained and as it is served."""

    form: AdapterForm
    state: dict[str, torch.Tensor]
    parts: dict[str, AdapterPart]
    kl: MeanKl


def main(arguments: argparse.Namespace) -> int:
    """Teach a writer, bring it onto the bundle, print what was measured, and write its folder.

    Raises:
        UsageError: An option or the examples are wrong, or the accuracy is below the floor.
        BundleError: The bundle is wrong.
        BuildError: The bundle takes no such adapter, or the adapted one is too far from fp32.
    """
    _check_options(arguments)
    progress = Progress()
    torch.set_num_threads(arguments.threads)
    material = read_material(arguments)
    base = _base(arguments)
    template = _template(arguments)
    prompts = Prompts(base.tokenizer, material.wording, template)
    engine = _engine(base.bundle, arguments.threads)
    of_bundle = BaseModel.of(base.bundle.manifest)
    teacher = ChoiceTeacher(engine, base.tokenizer, prompts, material, of_bundle)
    if arguments.adapter is None:
        form, state = _taught(arguments, material, teacher, base, prompts, progress)
    else:
        form, state = trained(read_peft(arguments.adapter))
    apart = material.held_out or material.taught
    made = _gated(form, state, base, rows_of(prompts, apart), progress)
    described = _described(arguments, material, base, template, made.kl.answers)
    longest = prompts.longest_answer([*material.taught, *material.held_out, *material.tests])
    described = replace(described, max_tokens=tokens_allowed(longest))
    model = _in_full(made, base)
    answerer = Answerer(model, base.tokenizer, material.wording, prompts, described.max_tokens)
    writer = Writer(described, material.wording, made_adapter(made.parts))
    runner = WriterRunner(engine, base.tokenizer, writer)
    held_out = _answers(runner, prompts, apart, progress)
    compare_exact(_answers(answerer, prompts, apart, progress), held_out)
    writer = teacher.with_choice(writer, progress)
    if writer.choice is not None:
        runner = WriterRunner(engine, base.tokenizer, writer, teacher.reader)
        held_out = _answers(runner, prompts, apart, progress)
    description = calibrated(writer.description, held_out, arguments)
    if material.tests:
        tests = _answers(runner, prompts, material.tests, progress)
        description = replace(description, result=result_of(tests, description, arguments))
    return _write(arguments, replace(writer, description=description), made)


def _base(arguments: argparse.Namespace) -> TaughtModel:
    bundle = open_bundle(arguments.model)
    weights, reference = find_weights(bundle, arguments.weights), find_reference(bundle)
    return TaughtModel(bundle, Tokenizer.load(bundle), weights, reference, fastest_type())


def _engine(bundle: Bundle, threads: int) -> Engine:
    """Load the graph that takes adapters; without one, nothing is trained."""
    settings = EngineSettings(_CONTEXT, threads, num_prefixes=1, model_path=bundle.adapted_path)
    return load_engine(bundle, settings)


def _check_options(arguments: argparse.Namespace) -> None:
    # Before minutes of work, not after them.
    for option in ("labels", "tolerance"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option}: is not for answers that are written; leave it out")
    if arguments.variations is not None and not 1 <= arguments.variations <= MOST_VARIATIONS:
        raise UsageError(f"--variations: is not from 1 to {MOST_VARIATIONS}")
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
    teacher: ChoiceTeacher,
    base: TaughtModel,
    prompts: Prompts,
    progress: Progress,
) -> tuple[AdapterForm, dict[str, torch.Tensor]]:
    """Train adapters, and return them."""
    is_followed = arguments.variations != 1 and goes_on(material.taught)
    asides = asides_of(teacher, material, progress) if is_followed else []
    rows = rows_to_learn(prompts, material, arguments.variations, arguments.batch, asides)
    held_out = rows_of(prompts, material.held_out)
    rows, num_held_out = [*rows, *held_out], len(held_out)
    model = load_model(base.weights, base.kind)
    form = _form(arguments, model.config.num_hidden_layers)
    attach(model, form, seed=SEED)
    begun = begin(model, form, arguments.begin, base)
    _check_form(form, state_of(model), base)
    course = Course(arguments.epochs, arguments.rate, arguments.batch, seed=SEED)
    need = teaching_bytes(model.config, rows, course, form.layers[0], base.kind)
    num_tokens = sum(len(row.ids) for row in rows)
    num_taught = sum(row.num_dialogues for row in rows) - num_held_out
    print(
        f"{arguments.examples}: {num_taught} examples to learn from, {num_held_out} kept apart; "
        f"{num_tokens} tokens; about {need >> 20} MiB of memory, in {base.kind}"
    )
    check_memory(need)
    trainer = Trainer(
        model,
        Trunk(model, form.layers[0]),
        rows,
        num_held_out,
        course,
        checkpoint=_checkpoint(arguments.output),
        fingerprint=_fingerprint(rows, form, course, base, str(begun)),
    )
    _train(trainer, progress, need)
    trainer.forget()
    return form, state_of(model)


def _checkpoint(output: Path) -> Path:
    """Return the file that a run which was killed goes on from."""
    place = hashlib.sha256(str(output.resolve()).encode()).hexdigest()
    return default_cache() / "teaching" / f"{place[:16]}.pt"


def _train(trainer: Trainer, progress: Progress, need_bytes: int) -> None:
    process = psutil.Process()
    with progress.step("Teach") as step:

        def note(share: float, epoch: Epoch | None) -> None:
            step.update(round(1000 * share), 1000)
            if process.memory_info().rss > need_bytes:
                return_freed()  # the allocator keeps what batches of other lengths took
            if epoch is not None:
                progress.say(
                    f"epoch {epoch.number}: loss {epoch.loss:.4f}, held-out examples: loss "
                    f"{epoch.held_out_loss:.3f}, {epoch.held_out_exact:.1%} right"
                )

        trainer.run(note)


def _form(arguments: argparse.Namespace, num_layers: int) -> AdapterForm:
    targets = LINEARS if arguments.targets == "all" else tuple(arguments.targets.split(","))
    if unknown := set(targets) - set(LINEARS):
        raise UsageError(f"--targets: {min(unknown)} is none of {', '.join(LINEARS)}")
    layers = tuple(adapted_layers(num_layers))
    return AdapterForm(arguments.rank, 2.0 * arguments.rank, targets, layers)


def _fingerprint(
    rows: Sequence[Row], form: AdapterForm, course: Course, base: TaughtModel, begun: str
) -> str:
    found = hashlib.sha256(f"{base.bundle.manifest.source.sha256} {begun}".encode())
    found.update(json.dumps([asdict(form), asdict(course), str(base.kind)]).encode())
    for number in chain.from_iterable(row.ids for row in rows):
        found.update(number.to_bytes(4, "little"))
    return found.hexdigest()


def _check_form(form: AdapterForm, state: dict[str, torch.Tensor], base: TaughtModel) -> None:
    """Refuse what the bundle could not run, before it is trained.

    Raises:
        BuildError: It takes no adapters.
        UsageError: It takes none of this form.
    """
    with tempfile.TemporaryDirectory(prefix="edged-adapter-") as folder:
        write_peft(Path(folder), form, state, "")
        try:
            convert_adapter(Path(folder), base.bundle.manifest, base.reference)
        except BuildError as error:
            problem = str(error).removeprefix(f"{Path(folder) / CONFIG}: ")
            raise UsageError(f"--rank or --targets: {problem}") from error


def _gated(
    form: AdapterForm,
    state: dict[str, torch.Tensor],
    base: TaughtModel,
    rows: Sequence[Row],
    progress: Progress,
) -> Made:
    sequences = [(row.ids, row.is_answer) for row in rows[:_COMPARED]]
    with tempfile.TemporaryDirectory(prefix="edged-adapter-") as folder:
        write_peft(Path(folder), form, state, "")
        with progress.step("Compare with fp32") as step:
            parts, kl = gated_adapter(Path(folder), base.bundle, base.reference, sequences, step)
    return Made(form, state, parts, kl)


def _in_full(made: Made, base: TaughtModel) -> Any:  # noqa: ANN401 - transformers' class
    """Return the taught model in full precision."""
    model = load_model(base.weights, torch.float32)
    attach(model, made.form, seed=SEED)
    load_state(model, made.state)
    return model


def _answers(
    writes: Answerer | WriterRunner,
    prompts: Prompts,
    dialogues: Sequence[Dialogue],
    progress: Progress,
) -> list[Written]:
    asked = [one for dialogue in dialogues for one in prompts.asked(dialogue)]
    found = []
    with progress.step("Measure") as step:
        for index, one in enumerate(asked):
            found.append(writes.answer(one))
            step.update(index + 1, len(asked))
    return found


def _described(
    arguments: argparse.Namespace,
    material: Material,
    base: TaughtModel,
    template: str,
    mean_kl: float,
) -> WriterDescription:
    answers = [turn.answer for one in material.taught for turn in one.turns]
    return WriterDescription(
        FORMAT,
        taught_name(arguments.output, arguments.name, arguments.escalate),
        AdaptedModel.of(base.bundle.manifest),
        template,
        schema_text(material.wording),
        any(isinstance(one, list) for one in answers),
        arguments.tools is not None and any(isinstance(one, str) for one in answers),
        material.wording.grounded,
        material.wording.demands,
        1.0,
        0.0,
        0.0,
        _NOT_MEASURED,
        "",
        mean_kl,
        arguments.escalate,
    )


def _write(arguments: argparse.Namespace, writer: Writer, made: Made) -> int:
    result, output = writer.description.result, arguments.output
    print(
        f"{result.accuracy:.1%} right ({result.low:.1%} to {result.high:.1%}), ECE {result.ece:.3f}"
        f"; answers {result.answered:.1%}, of these {result.answered_right:.1%} right; KL to fp32"
        f" {made.kl.answers:.4f} over the tokens of answers, {made.kl.rows:.4f} with the prompts'"
    )
    if result.accuracy < arguments.floor:
        raise UsageError(
            f"{result.accuracy:.1%} right is below --floor {arguments.floor:.1%}: no specialist is "
            "written"
        )
    try:
        write_writer(output, writer.description, adapter_bytes(made.parts), writer.choice)
        write_peft(output / PEFT, made.form, made.state, arguments.model.name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror})") from error
    print(f"{output}: written")
    return ExitCode.OK
