"""Examples of what is out of scope, for a writer that has a function for it.

Few examples show what no function does, and exchanging values makes no more of them: a writer that
saw few answers with the nearest function. So where one of the functions says that a wish was not
understood, sentences of everyday talk, for other things, and of vague wishes are answered with it,
behind the beginnings of dialogues. Which of its answers belongs to which family is what the
examples answer to the sentences that are most alike; a family that nothing is alike stays away.
"""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

from edged.specialists.dialogues import Dialogue, Turn, listed

_FAMILIES = ("other", "unsupported", "vague")
_THINGS = "things"
_CATCH_ALL = re.compile(
    r"unclear|understood|unknown|unsupported|not supported|out.of.scope|off.topic|no.?match|"
    r"fallback|cannot|vague|irrelevant|not possible",
    re.IGNORECASE,
)
_FEWEST = 3
_WORD = re.compile(r"[a-z]+")
# Words that say nothing of what is meant.
_COMMON_TEXT = """
a an and are as at be bit by can close could do does for from get going good have how i in is it
like make me more my need not now of off on one open or out please put run set so some something
start stop switch take that the them there thing this time to too turn up want was way we what when
which who will with you your
"""
_COMMON = frozenset(_COMMON_TEXT.split())


def catch_all(tools: object) -> str | None:
    """Return the function that says that a wish was not understood; None where there is none."""
    if not isinstance(tools, list):
        return None
    functions = [tool.get("function", tool) for tool in tools if isinstance(tool, dict)]
    names = [
        str(one.get("name"))
        for one in functions
        if _CATCH_ALL.search(f"{one.get('name')} {one.get('description')}")
    ]
    return names[0] if len(names) == 1 else None


def out_of_scope(
    dialogues: Sequence[Dialogue], tools: object, count: int, seed: int
) -> list[Dialogue]:
    """Return dialogues that end with what no function does.

    Args:
        dialogues: The examples.
        tools: The functions, as OpenAI lists them; of another schema nothing is made.
        count: How many.
        seed: Decides everything.
    """
    name = catch_all(tools)
    turns = [turn for one in dialogues for turn in one.turns]
    caught = [turn for turn in turns if name is not None and _is_call(turn.answer, name)]
    if len(caught) < _FEWEST:
        return []
    meant = _words(json.dumps(tools))
    for turn in turns:
        if not _is_call(turn.answer, str(name)):
            meant |= _words(turn.said)
    said = {family: _free(lines, meant) for family, lines in _sentences().items()}
    answers = _answers(caught, said)
    families = [family for family in _FAMILIES if said[family] and family in answers]
    if not families:
        return []
    rng = random.Random(seed)  # noqa: S311 - reproducible
    return [
        _ended(rng.choice(dialogues), Turn(rng.choice(said[family]), answers[family]), rng)
        for family in rng.choices(families, k=count)
    ]


def _is_call(answer: Any, name: str) -> bool:  # noqa: ANN401 - of JSON
    calls = listed(answer)
    return isinstance(calls, list) and any(
        isinstance(call, dict) and call.get("name") == name for call in calls
    )


def _sentences() -> dict[str, list[str]]:
    """Return the sentences of each family."""
    text = files("edged.specialists").joinpath("out-of-scope.txt").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    things = found.pop(_THINGS)
    return {
        family: [line.format(thing) for line in lines for thing in things if "{}" in line]
        + [line for line in lines if "{}" not in line]
        for family, lines in found.items()
    }


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - _COMMON


def _free(lines: Sequence[str], meant: set[str]) -> list[str]:
    """Return the sentences without a word of what is meant."""
    return [line for line in lines if not _words(line) & meant]


def _answers(caught: Sequence[Turn], said: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what the examples answer to each family."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for turn in caught:
        words = set(_WORD.findall(turn.said.lower()))
        alike = {
            family: max((_alike(words, line) for line in lines), default=0.0)
            for family, lines in said.items()
        }
        family = max(alike, key=lambda one: alike[one])
        if alike[family] > 0:
            votes[family][json.dumps(turn.answer, sort_keys=True)] += 1
    return {family: json.loads(one.most_common(1)[0][0]) for family, one in votes.items()}


def _alike(words: set[str], line: str) -> float:
    """Return how many words two sentences have in common, of all that they have."""
    others = set(_WORD.findall(line.lower()))
    return len(words & others) / len(words | others)


def _ended(dialogue: Dialogue, turn: Turn, rng: random.Random) -> Dialogue:
    """Return the beginning of a dialogue, and a turn behind it."""
    kept = rng.randrange(len(dialogue.turns))
    return replace(dialogue, turns=(*dialogue.turns[:kept], turn))
