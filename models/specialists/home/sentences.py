"""Whole sentences, each with what it says: they are learned beside those of the generator.

The generator's are made of forms, and have all names and commands evenly; these are as people talk,
with two or three things in a sentence, names of every kind, and much that is no command.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edged.specialists.wording import wording_of_schema
from models.specialists.home.generator.shape import schema

FILE = Path(__file__).parent / "generator" / "sentences.txt"
# Fields with words of the sentence.
COPIED = ("what", "in", "except", "except_in", "item", "source")
_MARKS = re.compile(r"[,.!?;:]+(?=\s|$)")
Line = dict[str, Any]


def read(file: Path = FILE) -> Iterator[Line]:
    """Yield the sentences of a file: ``prompt`` and ``said``, as the generator has them.

    Args:
        file: In which each block is a sentence behind ``>``, and what a model is to write of it.
    """
    shape = wording_of_schema(schema())[0].shape
    assert shape is not None  # noqa: S101 - of a schema that has services
    for block in re.split(r"\n{2,}", file.read_text("utf-8").strip()):
        prompt, _, said = block.partition("\n")
        if prompt.startswith(">"):
            yield {"prompt": prompt.removeprefix(">").strip(), "said": shape.read(said, {})}


def lessons(times: int) -> Iterator[Line]:
    """Yield the sentences as a file to teach with has them.

    Args:
        times: How often each comes: as it stands, and the second of two times as it is heard.
    """
    for line in read():
        for time in range(times):
            prompt, said = line["prompt"], line["said"]
            if time % 2:
                prompt, said = _heard(prompt, said)
            group = f"sentence: {line['prompt']}"
            yield {"prompt": prompt, "answer": said, "inputs": {"devices": []}, "group": group}


def _heard(prompt: str, said: Line) -> tuple[str, Line]:
    """Return a sentence as speech recognition writes it, or with a capital if it is so already."""
    heard = _MARKS.sub("", prompt.lower())
    if heard == prompt:
        heard = prompt[:1].upper() + prompt[1:]
    return heard, said | {"commands": [_as_in(heard, one) for one in said["commands"]]}


def _as_in(prompt: str, command: Line) -> Line:
    """Return a command with its words as they stand in a sentence, which differs in case alone."""
    copied = {name: str(command[name]) for name in COPIED if name in command}
    for name, words in copied.items():
        start = prompt.lower().find(_MARKS.sub("", words.lower()))
        copied[name] = prompt[start : start + len(_MARKS.sub("", words))] if start >= 0 else words
    return command | copied
