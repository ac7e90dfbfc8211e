"""One command in words, and the actions that it asks for."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import NamedTuple, TypedDict

from models.specialists.home.generator import groups, mentions, values
from models.specialists.home.generator.homes import Device, Home
from models.specialists.home.generator.readings import is_shopping, kinds_of, read
from models.specialists.home.generator.resolve import Mention, Place, Reading
from models.specialists.home.generator.shape import services
from models.specialists.home.generator.tables import Form, Section
from models.specialists.home.generator.words import stem, tokens


class Call(NamedTuple):
    """What is asked of a device."""

    service: str
    data: dict[str, values.Value]


class Action(TypedDict):
    """A call of a service."""

    service: str
    target: list[str]
    """Identifiers of devices."""
    data: dict[str, values.Value]


_SLOT = re.compile(r"\{(\w+)\}")
_STYLES: dict[Callable[[Random, Home, Device], Mention | None], float] = {
    mentions.one: 0.7,
    groups.several: 0.12,
    groups.both: 0.02,
    groups.family: 0.035,
    groups.except_one: 0.035,
    groups.in_two_places: 0.04,
}


_STYLES_OF_MANY = {**_STYLES, groups.several: 0.3, groups.except_one: 0.08}
_MANY = 4


@dataclass(frozen=True, slots=True)
class Clause:
    """A command, said."""

    text: str
    section: Section
    form: Form
    mention: Mention
    reading: Reading
    calls: tuple[Call, ...] = ()
    """What is asked of the devices, whichever they are."""
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who says it, and in which home."""

    rng: Random
    home: Home
    values: values.Context

    @property
    def split(self) -> str:
        """The split that all words are of."""
        return self.values.split


def say(speaker: Speaker, section: Section, form: Form, device: Device) -> Clause | None:
    """Say a command, meant for a device and perhaps for others; None if that does not work."""
    text, said_values = _with_values(speaker, section, form, device)
    if section.implied:
        text, mention = _implied(speaker, section, text, device)
    else:
        chosen = _mention(speaker, section, device, is_leaving_out="{but}" in text)
        if chosen is None or not _is_speakable(text, chosen):
            return None
        mention = chosen
        text = _with_mention(text, mention)
    if _SLOT.search(text) or _stutters(text):
        return None
    reading = read(speaker.home, section, mention, text)
    is_few = isinstance(reading, tuple) and len(reading) < 2
    if is_few and mention.number == "all" and speaker.rng.random() < 0.7:
        return None
    actions: tuple[Action, ...] = ()
    if isinstance(reading, tuple):
        actions = act(section, reading, said_values)
    domains = [service.split(".")[0] for service in section.services]
    domain = device.domain if device.domain in domains else domains[0]
    asked = tuple(calls(section, domain, said_values))
    return Clause(" ".join(text.split()), section, form, mention, reading, asked, actions)


def _stutters(text: str) -> bool:
    """Tell whether a sentence says a word twice in a row, as "TV Time time"."""
    said = [stem(word) for word in tokens(text)]
    return any(one == other for one, other in pairwise(said))


def _with_values(
    speaker: Speaker, section: Section, form: Form, device: Device
) -> tuple[str, dict[str, values.Value]]:
    """Put values into a form, and return them by slot."""
    said: dict[str, values.Value] = {}
    text = form.text
    for slot in _SLOT.findall(text):
        if slot not in values.SAY:
            continue
        source = slot
        if slot == "item" and not (tokens(device.name) and is_shopping(device)):
            source = "chore" if speaker.rng.random() < 0.6 else "item"
        words, value = values.SAY[source](speaker.values)
        text = text.replace(f"{{{slot}}}", words)
        said[values.ALIASES.get(slot, slot)] = value
    if section.name == "todo_add_two" and said.get("item") == said.get("item_2"):
        text += "{again}"
    return text, said


def _mention(
    speaker: Speaker, section: Section, device: Device, *, is_leaving_out: bool
) -> Mention | None:
    """Choose how to refer to a device, or to it and others."""
    rng, home = speaker.rng, speaker.home
    if "everything" in section.flags:
        return groups.everything(rng, home, device)
    if is_leaving_out:
        return groups.all_but_one(rng, home, device)
    is_one_of_many = sum(d.kind == device.kind for d in home.devices) >= _MANY
    styles = _STYLES_OF_MANY if is_one_of_many else _STYLES
    style = rng.choices((*styles, None), (*styles.values(), 0.09))[0]
    if "exact" in section.flags or device.kind not in mentions.NOUNS:
        style = mentions.one
    return style(rng, home, device) if style else _together(speaker, section, device)


def _together(speaker: Speaker, section: Section, device: Device) -> Mention | None:
    """Refer to a device and to others that the command is for as well."""
    rng, home = speaker.rng, speaker.home
    kinds = kinds_of(section)
    if rng.random() < 0.3 and (pair := groups.two_of_a_place(rng, home, device, kinds)):
        return pair
    others = [d for d in home.devices if d != device and d.kind in kinds]
    if not others:
        return mentions.one(rng, home, device)
    count = 2 if len(others) > 1 and rng.random() < 0.2 else 1
    devices = [device, *rng.sample(others, count)]
    makers = [
        groups.several if d.kind in mentions.NOUNS and rng.random() < 0.2 else mentions.one
        for d in devices
    ]
    return groups.together(
        rng, [make(rng, home, d) for make, d in zip(makers, devices, strict=True)]
    )


