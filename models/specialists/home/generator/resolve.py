"""Which devices are meant: the rules that the labels follow (README.md has them in words).

Rule: what two careful readers could read differently is ``UNCLEAR``, and becomes no example.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from models.specialists.home.generator.homes import KINDS, Device, Home
from models.specialists.home.generator.words import is_alike, stem, stems, tokens


class Verdict(Enum):
    """Why nothing is done."""

    NONE = "none"
    AMBIGUOUS = "ambiguous"
    UNCLEAR = "unclear"


Reading = tuple[Device, ...] | Verdict
Fits = Callable[[Device], bool]

# Nobody means one that stands in another room without saying so.
_OF_A_ROOM = frozenset(
    ["light", "fan", "blind", "curtain", "shade", "shutter", "window", "radiator", "ac"]
)
_DOORS = frozenset(("garage_door", "gate", "lock", "alarm"))


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is said to be."""

    kind: str
    """``area``, ``floor`` or ``here``."""
    name: str = ""
    is_here: bool = False
    """Whether it is the floor where the asker is."""

    def has(self, device: Device, home: Home) -> bool:
        """Tell whether a device is there."""
        if self.kind == "floor":
            return device.floor == self.name
        return device.area == (home.asker if self.kind == "here" else self.name)


@dataclass(frozen=True, slots=True)
class Mention:
    """What a sentence says about the devices that it means."""

    text: str
    words: tuple[str, ...] = ()
    """The words that name them, without articles and ``place``."""
    number: str = "one"
    """``one``, ``many`` ("the lights") or ``all``."""
    place: Place | None = None
    kinds: frozenset[str] = frozenset()
    """What they are, where no name is said."""
    excluded: "Mention | None" = None
    parts: tuple["Mention", ...] = ()
    """Where several are named one after the other."""
    is_plural: bool = False
    said: str = ""
    """The words that name them, as they are said."""
    said_place: str = ""
    """The area or the floor, where it is said apart from these words."""

    @property
    def stems(self) -> frozenset[str]:
        """Stems of its words."""
        return frozenset(stem(word) for word in self.words)


def resolve(home: Home, mention: Mention, fits: Fits, *, is_guarded: bool = False) -> Reading:
    """Return the devices that are meant among those for which the command is.

    Args:
        home: The home, and where the asker is.
        mention: What was said.
        fits: Whether the command is for a device.
        is_guarded: Whether it opens something: then "all" is not enough, nor where the asker is.
    """
    if mention.parts:
        return _resolve_parts(home, mention, fits, is_guarded=is_guarded)
    if mention.place and mention.place.kind == "here" and not home.asker:
        return _nowhere(home, mention, fits)
    found = [device for device in home.devices if fits(device) and _answers(device, mention)]
    found = _of_named_kind(found, mention)
    everywhere = found
    if mention.place:
        found = [device for device in found if mention.place.has(device, home)]
    if not found:
        return _absent(home, mention, everywhere)
    if mention.number == "one":
        reading = _resolve_one(home, mention, found)
    else:
        reading = _resolve_several(home, mention, found, fits)
    if is_guarded and isinstance(reading, tuple):
        reading = _guarded(mention, found, reading)
    if mention.excluded and isinstance(reading, tuple):
        reading = _without(home, mention.excluded, reading)
    return reading


def _is_called_alike(home: Home, mention: Mention, fits: Fits) -> bool:
    """Tell whether something else is called what all of a kind are: a switch "Pond Light"."""
    if not mention.kinds or not mention.words:
        return False
    head = stem(mention.words[-1])
    others = [d for d in home.devices if fits(d) and d.kind not in mention.kinds]
    return any(is_called(d, head) for d in others)


def _resolve_parts(home: Home, mention: Mention, fits: Fits, *, is_guarded: bool) -> Reading:
    """Return the devices of all parts, if each is clear."""
    devices: list[Device] = []
    for part in mention.parts:
        reading = resolve(home, part, fits, is_guarded=is_guarded)
        if not isinstance(reading, tuple) or {*reading} & {*devices}:
            return Verdict.UNCLEAR
        devices += reading
    return tuple(devices)


def _nowhere(home: Home, mention: Mention, fits: Fits) -> Reading:
    """Say what "here" is where nobody knows where the asker is."""
    found = [device for device in home.devices if fits(device) and _answers(device, mention)]
    areas = {device.area for device in found}
    return Verdict.AMBIGUOUS if len(areas) > 1 and None not in areas else Verdict.UNCLEAR


def _answers(device: Device, mention: Mention) -> bool:
    """Tell whether a device may be called so."""
    if mention.kinds:
        return device.kind in mention.kinds
    return bool(mention.words) and mention.stems <= device.vocabulary()


def _of_named_kind(found: list[Device], mention: Mention) -> list[Device]:
    """Keep those that are what the last word says: "the fan" is rather a fan than its light."""
    if mention.kinds or not mention.words:
        return found
    head = stem(mention.words[-1])
    return [device for device in found if is_called(device, head)] or found


def is_called(device: Device, head: str) -> bool:
    """Tell whether a device is what a word says: by its kind, or the last word of its name."""
    last = tokens(device.base or device.name)[-1:]
    return head in stems(KINDS[device.kind].said) or head in map(stem, last)


