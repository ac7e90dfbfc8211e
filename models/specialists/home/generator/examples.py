"""Examples: a sentence, a home, and what is to be done."""

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

from models.specialists.home.generator import drafts
from models.specialists.home.generator.clauses import Action, Clause, Speaker
from models.specialists.home.generator.drafts import Draft, Wanted
from models.specialists.home.generator.homes import AREA_TYPES, KINDS, Home, make_home
from models.specialists.home.generator.nothing import but_not, half, nothing
from models.specialists.home.generator.readings import kinds_of
from models.specialists.home.generator.said import Command, commands_of
from models.specialists.home.generator.speech import deliver
from models.specialists.home.generator.tables import Section, commands, names, phrases
from models.specialists.home.generator.values import Context

MAX_TARGETS = 12
_TRIES = 30
# Shares of what the answers are, and how a sentence for it is made.
_MIXTURE = {
    "command": (0.435, drafts.command),
    "two": (0.21, drafts.several),
    "place_first": (0.025, drafts.place_first),
    "half": (0.015, half),
    "but_not": (0.02, but_not),
    "three": (0.05, drafts.several),
    "corrected": (0.015, drafts.correction),
    "none": (0.15, nothing),
    "ambiguous": (0.09, drafts.unclear_which),
}
# Of how many commands a sentence is made, where it is not one.
_COMMANDS = {"two": 2, "place_first": 2, "half": 2, "but_not": 2, "three": 3}
# What may be about things that are not there.
_ABSENT = ("none", "half")
# How often something is asked of each kind of device.
_ASKED = {
    "light": 26,
    "switch": 4,
    "fan": 8,
    "blind": 4.5,
    "curtain": 3.5,
    "shade": 3,
    "shutter": 2,
    "awning": 0.8,
    "garage_door": 1.8,
    "gate": 1,
    "window": 0.6,
    "lock": 6,
    "sprinkler": 3.2,
    "water_main": 1,
    "other_valve": 0.8,
    "vacuum": 6,
    "mower": 2,
    "tv": 6,
    "speaker": 7,
    "thermostat": 5,
    "radiator": 2,
    "ac": 2.5,
    "humidifier": 1.5,
    "dehumidifier": 0.7,
    "boiler": 1.5,
    "scene": 3.5,
    "script": 1.3,
    "button": 1.2,
    "siren": 0.8,
    "toggle": 1.5,
    "todo": 4.5,
    "timer": 1.2,
    "alarm": 1.7,
}
# How many requests, and how many notes, have something polite or a reason around them.
_POLITE, _NOTES_POLITE = 0.42, 0.2
_BESIDE = re.compile(r"^\{c\}(,|[.!] | please$| now$| thanks$)|[,.!:;] \{c\}$")
_OFTEN_SWITCHED = ("light", "switch", "fan", "media_player")


@dataclass(frozen=True, slots=True)
class Example:
    """One line of a file to teach with."""

    prompt: str
    home: Home
    actions: tuple[Action, ...]
    reason: str
    """Why there are none: ``none`` or ``ambiguous``."""
    group: str
    """What is asked for."""
    forms: tuple[str, ...]
    """The forms that it was made of."""
    commands: tuple[Command, ...]
    """What a listener hears who does not know the home."""

    def as_json(self) -> dict[str, Any]:
        """Return it as a line has it."""
        inputs = self.home.inputs()
        # In the order of the list: so several can be said at once, and there is one right text.
        places = {device.id: place for place, device in enumerate(self.home.devices)}
        actions = [
            {**a, "target": sorted(a["target"], key=places.__getitem__)} for a in self.actions
        ]
        answer: dict[str, object] = {"actions": actions}
        if not self.actions:
            answer["reason"] = self.reason
        # Sentences of the same forms are alike: none of them is to judge what the others taught.
        group = f"{self.group}: {' / '.join(self.forms)}"
        said: dict[str, object] = {"commands": [*self.commands]}
        if not self.commands:
            said["reason"] = "none"
        return {
            "prompt": self.prompt,
            "inputs": inputs,
            "answer": answer,
            "said": said,
            "group": group,
        }


def make(
    seed: int, index: int, split: str, sizes: tuple[int, int], home: Home | None = None
) -> Example:
    """Make one example; the same for the same arguments.

    Args:
        seed: Of the file.
        index: Of the example in it.
        split: ``train`` or ``held-out``.
        sizes: Fewest and most devices of a home.
        home: In which it is said; another one where little can be said in it.
    """
    rng = Random(f"{seed}/{index}/{split}/{sizes}")  # a text: the same on every machine
    # Of what needs several devices, a home with one has nothing.
    mixture = _MIXTURE if sizes[1] > 2 else {kind: _MIXTURE[kind] for kind in ("command", "none")}
    for _ in range(_TRIES if home else 0):
        shares = {kind: share for kind, (share, _) in mixture.items()}
        # Few homes have several things that a command could mean.
        shares["ambiguous"] = 2 * shares.get("ambiguous", 0)
        kind = rng.choices([*shares], [*shares.values()])[0]
        if example := _made(rng, split, sizes, kind, home):
            return example
    kind = rng.choices([*mixture], [share for share, _ in mixture.values()])[0]
    while True:
        if example := _made(rng, split, sizes, kind, None):
            return example


