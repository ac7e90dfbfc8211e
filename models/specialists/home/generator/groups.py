"""How people refer to several devices at once."""

from dataclasses import replace
from random import Random

from models.specialists.home.generator.homes import Device, Home
from models.specialists.home.generator.mentions import (
    AREA_WORDS,
    NOUNS,
    SIDES,
    area_phrase,
    one,
    place_name,
    place_phrase,
)
from models.specialists.home.generator.resolve import Mention, Place
from models.specialists.home.generator.words import stem, tokens

EVERYTHING = frozenset(("light", "switch", "fan", "tv", "speaker"))
_BUT = ("except", "but", "except for", "apart from", "but not", "other than")


def several(rng: Random, home: Home, device: Device) -> Mention:
    """Refer to all devices of a kind: in a place, in the asker's room, or in the home."""
    single, plural = NOUNS[device.kind]
    place = _place(rng, home, device)
    is_all = rng.random() < 0.5
    where = place_phrase(place, rng) if place else ""
    before = rng.random() < 0.5 and place is not None and not place.is_here
    before = before and place is not None and place.kind != "here"
    if before and place:
        noun, where = f"{place.name.lower()} {plural}", ""
    else:
        noun = plural
    if is_all:
        start = rng.choice(("all the ", "all ", "all of the ", "all the ", "every ", "each "))
        if start in ("every ", "each "):
            noun = noun.removesuffix(plural) + single
        text = f"{start}{noun} {where}"
        if not place and rng.random() < 0.35:
            text += rng.choice(("in the house", "everywhere", "in the whole house", "at home"))
    else:
        text = f"{'the ' if rng.random() < 0.85 else ''}{noun} {where}"
    kinds = frozenset((device.kind,))
    is_plural = not is_all or start not in ("every ", "each ")
    number = "all" if is_all else "many"
    words = tokens(plural)
    said_place = "" if before else place_name(place)
    mention = Mention(" ".join(text.split()), words, number, place, kinds, is_plural=is_plural)
    return replace(mention, said=noun, said_place=said_place)


def both(rng: Random, home: Home, device: Device) -> Mention | None:
    """Refer to two devices of a kind in a place, where there are two."""
    if device.kind not in NOUNS:
        return None
    place = _place(rng, home, device)
    of_kind = [d for d in home.devices if d.kind == device.kind]
    if place:
        of_kind = [d for d in of_kind if place.has(d, home)]
    if len(of_kind) != 2:
        return None
    plural = NOUNS[device.kind][1]
    where = place_phrase(place, rng) if place else ""
    text = " ".join(f"both {plural} {where}".split())
    mention = Mention(text, tokens(plural), "all", place, frozenset((device.kind,)), is_plural=True)
    return replace(mention, said=plural, said_place=place_name(place))


def _place(rng: Random, home: Home, device: Device) -> Place | None:
    """Choose a place where a device is, or none."""
    places: list[Place | None] = [None]
    if device.area:
        places += [Place("area", device.area)] * 2
    if device.floor:
        places += [Place("floor", device.floor)] * 2
    if (home.asker and device.area == home.asker) or (not home.asker and rng.random() < 0.1):
        places.append(Place("here"))
    return rng.choice(places)


def family(rng: Random, home: Home, device: Device) -> Mention | None:
    """Refer to devices of one kind by what their names have in common: "the patio shades"."""
    if device.kind not in NOUNS:
        return None
    said = tokens(device.name)
    same = [d for d in home.devices if d.kind == device.kind and d != device]
    head = next((w for w in said if w not in SIDES and not w.isdigit()), "")
    behind = said[said.index(head) + 1 :] if head else ()
    if behind and (behind[0] in AREA_WORDS or behind[0].isdigit()):
        return None
    siblings = [d for d in same if head and head in tokens(d.name)]
    single, plural = NOUNS[device.kind]
    if not siblings or stem(head) in (stem(single), *map(stem, plural.split())):
        return None
    words = (head, *tokens(plural))
    start = rng.choice(("the ", "all the ", "both ", "the "))
    if start == "both " and len(siblings) != 1:
        start = "the "
    text = f"{head} {plural}"
    return Mention(f"{start}{text}", words, "all", is_plural=True, said=text)


