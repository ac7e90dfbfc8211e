"""What a sentence asks for in its own words: what the model writes, before devices are found."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import product

from models.specialists.home.generator.clauses import Clause
from models.specialists.home.generator.groups import EVERYTHING
from models.specialists.home.generator.resolve import Mention
from models.specialists.home.generator.values import Value
from models.specialists.home.generator.words import stems

Command = dict[str, Value]
# What waters is told apart by what it waters.
_WATERED = frozenset(
    (
        *("lawn", "grass", "meadow", "garden", "orchard", "plant", "planter", "flower", "rose"),
        *("tomato", "vegetable", "herb", "hedge", "berry", "bed"),
    )
)
# Data in words of the prompt.
_COPIED = ("item", "source")
_ALL = re.compile(r"\b(all|every|each|both|everything|everywhere|whole)\b")


def commands_of(clauses: Sequence[Clause], prompt: str) -> Iterator[Command]:
    """Yield what is asked for, in words of the prompt as it arrives."""
    start = 0
    for clause in clauses:
        parts = clause.mention.parts or (clause.mention,)
        for mention, call in product(parts, clause.calls):
            said, start = _described(clause, mention, prompt, start)
            copied = {
                name: heard(str(value), prompt, 0)[0]
                for name, value in call.data.items()
                if name in _COPIED
            }
            yield {"do": call.service.split(".")[1], **said, **call.data, **copied}


def _described(clause: Clause, mention: Mention, prompt: str, start: int) -> tuple[Command, int]:
    """Return the words for the devices, and where in the prompt these end."""
    described: Command = {}
    end = start
    if said := mention.said or _noun(clause):
        described["what"], end = heard(said, prompt, start)
    elif clause.section.implied or mention.kinds == EVERYTHING:
        described["kind"] = kind_name(clause.section.implied or mention.kinds)
    if "sprinkler" in clause.section.implied:
        watered = [word for word in prompt.split() if stems(word) & _WATERED]
        described |= {"what": watered[0].strip(".,!?")} if watered else {}
    if mention.said_place:
        described["in"], end = heard(mention.said_place, prompt, start)
    described |= _where(mention)
    if mention.number == "all" and _ALL.search(clause.text):
        described["all"] = True
    described |= _left_out(mention.excluded, prompt, start) if mention.excluded else {}
    return described, max(start, end)


def _where(mention: Mention) -> Command:
    """Return that it is where the asker is, if that is said."""
    if mention.place and mention.place.kind == "here":
        return {"where": "here"}
    return {"where": "floor"} if mention.place and mention.place.is_here else {}


def _left_out(mention: Mention, prompt: str, start: int) -> Command:
    """Return the words for what is excepted."""
    described: Command = {"except": heard(mention.said, prompt, start)[0]}
    if mention.said_place:
        described["except_in"] = heard(mention.said_place, prompt, start)[0]
    return described


def _noun(clause: Clause) -> str:
    """Return what is said for lights by a form that puts it where no name could stand."""
    words = clause.text.lower().split()
    is_said = "light" in clause.section.implied and "lights" in words[1:]
    return "lights" if is_said and words[0] != "lights" else ""


def kind_name(kinds: frozenset[str]) -> str:
    """Return one word for the kinds that are meant where no device is named."""
    if kinds == EVERYTHING:
        return "everything"
    return "blind" if "blind" in kinds else next(iter(kinds))


def heard(said: str, prompt: str, start: int) -> tuple[str, int]:
    """Return the words of a prompt that are most like some words, rather behind ``start``.

    Prompts are mistyped and misheard, and what is taught stands there as it arrived.
    """
    words, wanted = prompt.split(), said.split()
    best, found, end = -1.0, said, start
    for first in range(len(words)):
        for count in {len(wanted), len(wanted) - 1, len(wanted) + 1}:
            if not 0 < count <= len(words) - first:
                continue
            text = " ".join(words[first : first + count]).strip(".,!?")
            ratio = SequenceMatcher(None, text.lower(), said.lower()).ratio()
            ratio += 0.01 * (first >= start) - 0.005 * (count != len(wanted))
            if ratio > best:
                best, found, end = ratio, text, first + count
    return found, end
