"""The tables beside this module: what people say, and how they name things.

``commands/`` has a section for each command::

    [name] services, one a domain | data field=slot or field=value | what it applies to

Below it, a line is a form: ``(this|that)`` and ``[may be left out]``. ``{x}`` is what is meant
("the desk lamp", "all blinds upstairs"), ``{in}`` a place or nothing ("in here", "upstairs", ""),
any other braces a value. A line that begins with ``- `` is no request by itself, so nothing polite
is put around it. What a section applies to:

``kinds=…``
    only devices of these kinds
``implied=…``
    no device is named: those of this kind are meant; ``number=one``, ``many`` or ``all``; ``here``:
    where the asker is
``weight=N``
    how often, beside the others (1)

Rule: a line behind ``~`` is held out. What is in one split is in no other.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

SPLITS = ("train", "held-out")
_HELD_OUT = "~"
_FOLDER = Path(__file__).parent
_TOPICS = ("switching", "lights", "climate", "covers", "chores", "media")
_COMMANDS = [f"commands/{topic}.txt" for topic in _TOPICS]
_SECTION = re.compile(r"\[([^\]]+)\]\s*(.*)")
_CHOICE = re.compile(r"\(([^()]+\|[^()]*)\)")
_OPTION = re.compile(r"\[([^\[\]]+)\]")


@dataclass(frozen=True, slots=True)
class Form:
    """One way to say a command, with its slots in braces."""

    text: str
    is_request: bool
    """Whether something polite may be put around it."""


@dataclass(frozen=True, slots=True)
class Section:
    """A command, and the ways to say it."""

    name: str
    services: tuple[str, ...]
    data: tuple[tuple[str, str], ...]
    """Field of the service, and the slot or the value that it gets."""
    kinds: frozenset[str]
    """Of devices that it applies to; all of the services' domains where there are none."""
    implied: frozenset[str]
    """Kinds of devices that are meant though none is named."""
    number: str
    """Of the implied: ``one``, ``many`` or ``all``."""
    flags: frozenset[str]
    weight: float
    forms: Mapping[str, tuple[Form, ...]]
    """By split."""


def _lines(name: str) -> Iterator[str]:
    """Yield the lines of a table, without comments."""
    for line in (_FOLDER / name).read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _sections(name: str) -> Iterator[tuple[str, str, dict[str, list[str]]]]:
    """Yield title, rest of the title's line, and lines by split of each section."""
    title, rest, lines = "", "", {split: list[str]() for split in SPLITS}
    for line in _lines(name):
        if found := _SECTION.fullmatch(line):
            if title:
                yield title, rest, lines
            title, rest = found.groups()
            lines = {split: [] for split in SPLITS}
        elif line.startswith(_HELD_OUT):
            lines["held-out"].append(line.removeprefix(_HELD_OUT).strip())
        else:
            lines["train"].append(line)
    yield title, rest, lines


def expand(text: str) -> list[str]:
    """Write a form out: ``(a|b)`` is each of them, ``[a]`` is there or not."""
    if found := _CHOICE.search(text):
        parts = found[1].split("|")
    elif found := _OPTION.search(text):
        parts = [found[1], ""]
    else:
        return [" ".join(text.split())]
    before, after = text[: found.start()], text[found.end() :]
    return [form for part in parts for form in expand(before + part + after)]


def _forms(lines: list[str]) -> tuple[Form, ...]:
    """Read the forms of one split."""
    forms = []
    for line in lines:
        is_request = not line.startswith("- ")
        forms += [Form(text, is_request) for text in expand(line.removeprefix("- "))]
    return tuple(forms)


@cache
def commands() -> tuple[Section, ...]:
    """Read the files of ``commands/``."""
    sections = []
    for name, head, lines in chain.from_iterable(map(_sections, _COMMANDS)):
        services, data, settings = (part.split() for part in head.split("|"))
        pairs = dict(word.split("=") for word in settings if "=" in word)
        section = Section(
            name,
            tuple(services),
            tuple((field, value) for field, value in (word.split("=") for word in data)),
            frozenset(pairs.get("kinds", "").split(",")) - {""},
            frozenset(pairs.get("implied", "").split(",")) - {""},
            pairs.get("number", "one"),
            frozenset(word for word in settings if "=" not in word),
            float(pairs.get("weight", 1)),
            {split: _forms(lines[split]) for split in SPLITS},
        )
        sections.append(section)
    return tuple(sections)


@cache
def phrases(title: str, split: str) -> tuple[str, ...]:
    """Return the phrases of a section of ``remarks.txt``, one a line, written out."""
    lines = next(lines for name, _, lines in _sections("remarks.txt") if name == title)
    return tuple(form for line in lines[split] for form in expand(line))


@cache
def _all_names() -> dict[str, dict[str, tuple[str, ...]]]:
    """Read ``names.txt``: by title and split."""
    return {
        title: {
            split: tuple(name.strip() for line in lines[split] for name in line.split(","))
            for split in SPLITS
        }
        for title, _, lines in _sections("names.txt")
    }


def names(title: str, split: str) -> tuple[str, ...]:
    """Return the names of a section of ``names.txt``; empty where there is no such section."""
    return _all_names().get(title, {}).get(split, ())


def name_titles() -> tuple[str, ...]:
    """Return the titles of ``names.txt``."""
    return tuple(_all_names())
