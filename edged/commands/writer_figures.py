"""``edged eval`` and ``edged try`` of a specialist that writes, as the daemon runs it."""

import statistics
import time
from pathlib import Path
from typing import Any

from edged.bundle.folder import open_bundle
from edged.engine.loading import load_engine
from edged.engine.steps import EngineSettings
from edged.engine.tokenizer import Tokenizer
from edged.engine.writer_runner import LastReader, WriterRunner
from edged.errors import UsageError
from edged.protocol.request import Answer, ChatMessage, FinishReason
from edged.specialists.adapter import AdaptedModel
from edged.specialists.compact.shapes import Inputs
from edged.specialists.dialogues import as_wanted, check_answers, read_dialogues
from edged.specialists.features import Layout
from edged.specialists.measures import calibration_error, interval
from edged.specialists.writer import WriterAnswers, read_writer
from edged.specialists.written import asked_of

_CONTEXT = 2048


class AskedWriter:
    """A writer on its base; blocks for about a second.

    Raises:
        BundleError: The bundle or the specialist is wrong.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        bundle = open_bundle(model)
        # What a choice's head reads before each prompt is kept in a slot of its own.
        settings = EngineSettings(_CONTEXT, num_prefixes=1, model_path=bundle.adapted_path)
        engine, tokenizer = load_engine(bundle, settings), Tokenizer.load(bundle)
        base = AdaptedModel.of(bundle.manifest)
        layout = Layout(*engine.hidden_shape)
        self.writer = read_writer(folder, base, engine.adapter_shape, layout)
        reader = None if self.writer.choice is None else LastReader(engine, tokenizer)
        self.runner = WriterRunner(engine, tokenizer, self.writer, reader)

    def answer(self, prompt: str, inputs: Inputs) -> Answer:
        """Return the answer to a prompt, as a node gives it.

        Raises:
            UsageError: The inputs are not what the writer needs, or the prompt is too long.
        """
        try:
            found = self.runner.write((ChatMessage("user", prompt),), inputs)
        except ValueError as error:
            raise UsageError(str(error)) from error
        reason = FinishReason.STOP if found.is_ended else FinishReason.LENGTH
        return WriterAnswers(self.writer, inputs, prompt).answer(
            found.text, found.log_probability, reason
        )


def written_figures(folder: Path, model: Path, examples: Path) -> dict[str, Any]:
    """Ask a writer about each example; return the names and values that ``edged eval`` prints.

    Raises:
        UsageError: The examples are wrong, or have answers that its schema does not allow.
        BundleError: The bundle or the specialist is wrong.
    """
    asked_writer = AskedWriter(folder, model)
    writer, runner = asked_writer.writer, asked_writer.runner
    said = writer.description
    dialogues = as_wanted(read_dialogues(examples), writer.wording, is_list=said.is_list)
    check_answers(dialogues, writer.wording)
    found, taken_s = [], []
    for dialogue in dialogues:
        for asked in asked_of(dialogue, writer.wording):
            started_s = time.perf_counter()
            try:
                found.append(runner.answer(asked))
            except ValueError as error:  # its inputs, or its length
                raise UsageError(f"{dialogue.place}: {error}") from error
            taken_s.append(time.perf_counter() - started_s)
    is_right = [one.is_right for one in found]
    confidence = [said.confidence(one.log_probability) for one in found]
    is_sure = [one >= said.unsure_below for one in confidence]
    low, high = interval(sum(is_right), len(found))
    sure = [right for right, one in zip(is_right, is_sure, strict=True) if one]
    return {
        "accuracy": round(statistics.fmean(is_right), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "exact": round(statistics.fmean(is_right), 4),
        "valid_json": round(statistics.fmean(one.is_valid for one in found), 4),
        "ece": round(calibration_error(confidence, is_right), 4),
        "unsure": round(1 - statistics.fmean(is_sure), 4),
        "p50_ms": round(1000 * statistics.median(taken_s), 2),
        "n": len(found),
        "answered_right": round(statistics.fmean(sure), 4) if sure else None,
    }
