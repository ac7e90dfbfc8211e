"""What people say to a device that is meant for nothing it can do, as a writer should answer it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from edged.builder.progress import Progress
from edged.builder.writer.choice import ChoiceTeacher
from edged.builder.writer.material import Material
from edged.specialists.dialogues import Turn
from edged.specialists.multiply import is_english

EVERYDAY = Path(__file__).parent / "everyday.txt"
_WORD = re.compile(r"[a-z]{5,}")


def asides_of(teacher: ChoiceTeacher, material: Material, progress: Progress) -> list[Turn]:
    """Return everyday sentences with the answer that the examples have for what is not meant.

    Those that share a word with the schema are left out: they may be meant. There are none where
    the examples have no such answer, or it is not clear which, or they are not English.
    """
    if not is_english(material.taught):
        return []
    known = set(_words(json.dumps(material.wording.schema)))
    texts = [
        text for text in EVERYDAY.read_text("utf-8").splitlines() if known.isdisjoint(_words(text))
    ]
    written = teacher.answer_to(texts, progress)
    if written is None:
        return []
    answer = material.wording.parsed(written)
    print(f"everyday talk is answered with {written!r}")
    return [Turn(text, answer) for text in texts]


def _words(text: str) -> Sequence[str]:
    return [word.removesuffix("s") for word in _WORD.findall(text.lower())]
