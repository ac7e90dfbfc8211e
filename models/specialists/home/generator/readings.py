"""Which devices a command is for, also where it names none."""

from models.specialists.home.generator import groups
from models.specialists.home.generator.homes import KINDS, Device, Home
from models.specialists.home.generator.resolve import Mention, Reading, Verdict, is_called, resolve
from models.specialists.home.generator.tables import Section
from models.specialists.home.generator.words import stems, tokens

_IMPLIED = {
    "media": ("tv", "speaker"),
    "climate": ("thermostat", "radiator", "ac"),
    "heating": ("thermostat", "radiator"),
    "shopping": ("todo",),
}
_SHOPPING = frozenset(["shopping", "grocery", "groceries", "supermarket"])
_LAWN = frozenset(["lawn", "grass", "meadow"])
_PLANTS = frozenset(
    [
        "plant",
        "flower",
        "rose",
        "tomato",
        "vegetable",
        "herb",
        "hedge",
        "berry",
        "planter",
        "bed",
        "orchard",
    ]
)
# What else may help where one thing is too dark, too bright or too warm.
_REMEDIES = frozenset(
    ["light", "switch", "fan", "blind", "curtain", "shade", "shutter", "awning", "window", "ac"]
)


def kinds_of(section: Section) -> frozenset[str]:
    """Return the kinds of devices that a command is for."""
    if section.implied:
        return frozenset(k for said in section.implied for k in _IMPLIED.get(said, (said,)))
    if "everything" in section.flags:
        return groups.EVERYTHING
    if section.kinds:
        return section.kinds
    domains = {service.split(".")[0] for service in section.services}
    return frozenset(kind for kind, traits in KINDS.items() if traits.domain in domains)


def is_shopping(device: Device) -> bool:
    """Tell whether a list is for what is to be bought."""
    return device.kind == "todo" and bool(_SHOPPING & {*tokens(device.name)})


def read(home: Home, section: Section, mention: Mention, text: str) -> Reading:
    """Return which devices a command is for."""
    kinds = kinds_of(section)
    if section.implied:
        return _read_implied(home, section, mention, text)
    is_guarded = "unlock" in section.flags or "doors" in section.flags
    reading = resolve(home, mention, lambda d: d.kind in kinds, is_guarded=is_guarded)
    if _is_named_otherwise(home, mention, kinds, reading):
        return Verdict.UNCLEAR
    if "everything" in section.flags and not _is_everything(home, mention, reading):
        return Verdict.UNCLEAR
    return reading


def _read_implied(home: Home, section: Section, mention: Mention, text: str) -> Reading:
    """Return which devices a command is for that names none."""
    if _says_a_name(home, text):
        return Verdict.UNCLEAR
    if section.implied == {"vacuum"}:
        return _read_vacuum(home, mention)
    if section.implied == {"sprinkler"}:
        return _read_sprinkler(home, text)
    if section.implied == {"shopping"}:
        return _read_shopping(home)
    reading = resolve(home, mention, lambda d: d.kind in kinds_of(section))
    return _checked(home, section, mention, reading)


def _read_shopping(home: Home) -> Reading:
    """Choose the list of what is to be bought."""
    lists = tuple(device for device in home.devices if is_shopping(device))
    if not lists:
        has_other = any(device.kind == "todo" for device in home.devices)
        return Verdict.UNCLEAR if has_other else Verdict.NONE
    return lists if len(lists) == 1 else Verdict.AMBIGUOUS


def _checked(home: Home, section: Section, mention: Mention, reading: Reading) -> Reading:
    """Make unclear what depends on what else there is."""
    kinds = kinds_of(section)
    there = [d for d in home.devices if not mention.place or mention.place.has(d, home)]
    domains = {service.split(".")[0] for service in section.services}
    if reading is Verdict.NONE and (
        any(d.domain in domains or d.area is None for d in there)
        or ("here" in section.flags and any(d.kind in _REMEDIES for d in there))
    ):
        return Verdict.UNCLEAR
    if (
        "light" in kinds
        and not section.data
        and any(is_called(d, "light") for d in there if d.kind == "switch")
    ):
        return Verdict.UNCLEAR
    found = {d.kind for d in there if d.kind in kinds}
    is_of_room = mention.place is not None or home.asker is not None
    if "climate" in domains and reading is Verdict.AMBIGUOUS and (len(found) > 1 or is_of_room):
        return Verdict.UNCLEAR
    if "todo" in domains and reading is Verdict.AMBIGUOUS and sum(map(is_shopping, there)) == 1:
        return Verdict.UNCLEAR
    if section.name == "fan_on" and reading is Verdict.AMBIGUOUS and home.asker:
        return Verdict.UNCLEAR
    return reading


def _is_named_otherwise(
    home: Home, mention: Mention, kinds: frozenset[str], reading: Reading
) -> bool:
    """Tell whether the words are the name of a device that the command is not for."""
    parts = mention.parts or (mention,)
    others = {tokens(d.name) for d in home.devices if d.kind not in kinds}
    own = {tokens(d.name) for d in home.devices if d.kind in kinds}
    return reading is not Verdict.NONE and any(
        part.words in others and part.words not in own for part in parts
    )


def _says_a_name(home: Home, text: str) -> bool:
    """Tell whether a command that names nothing has the name of a device in it after all."""
    said = f" {' '.join(tokens(text))} "
    names = [" ".join(tokens(d.name)) for d in home.devices if d.kind in ("scene", "script")]
    return any(f" {name} " in said for name in names)


def _read_vacuum(home: Home, mention: Mention) -> Reading:
    """Choose the vacuum that is nearest to what is to be cleaned."""
    found = [device for device in home.devices if device.kind == "vacuum"]
    if not found:
        return Verdict.NONE
    place = mention.place
    area = place.name if place and place.kind == "area" else home.asker
    floor = place.name if place and place.kind == "floor" else home.floor_of(area)
    if len(found) == 1:
        is_elsewhere = place and floor and found[0].floor not in (None, floor)
        return Verdict.UNCLEAR if is_elsewhere else tuple(found)
    near = [d for d in found if area and d.area == area and not (place and place.kind == "floor")]
    if not place and near:
        return Verdict.UNCLEAR
    if not near and place:
        near = [d for d in found if floor and d.floor == floor]
    return tuple(near) if len(near) == 1 else Verdict.AMBIGUOUS


def _read_sprinkler(home: Home, text: str) -> Reading:
    """Choose the valve that waters what is said to need water."""
    found = [device for device in home.devices if device.kind == "sprinkler"]
    said = stems(text)
    if not found:
        has_other = any(d.kind in ("switch", "script") for d in home.devices)
        return Verdict.UNCLEAR if has_other else Verdict.NONE
    other = _LAWN if said & _PLANTS else _PLANTS if said & _LAWN else frozenset()
    fitting = [d for d in found if not stems(d.name) & other]
    if not fitting:
        return Verdict.UNCLEAR
    return tuple(fitting) if len(fitting) == 1 else Verdict.AMBIGUOUS


def _is_everything(home: Home, mention: Mention, reading: Reading) -> bool:
    """Tell whether "everything" is a few things that can all be turned off."""
    there = [d for d in home.devices if not mention.place or mention.place.has(d, home)]
    unsure = ("climate", "humidifier", "valve", "water_heater", "siren", "input_boolean")
    if not isinstance(reading, tuple):
        return reading is Verdict.AMBIGUOUS
    return 1 < len(reading) < 9 and not any(d.domain in unsure for d in there)