def _absent(home: Home, mention: Mention, everywhere: Sequence[Device]) -> Reading:
    """Return none, if what was said could not be another's name for something here."""
    if any(device.area is None for device in everywhere) and home.areas:
        return Verdict.UNCLEAR
    known = {word for device in home.devices for word in device.vocabulary()}
    place = mention.place.name if mention.place else ""
    said = mention.stems | {stem(word) for word in tokens(place)}
    if place in (*home.areas, *home.floors):
        said = mention.stems
    near = any(is_alike(word, other) for word in said - known for other in known)
    return Verdict.UNCLEAR if near else Verdict.NONE


def _is_exact(device: Device, mention: Mention) -> bool:
    """Tell whether the whole name was said."""
    area = tokens(device.area or "")
    return mention.words in (name := tokens(device.name), (*area, *name), (*name, *area))


def _is_exact_but_area(device: Device, mention: Mention) -> bool:
    """Tell whether the whole name was said but for the area that it begins with."""
    name, area = tokens(device.name), tokens(device.area or "")
    return bool(area) and name[: len(area)] == area and name[len(area) :] == mention.words


def _is_nearly_exact(device: Device, mention: Mention) -> bool:
    """Tell whether the whole name was said, with other words for what it is, or as a place."""
    kind = stems(KINDS[device.kind].said)
    name, said = stems(device.name) - kind, mention.stems - kind
    if mention.place and mention.place.kind == "area":
        return bool(name) and name in (said, said | stems(mention.place.name))
    return bool(name) and name == said


def _called_so(mention: Mention, found: Sequence[Device]) -> list[Device]:
    """Return the only one of several that has the very word in its name, as in "the lamp".

    Not "light", which everybody says of anything that shines.
    """
    said = mention.words[-1:]
    if not said or said[0] in ("light", "lights"):
        return []
    words = {said[0], f"{said[0]}s"}
    called = [device for device in found if words & {*tokens(device.name)}]
    return called if len(called) == 1 else []


def _is_kind_only(mention: Mention, found: Sequence[Device]) -> bool:
    """Tell whether nothing was said but what it is."""
    said = {stem(word) for device in found for word in KINDS[device.kind].said.split()}
    return bool(mention.kinds) or mention.stems <= said


def _resolve_one(home: Home, mention: Mention, found: list[Device]) -> Reading:
    """Return the one that is meant."""
    is_kind_only = _is_kind_only(mention, found)
    if is_kind_only and len({device.domain for device in found}) > 1 and not mention.kinds:
        return Verdict.UNCLEAR
    here = {d for d in found if d.area == home.asker} if home.asker and not mention.place else set()
    named = _best_named(found, mention)
    if len(named) < len(found) and (is_kind_only or here - {*named}):
        return Verdict.UNCLEAR
    if len(named) > 1:
        nearest = [device for device in named if device in here]
        called_so = _called_so(mention, named)
        if len(nearest) == 1 and called_so in ([], nearest):
            return (nearest[0],)
        return Verdict.UNCLEAR if called_so else Verdict.AMBIGUOUS
    only = named[0]
    is_elsewhere = home.asker and not mention.place and only.area not in (None, home.asker)
    if is_kind_only and is_elsewhere and only.kind in _OF_A_ROOM:
        return Verdict.UNCLEAR
    return (only,)


def _best_named(found: list[Device], mention: Mention) -> list[Device]:
    """Keep those of which the whole name was said, if there are any."""
    if mention.kinds:
        return found
    for test in (_is_exact, _is_exact_but_area, _is_nearly_exact):
        exact = [device for device in found if test(device, mention)]
        if exact:
            return exact
    return found


def _resolve_several(home: Home, mention: Mention, found: list[Device], fits: Fits) -> Reading:
    """Return all that are meant."""
    if _is_called_alike(home, mention, fits):
        return Verdict.UNCLEAR
    if mention.number == "all" or mention.place:
        return tuple(found)
    if any(_is_exact(device, mention) for device in found) and len(found) > 1:
        return Verdict.UNCLEAR
    if not home.asker:
        return tuple(found)
    here = tuple(device for device in found if device.area == home.asker)
    return here or Verdict.UNCLEAR


def _guarded(mention: Mention, found: Sequence[Device], reading: tuple[Device, ...]) -> Reading:
    """Refuse to open doors on "all", and on where the asker is."""
    if not any(device.kind in _DOORS for device in reading):
        return reading
    if mention.number == "all":
        return Verdict.NONE
    is_named = mention.place or any(_is_exact(device, mention) for device in reading)
    if mention.number == "many" or (len(found) > 1 and not is_named):
        return Verdict.UNCLEAR
    return reading


def _without(home: Home, excluded: Mention, reading: tuple[Device, ...]) -> Reading:
    """Leave out the one that was excepted."""
    among = replace(home, devices=reading)
    left_out = resolve(among, excluded, lambda _: True)
    if not isinstance(left_out, tuple) or len(reading) == len(left_out):
        return Verdict.UNCLEAR
    return tuple(device for device in reading if device not in left_out)