def _is_speakable(text: str, mention: Mention) -> bool:
    """Tell whether the words of a form and of a mention go together."""
    before, _, after = text.partition("{x}")
    if re.search(r"\b(the|my)$", before.rstrip()):
        return not re.match(r"(the|my|all|every|each|both)\b", mention.text)
    # The verb may be what a device is called: "lock the front door lock".
    others = {stem(word) for word in tokens(f"{before} {after}")[1 if before else 0 :]}
    return not mention.words or stem(mention.words[-1]) not in others


def _with_mention(text: str, mention: Mention) -> str:
    """Put a mention into a form."""
    text = text.replace("{x}", mention.text)
    if mention.excluded:
        text = text.replace("{but}", mention.excluded.text)
    text = text.replace("{is}", "are" if mention.is_plural else "is")
    return text.replace("{it}", "them" if mention.is_plural else "it")


def _implied(speaker: Speaker, section: Section, text: str, device: Device) -> tuple[str, Mention]:
    """Put a place into a form that names no device."""
    rng, place = speaker.rng, None
    if "here" in section.flags:
        place = Place("here")
    elif "{room}" in text or "{area}" in text:
        if area := _area(speaker, device, is_inside="{area}" in text):
            place = Place("area", area)
            text = re.sub(r"\{room\}|\{area\}", mentions.area_phrase(area), text)
    elif "{in_or_here}" in text or ("{in}" in text and rng.random() < 0.6):
        place = _place(speaker, device, is_needed="{in_or_here}" in text)
    if place and "here" not in section.flags:
        text = re.sub(r"\{in\}|\{in_or_here\}", mentions.place_phrase(place, rng), text)
    text = text.replace("{in}", "")
    mention = Mention("", (), section.number, place, kinds_of(section))
    return text, replace(mention, said_place=mentions.place_name(place))


def _area(speaker: Speaker, device: Device, *, is_inside: bool) -> str | None:
    """Choose an area: rather the device's, at times another or one that is not there."""
    rng, home = speaker.rng, speaker.home
    chosen = device.area
    if rng.random() < 0.2 and home.areas:
        chosen = rng.choice(home.areas)
    if chosen and (chosen.lower() == "outside" or (is_inside and _is_on(chosen))):
        return None
    return chosen


def _is_on(area: str) -> bool:
    """Tell whether one is on an area, or at it, not in it."""
    return not mentions.place_phrase(Place("area", area), Random(0)).startswith("in ")


def _place(speaker: Speaker, device: Device, *, is_needed: bool) -> Place | None:
    """Choose a place to say behind a command."""
    kind = speaker.rng.random()
    if kind < 0.3 or (is_needed and kind < 0.5):
        return Place("here")
    if kind < 0.5 and device.floor:
        return Place("floor", device.floor)
    area = _area(speaker, device, is_inside=False)
    return Place("area", area) if area else None


def act(
    section: Section, devices: Sequence[Device], said: dict[str, values.Value]
) -> tuple[Action, ...]:
    """Return the actions of a command for the devices that are meant."""
    actions: list[Action] = []
    for domain in dict.fromkeys(device.domain for device in devices):
        targets = [device.id for device in devices if device.domain == domain]
        for service, data in calls(section, domain, said):
            actions.append({"service": service, "target": targets, "data": data})
    return tuple(actions)


def calls(section: Section, domain: str, said: dict[str, values.Value]) -> Iterator[Call]:
    """Yield what a command asks of devices of a domain."""
    fitting = [s for s in section.services if s.split(".")[0] in (domain, "everything")]
    if "each" not in section.flags:
        fitting = fitting[:1]
    for index, name in enumerate(fitting):
        service = name.replace("everything", "light" if domain == "everything" else domain)
        fields = services()[service]["properties"]
        pairs = [(f, v) for f, v in section.data if f in fields]
        if len({f for f, _ in pairs}) < len(pairs):
            pairs = pairs[index : index + 1]
        yield Call(service, {field: _value(value, said) for field, value in pairs})


def _value(value: str, said: dict[str, values.Value]) -> values.Value:
    """Return what a slot was filled with, or what the table says."""
    if value in said:
        return said[value]
    if isinstance(amount := said.get(value.removeprefix("-")), int):
        return -amount
    if value in ("true", "false"):
        return value == "true"
    return int(value) if value.lstrip("-").isdigit() else value


def shortened(first: Clause, second: Clause) -> str | None:
    """Leave out the second's verb where it is the first's: "turn the fan on and the lamp off"."""
    one, other = first.form.text.split(), second.form.text.split()
    is_same = one[0] == other[0] and one[1:2] == other[1:2] == ["{x}"]
    if not is_same or not second.text.startswith(other[0] + " "):
        return None
    return second.text.removeprefix(other[0] + " ")


def corrected(rng: Random, wrong: Clause, right: Clause) -> Clause | None:
    """Say a command for one device, then for another instead."""
    if not right.form.text.endswith("{x}") or wrong.form != right.form:
        return None
    if rng.random() < 0.4:
        joint = rng.choice((", not", " and not"))
        return replace(right, text=f"{right.text}{joint} {wrong.mention.text}")
    joint = rng.choice((", no wait, ", ", no, ", " no i mean ", ", sorry, ", ", i mean "))
    return replace(right, text=f"{wrong.text}{joint}{right.mention.text}")