def make_many(
    count: int, seed: int, split: str, sizes: tuple[int, int], each: int = 1
) -> Iterator[Example]:
    """Make examples one after the other, ``each`` of them in one home."""
    home = None
    for index in range(count):
        example = make(seed, index, split, sizes, home if index % each else None)
        home = example.home
        yield example


def _made(
    rng: Random, split: str, sizes: tuple[int, int], kind: str, home: Home | None
) -> Example | None:
    """Say something of a kind in a home, or in new ones."""
    present = {device.kind for device in home.devices} if home and kind not in _ABSENT else None
    wanted = _wanted(rng, _COMMANDS.get(kind, 1), present)
    # What is hard to say in a home that was set up by chance would else be rare.
    for _ in range(_TRIES):
        at = home or _home(rng, split, sizes, wanted, is_torn=kind == "ambiguous")
        speaker = _speaker(rng, split, at, wanted, is_torn=kind == "ambiguous")
        draft = _MIXTURE[kind][1](speaker, wanted)
        if draft and (example := _delivered(speaker, draft)):
            return example
    return None


@cache
def _sections(kind: str) -> tuple[tuple[Section, ...], tuple[float, ...]]:
    """Return the commands for a kind of device, and how often each is said."""
    sections = tuple(section for section in commands() if kind in kinds_of(section))
    is_often = KINDS[kind].domain in _OFTEN_SWITCHED
    weights = tuple(
        section.weight * (0.3 if section.name in ("on", "off") and not is_often else 1)
        for section in sections
    )
    return sections, weights


def _wanted(
    rng: Random, count: int, present: Container[str] | None = None
) -> list[tuple[Section, str]]:
    """Choose commands, and the kinds of devices that they are to be said for."""
    asked = {k: share for k, share in _ASKED.items() if present is None or k in present} or _ASKED
    kinds = rng.choices([*asked], [*asked.values()], k=count)
    return [(rng.choices(*_sections(kind))[0], kind) for kind in kinds]


def _home(
    rng: Random, split: str, sizes: tuple[int, int], wanted: Wanted, *, is_torn: bool
) -> Home:
    """Set up a home, with devices for the commands that are to be said in it.

    Args:
        rng: Chance.
        split: Of all names.
        sizes: Fewest and most devices.
        wanted: What is to be said.
        is_torn: Whether several devices are to fit.
    """
    low, high = sizes
    # Nearly as many small homes as large ones by ratio: what is long costs most.
    size = round(low * (high / low) ** rng.random() ** 0.75)
    kinds = [kind for _, kind in wanted]
    if is_torn:
        kinds = [kinds[0]] * rng.choice((2, 2, 3))
    elif rng.random() < 0.3:
        kinds += rng.choices(kinds, k=rng.choice((1, 1, 2, 2, 3, 4, 6)))
    return make_home(rng, split, min(high, max(size, len(kinds))), kinds)


def _speaker(rng: Random, split: str, home: Home, wanted: Wanted, *, is_torn: bool) -> Speaker:
    """Let somebody speak in a home, often from where the devices are.

    Args:
        rng: Chance.
        split: Of all names.
        home: Whatever it has.
        wanted: What is to be said.
        is_torn: Whether several devices are to fit.
    """
    asker = None
    kinds = {kind for _, kind in wanted}
    is_here = any("here" in section.flags for section, _ in wanted)
    if home.areas and rng.random() < (0.25 if is_torn else 0.9 if is_here else 0.55):
        near = [d.area for d in home.devices if d.kind in kinds and d.area]
        asker = rng.choice(near if near and rng.random() < 0.6 else home.areas)
        if not is_here and rng.random() < 0.06:  # a room without any device
            asker = rng.choice(names(f"area {rng.choice(AREA_TYPES)}", split))
    context = Context(rng, split, rng.random() < 0.45, rng.random() < 0.35)
    return Speaker(rng, replace(home, asker=asker), context)


def _delivered(speaker: Speaker, draft: Draft) -> Example | None:
    """Put politeness around a sentence, and write it as it arrives."""
    rng = speaker.rng
    text, forms = draft.text, draft.forms
    wrappers = phrases("wrapper", speaker.split) if draft.is_request else _beside(speaker.split)
    if draft.heard and rng.random() < (_POLITE if draft.is_request else _NOTES_POLITE):
        wrapper = rng.choice(wrappers)
        text = wrapper.replace("{c}", text)
        forms = (*forms, wrapper)
    actions = _merged(draft.clauses)
    if sum(len(action["target"]) for action in actions) > MAX_TARGETS:
        return None
    kept = [str(action["data"]["item"]) for action in actions if "item" in action["data"]]
    prompt = deliver(rng, text, kept, is_spoken=speaker.values.is_spoken)
    said = tuple(commands_of(draft.heard, prompt))
    return Example(prompt, speaker.home, actions, draft.reason, draft.group, forms, said)


@cache
def _beside(split: str) -> tuple[str, ...]:
    """Return what may be said beside a command that is no request: "morning! Lamp on"."""
    return tuple(one for one in phrases("wrapper", split) if _BESIDE.search(one))


def _merged(clauses: Sequence[Clause]) -> tuple[Action, ...]:
    """Join actions that do the same with other devices."""
    merged: list[Action] = []
    for action in (action for clause in clauses for action in clause.actions):
        for same in merged:
            if (same["service"], same["data"]) == (action["service"], action["data"]):
                new = [t for t in action["target"] if t not in same["target"]]
                same["target"] = [*same["target"], *new]
                break
        else:
            merged.append(action.copy())
    return tuple(merged)
