"""How many of the last answers of dialogues are right: commands, and what is none of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edged.commands.writer_figures import AskedWriter
from edged.specialists.dialogues import read_dialogues
from edged.specialists.measures import interval
from edged.specialists.written import Written, asked_of

_DIALOGUES = Path(__file__).parent / "dialogues"


@dataclass(frozen=True, slots=True)
class Dialogues:
    """Dialogues with calls of functions, written for this measurement.

    The last sentences, which are judged, are none of those that are taught. Of each set the
    ``unseen`` ones were used to choose how writers are taught, the ``fresh`` ones, of another
    author, were not.
    """

    folder: Path
    none: str
    """The function that says that a wish is vague, is not supported, or is something other."""

    @property
    def tools(self) -> Path:
        """OpenAI's list of functions."""
        return self.folder / "tools.json"

    @property
    def taught(self) -> Path:
        """50 dialogues to learn from."""
        return self.folder / "taught.jsonl"

    @property
    def judged(self) -> Sequence[Path]:
        """100 and 50 dialogues."""
        return [self.folder / name for name in ("unseen.jsonl", "fresh.jsonl")]


SETS = {
    "home": Dialogues(_DIALOGUES / "home", "not_understood"),  # six functions of a home
    "bank": Dialogues(_DIALOGUES / "bank", "intent_unclear"),  # fourteen of a bank by voice
}


def judge(folder: Path, model: Path, dialogues: Dialogues) -> None:
    """Print what a writer makes of the last prompts of the dialogues that were not taught.

    Raises:
        BundleError: The bundle or the writer is wrong.
    """
    asked = AskedWriter(folder, model)
    for path in dialogues.judged:
        found = [
            asked.runner.answer(asked_of(dialogue, asked.writer.wording)[-1])
            for dialogue in read_dialogues(path)
        ]
        for one in found:
            if not one.is_right:
                said = one.asked.messages[-1].content
                print(f"{one.asked.dialogue.place}: {one.text!r} for {one.asked.text!r}: {said!r}")
        print(f"{path.name}:")
        is_none = [one.asked.text.startswith(dialogues.none) for one in found]
        _print("all", found)
        _print("commands", [one for one, none in zip(found, is_none, strict=True) if not none])
        nones = [one for one, none in zip(found, is_none, strict=True) if none]
        _print("none", nones)
        right = sum(one.text.startswith(dialogues.none) for one in nones)
        print(f"none, whatever the reason: {right} of {len(nones)}")


def _print(name: str, found: Sequence[Written]) -> None:
    right = sum(one.is_right for one in found)
    low, high = interval(right, len(found))
    print(f"{name}: {right} of {len(found)} right, {low:.1%} to {high:.1%}")
