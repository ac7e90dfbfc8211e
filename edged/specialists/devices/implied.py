"""Which devices are meant where none is named: "it's dark in here", "do the floors"."""

from collections.abc import Sequence

from edged.specialists.devices.calling import called
from edged.specialists.devices.command import Mention
from edged.specialists.devices.household import Device, Found, Household, Nothing, Place, only
from edged.specialists.devices.kinds import IMPLIED, IMPLIED_ALL
from edged.specialists.devices.places import is_elsewhere, place_of, there
from edged.specialists.devices.words import is_plural, stem

_SHOPPING = frozenset(("shopping", "grocery", "supermarket"))
_LAWN = frozenset(("lawn", "grass", "meadow"))
_HEATERS = frozenset(("heater", "radiator", "heating"))
_OF_HEATERS = frozenset(
    (
        *("space", "fan", "room", "electric", "oil", "infrared", "ceramic", "panel", "portable"),
        *("convector", "little", "small"),
    )
)
_PLANTS = frozenset(
    (
        *("plant", "planter", "flower", "rose", "tomato", "vegetable", "herb", "hedge", "berry"),
        *("bed", "orchard", "pot"),
    )
)


def implied(home: Household, mention: Mention, able: Sequence[Device]) -> Found:
    """Return the devices of the kind that is meant.

    Args:
        home: All devices, and where the asker is.
        mention: With a kind.
        able: The devices that can do what is asked.
    """
    kinds = frozenset(IMPLIED[mention.kind])
    found = [device for device in able if device.kinds & kinds]
    if mention.kind == "heating" and "climate" not in home.domains:
        found = [device for device in able if _is_heater(device)]
    place = place_of(home, mention)
    if (way := _WAYS.get(mention.kind)) is not None:
        return way(home, mention, found, place)
    if is_elsewhere(home, mention):  # or what was taken for a place is a name
        named = called(home, tuple(map(stem, mention.place)), found)
        is_several = mention.is_all or is_plural(mention.place[-1])
        return tuple(named) or Nothing.NONE if is_several else only(named)
    if mention.where == "here" and place is None:  # nobody knows where that is
        areas = {device.area for device in found}
        return Nothing.AMBIGUOUS if len(areas) > 1 else tuple(found) or Nothing.NONE
    if place is not None:
        found = there(home, mention, place, found)
    # One that is surely of the kind goes before one of which nobody knows what it is.
    found = [device for device in found if device.kinds <= kinds] or found
    if mention.is_pair:
        return home.pair(found)
    is_home = mention.is_all or mention.kind in ("everything", "lock")
    if place is None and not is_home:
        found = home.near(found)
    return (tuple(found) or Nothing.NONE) if mention.kind in IMPLIED_ALL else only(found)


def _is_heater(device: Device) -> bool:
    """Tell whether a plug is that of a heater for rooms: not of a "Block heater"."""
    *words, noun = device.name_words or ("",)
    is_for_rooms = {*words} <= _OF_HEATERS.union(device.area_words)
    return device.domain == "switch" and noun in _HEATERS and is_for_rooms


def _vacuum(
    home: Household, mention: Mention, found: Sequence[Device], place: Place | None
) -> Found:
    """Return the vacuum that is nearest to what is to be cleaned."""
    if len(found) == 1:  # it cleans everywhere
        return tuple(found)
    near = [device for device in found if place is not None and place.has(device)]
    if not near and place is not None:
        floors = {home.floor_of(area) for area in place.areas} - {""}
        near = [device for device in found if device.floor in floors]
    if not near and not mention.place and home.asker:
        near = [device for device in found if device.area == home.asker]
        near = near or [d for d in found if d.floor and d.floor == home.floor_of(home.asker)]
    return only(near or found)


def _sprinkler(
    _home: Household, mention: Mention, found: Sequence[Device], place: Place | None
) -> Found:
    """Return the valve that waters what is said to need water; several, if all were asked for."""
    if place is not None:
        found = [device for device in found if place.has(device)] or found
    names = {device: device.named_stems | device.area_stems for device in found}
    # "The back lawn" where one is called so; "the tomatoes", maybe no name has.
    known = frozenset(mention.stems) & frozenset[str]().union(*names.values())
    found = [device for device, name in names.items() if known <= name] or found
    said = {*mention.stems} & (_LAWN | _PLANTS)
    named = [device for device in found if said & device.named_stems]
    other = _LAWN if said & _PLANTS else _PLANTS if said & _LAWN else frozenset()
    found = named or [device for device in found if not other & device.named_stems]
    if mention.is_all:
        return tuple(found) or Nothing.NONE
    # "Veggie drip" is one; "Horse trough" may be one.
    return only([device for device in found if device.kinds == {"sprinkler"}] or found)


def _list(
    _home: Household, _mention: Mention, found: Sequence[Device], _place: Place | None
) -> Found:
    """Return the list of what is to be bought."""
    return only([one for one in found if _SHOPPING & one.named_stems] or found)


_WAYS = {"vacuum": _vacuum, "sprinkler": _sprinkler, "shopping": _list, "todo": _list}
