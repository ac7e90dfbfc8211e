"""How many of the last answers of dialogues are right: commands, and what is none of them."""

from collections.abc import Sequence
from pathlib import Path

from edged.commands.written import AskedWriter
from edged.specialists.dialogues import read_dialogues
from edged.specialists.measures import interval
from edged.specialists.written import Written, asked_of

# Six functions of a home, of which one says that a wish is vague, needs a device that is not
# supported, or is something other. Written for this measurement; the sentences that are judged are
# none of those that are taught.
DIALOGUES = Path(__file__).parent / "dialogues"
TAUGHT, UNSEEN, TOOLS = (
    DIALOGUES / name for name in ("taught.jsonl", "unseen.jsonl", "tools.json")
)
NONE = "not_understood"


def judge(folder: Path, model: Path) -> None:
    """Print what a writer makes of the last prompts of the dialogues that were not taught.

    Raises:
        BundleError: The bundle or the writer is wrong.
    """
    asked = AskedWriter(folder, model)
    found = [
        asked.runner.answer(asked_of(dialogue, asked.writer.wording)[-1])
        for dialogue in read_dialogues(UNSEEN)
    ]
    for one in found:
        if not one.is_right:
            said = one.asked.messages[-1].content
            print(f"{one.asked.dialogue.place}: {one.text!r} for {one.asked.text!r}: {said!r}")
    is_none = [one.asked.text.startswith(NONE) for one in found]
    parts = {
        "all": found,
        "commands": [one for one, none in zip(found, is_none, strict=True) if not none],
        "none": [one for one, none in zip(found, is_none, strict=True) if none],
    }
    for name, some in parts.items():
        _print(name, some)
    right = sum(one.text.startswith(NONE) for one in parts["none"])
    print(f"none, whatever the reason: {right} of {len(parts['none'])}")


def _print(name: str, found: Sequence[Written]) -> None:
    right = sum(one.is_right for one in found)
    low, high = interval(right, len(found))
    print(f"{name}: {right} of {len(found)} right, {low:.1%} to {high:.1%}")