def all_but_one(rng: Random, home: Home, device: Device) -> Mention | None:
    """Refer to all of a kind; the one that is left out is to be said elsewhere."""
    if device.kind not in NOUNS:
        return None
    group = several(rng, home, device)
    if group.number == "many":
        group = replace(group, text=f"all {group.text}", number="all")
    near = [d for d in home.devices if d.kind == device.kind]
    if group.place:
        near = [d for d in near if group.place.has(d, home)]
    if len(near) < 3 or not group.is_plural:
        return None
    excluded = one(rng, home, rng.choice(near))
    if not excluded.text.startswith("the ") and len(excluded.words) < 2:
        return None
    return replace(group, excluded=excluded)


def except_one(rng: Random, home: Home, device: Device) -> Mention | None:
    """Refer to all of a kind but one."""
    group = all_but_one(rng, home, device)
    if group is None or group.excluded is None:
        return None
    joint = rng.choice(_BUT)
    return replace(group, text=f"{group.text} {joint} {group.excluded.text}")


def everything(rng: Random, home: Home, device: Device) -> Mention:
    """Refer to all that can be switched in a place, or to all of it but one."""
    place = _place(rng, home, device)
    where = place_phrase(place, rng) if place else rng.choice(("", "in the house"))
    noun = rng.choice(("everything", "everything", "all devices", "all the devices"))
    text = " ".join(f"{noun} {where}".split())
    mention = Mention(text, (), "all", place, EVERYTHING, is_plural=noun != "everything")
    mention = replace(mention, said_place=place_name(place))
    there = [d for d in home.devices if d.kind in EVERYTHING]
    if rng.random() < 0.7 or not there:
        return mention
    excluded = one(rng, home, rng.choice(there))
    joint = rng.choice(_BUT)
    return replace(mention, text=f"{text} {joint} {excluded.text}", excluded=excluded)


def in_two_places(rng: Random, home: Home, device: Device) -> Mention | None:
    """Refer to all of a kind in two areas: "the lights in the kitchen and the office"."""
    areas = [d.area for d in home.devices if d.kind == device.kind and d.area]
    others = sorted({area for area in areas if area and area != device.area})
    if device.kind not in NOUNS or not device.area or not others:
        return None
    places = [Place("area", device.area), Place("area", rng.choice(others))]
    rng.shuffle(places)
    plural = NOUNS[device.kind][1]
    start = rng.choice(("the ", "all the ", "", "the "))
    first, second = (place_phrase(place, rng) for place in places)
    if rng.random() < 0.4:
        first, second = (place.name.lower() for place in places)
        text = f"{start}{first} and {second} {plural}"
    else:
        preposition = f"{first.split()[0]} "
        if second.startswith(preposition) and rng.random() < 0.7:
            second = second.removeprefix(preposition)
        text = f"{start}{plural} {first} and {second}"
    kinds, words = frozenset((device.kind,)), tokens(plural)
    parts = tuple(
        Mention("", words, "many", place, kinds, said=plural, said_place=place_name(place))
        for place in places
    )
    return Mention(text, parts=parts, is_plural=True)


def two_of_a_place(
    rng: Random, home: Home, device: Device, kinds: frozenset[str]
) -> Mention | None:
    """Refer to what two devices are in one place: "the kitchen light and fan"."""
    near = [
        d
        for d in home.devices
        if d.area == device.area and d.kind in kinds & NOUNS.keys() and d.kind != device.kind
    ]
    if not device.area or device.kind not in NOUNS or not near:
        return None
    nouns = [NOUNS[d.kind][0] for d in (device, rng.choice(near))]
    place = Place("area", device.area)
    parts = tuple(
        Mention("", tokens(noun), place=place, said=noun, said_place=place_name(place))
        for noun in nouns
    )
    if rng.random() < 0.5:
        text = f"{area_phrase(device.area)} {nouns[0]} and {nouns[1]}"
    else:
        text = f"the {nouns[0]} and {rng.choice(('the ', ''))}{nouns[1]} {place_phrase(place, rng)}"
    return Mention(text, parts=parts, is_plural=True)


def together(rng: Random, mentions: list[Mention]) -> Mention:
    """Name several one after the other."""
    texts = [mention.text for mention in mentions]
    if all(text.startswith("the ") for text in texts) and rng.random() < 0.3:
        texts = [texts[0], *(text.removeprefix("the ") for text in texts[1:])]
    text = f"{', '.join(texts[:-1])} and {texts[-1]}"
    return Mention(text, parts=tuple(mentions), is_plural=True)
