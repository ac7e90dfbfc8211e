"""Homes as people set them up: areas on floors, and devices with names of every style."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from models.specialists.home.generator.tables import names
from models.specialists.home.generator.words import stems, tokens


@dataclass(frozen=True, slots=True)
class Kind:
    """What a device is, more exactly than its domain."""

    domain: str
    said: str
    """What one is called: the stems of these words are understood as well as its name."""
    weight: float = 1.0
    """How many there are in a home, beside the others."""
    areas: tuple[str, ...] = ("indoor", "bedroom", "wet", "cellar")
    """Kinds of areas where it may stand; none where it has no place."""


_ROOMS = ("indoor", "bedroom")
KINDS = {
    "light": Kind("light", "light", 9, (*_ROOMS, "wet", "cellar", "outdoor")),
    "switch": Kind("switch", "", 3.5, (*_ROOMS, "cellar")),
    "fan": Kind("fan", "fan", 2, (*_ROOMS, "wet")),
    "blind": Kind("cover", "blind", 1.5, _ROOMS),
    "curtain": Kind("cover", "curtain", 1.2, _ROOMS),
    "shade": Kind("cover", "shade", 1.0, (*_ROOMS, "outdoor")),
    "shutter": Kind("cover", "shutter", 0.8, _ROOMS),
    "awning": Kind("cover", "awning", 0.3, ("outdoor",)),
    "garage_door": Kind("cover", "garage door", 0.6, ("cellar",)),
    "gate": Kind("cover", "gate", 0.4, ("outdoor",)),
    "window": Kind("cover", "window", 0.3, _ROOMS),
    "lock": Kind("lock", "lock", 1.6, ("indoor", "outdoor", "cellar")),
    "sprinkler": Kind("valve", "sprinkler", 0.7, ("outdoor",)),
    "water_main": Kind("valve", "water valve", 0.3, ("cellar", "wet")),
    "other_valve": Kind("valve", "valve", 0.25, ("cellar",)),
    "vacuum": Kind("vacuum", "vacuum", 1.0, ("indoor",)),
    "mower": Kind("lawn_mower", "mower", 0.4, ("outdoor",)),
    "tv": Kind("media_player", "tv", 1.4, _ROOMS),
    "speaker": Kind("media_player", "speaker", 1.8, (*_ROOMS, "outdoor")),
    "thermostat": Kind("climate", "thermostat", 1.3, _ROOMS),
    "radiator": Kind("climate", "radiator", 0.5, (*_ROOMS, "wet")),
    "ac": Kind("climate", "ac", 0.6, _ROOMS),
    "humidifier": Kind("humidifier", "humidifier", 0.5, _ROOMS),
    "dehumidifier": Kind("humidifier", "dehumidifier", 0.25, ("cellar", "wet")),
    "boiler": Kind("water_heater", "water heater", 0.4, ("cellar", "wet")),
    # For these there is no command; they stand in between.
    "sensor": Kind("sensor", "", 0.9, (*_ROOMS, "wet", "outdoor")),
    "detector": Kind("binary_sensor", "", 0.7, (*_ROOMS, "cellar", "outdoor")),
    "camera": Kind("camera", "", 0.3, ("indoor", "outdoor")),
    "scene": Kind("scene", "", 1.2, ()),
    "script": Kind("script", "", 0.6, ()),
    "button": Kind("button", "", 0.5, ()),
    "siren": Kind("siren", "siren", 0.25, ("indoor", "outdoor")),
    "toggle": Kind("input_boolean", "", 0.6, ()),
    "todo": Kind("todo", "", 0.8, ()),
    "timer": Kind("timer", "", 0.3, ()),
    "alarm": Kind("alarm_control_panel", "", 0.4, ()),
}
# These are called by name, and nothing of the name is left out.
PROPER = frozenset(("scene", "script", "button", "toggle"))
AREA_TYPES = ("indoor", "bedroom", "wet", "cellar", "outdoor")
_AREA_WEIGHTS = (5, 4, 1, 0.9, 1.6)
_UPPER = ("upstairs", "upper", "first", "second", "top", "third", "mezzanine")
# There is mostly one of these in a home, or its name says enough: it has seldom an area's name.
SELF_SAID = frozenset(
    [
        "vacuum",
        "mower",
        "lock",
        "sprinkler",
        "water_main",
        "other_valve",
        "garage_door",
        "gate",
        "awning",
        "boiler",
        "siren",
    ]
)
_MAX_TRIES = 30


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a home, with what only its owner knows."""

    id: str
    name: str
    kind: str
    area: str | None = None
    floor: str | None = None
    base: str = ""
    """The name without area, side and what else was added."""

    @property
    def domain(self) -> str:
        """What it is to Home Assistant."""
        return KINDS[self.kind].domain

    def vocabulary(self) -> frozenset[str]:
        """Return the stems of all words by which it may be called."""
        return stems(f"{self.name} {self.area or ''} {KINDS[self.kind].said}")

    def as_json(self) -> dict[str, str]:
        """Return it as a request has it."""
        place = {"area": self.area, "floor": self.floor}
        return {"id": self.id, "name": self.name} | {k: v for k, v in place.items() if v}


@dataclass(frozen=True, slots=True)
class Home:
    """A home, and where in it the asker is."""

    devices: tuple[Device, ...]
    asker: str | None = None

    @property
    def areas(self) -> tuple[str, ...]:
        """Areas of the devices."""
        return tuple(dict.fromkeys(d.area for d in self.devices if d.area))

    @property
    def floors(self) -> tuple[str, ...]:
        """Floors of the devices."""
        return tuple(dict.fromkeys(d.floor for d in self.devices if d.floor))

    def floor_of(self, area: str | None) -> str | None:
        """Return the floor of an area."""
        return next((d.floor for d in self.devices if area and d.area == area), None)

    def inputs(self) -> dict[str, object]:
        """Return the inputs of a request."""
        asker = {"area": self.asker} if self.asker else {}
        return {**asker, "devices": [device.as_json() for device in self.devices]}


@dataclass(slots=True)
class _Plan:
    """A home that is being set up."""

    split: str
    areas: dict[str, str]
    """Kind of each area."""
    floors: dict[str, str]
    area_in_name: float
    """How likely a name begins with its area."""
    case: str
    devices: list[Device] = field(default_factory=list)
    is_complete: bool = True
    """Whether each device has its area."""
    has_areas: bool = True
    """Whether areas are more than the first words of names."""


def make_home(rng: Random, split: str, size: int, kinds: Sequence[str]) -> Home:
    """Set up a home of ``size`` devices, among them one of each of ``kinds``."""
    plan = _plan(rng, split, size, kinds)
    wanted = list(kinds[:size])
    while len(plan.devices) < size:
        if wanted:
            _add(rng, plan, wanted.pop())
        elif plan.devices and rng.random() < 0.18:
            _add_sibling(rng, plan)
        else:
            _add(rng, plan, _any_kind(rng, plan))
    devices = plan.devices
    if not plan.has_areas:
        devices = [replace(device, area=None, floor=None) for device in devices]
    if rng.random() < 0.5:
        rng.shuffle(devices)
    else:
        key = rng.choice((lambda d: d.area or "", lambda d: d.id))
        devices.sort(key=key)
    return Home(tuple(devices))


def _plan(rng: Random, split: str, size: int, kinds: Sequence[str]) -> _Plan:
    """Choose areas, floors and the owner's habits."""
    count = max(1, min(12, round(size / rng.uniform(1.6, 3.6))))
    areas: dict[str, str] = {}
    needed = [t for kind in kinds if (t := KINDS[kind].areas) and rng.random() < 0.9]
    for types in needed[:count]:
        area_type = rng.choice(types)
        areas.setdefault(rng.choice(names(f"area {area_type}", split)), area_type)
    while len(areas) < count:
        area_type = rng.choices(AREA_TYPES, _AREA_WEIGHTS)[0]
        areas.setdefault(rng.choice(names(f"area {area_type}", split)), area_type)
    habits = rng.choice((0.0, 0.15, 0.5, 0.95))
    case = rng.choices(("title", "sentence", "lower"), (7, 3, 1))[0]
    floors = _floors(rng, split, areas) if count > 1 and rng.random() < 0.6 else {}
    plan = _Plan(split, areas, floors, habits, case)
    plan.is_complete = rng.random() < 0.85
    if rng.random() < 0.07:
        plan.has_areas, plan.area_in_name = False, 0.9
    return plan


def _floors(rng: Random, split: str, areas: dict[str, str]) -> dict[str, str]:
    """Put areas on floors, bedrooms rather on an upper one."""
    upper: list[str] = []
    lower: list[str] = []
    for name in names("floor", split):
        (upper if name.lower().split()[0] in _UPPER else lower).append(name)
    floors = [rng.choice(lower), rng.choice(upper)]
    if rng.random() < 0.25:
        floors.append(rng.choice([name for name in (*upper, *lower) if name not in floors]))
    chosen = {}
    for area, area_type in areas.items():
        if area_type == "outdoor":
            if rng.random() < 0.3:
                chosen[area] = floors[0]
        elif area_type == "bedroom" and rng.random() < 0.8:
            chosen[area] = floors[1]
        else:
            chosen[area] = rng.choice((floors[0], *floors))
    return chosen


def _any_kind(rng: Random, plan: _Plan) -> str:
    """Choose a kind of device for which there is a place."""
    types = set(plan.areas.values())
    fitting = [k for k, kind in KINDS.items() if not kind.areas or types & {*kind.areas}]
    return rng.choices(fitting, [KINDS[kind].weight for kind in fitting])[0]


def _base_name(rng: Random, kind: str, split: str) -> tuple[str, str]:
    """Return what a device is called, and the part that tells it from others of its kind."""
    whole = names(f"{kind} whole", split)
    nouns = names(f"{kind} noun", split)
    if whole and (not nouns or rng.random() < 0.2):
        return rng.choice(whole), ""
    noun, mod = rng.choice(nouns), rng.choice(names(f"{kind} mod", split))
    if rng.random() < 0.25:
        return noun, ""
    return f"{mod} {noun}", mod


def _add(rng: Random, plan: _Plan, kind: str) -> None:
    """Add a device of a kind, if a name for it is free."""
    fitting = [a for a, t in plan.areas.items() if t in KINDS[kind].areas]
    if not fitting and KINDS[kind].areas:
        fitting = list(plan.areas)
    for _ in range(_MAX_TRIES):
        area = rng.choice(fitting) if fitting else None
        if area and not plan.is_complete and rng.random() < 0.15:
            area = None
        base, mod = _base_name(rng, kind, plan.split)
        name = _with_side(rng, plan, kind, _with_place(rng, plan, kind, (area, base, mod)))
        if _is_free(plan, name, area):
            _append(rng, plan, Device("", _in_case(rng, name, plan.case), kind, area, base=base))
            return


def _with_place(rng: Random, plan: _Plan, kind: str, named: tuple[str | None, str, str]) -> str:
    """Put the area or the floor before a name, as its owner likes it."""
    area, base, mod = named
    floor = plan.floors.get(area or "")
    if kind == "vacuum" and floor and " " not in base and rng.random() < 0.3:
        return f"{floor} {base}"
    is_said = {*tokens(area or "")} & {*tokens(base)}
    if area and not is_said and rng.random() < _area_chance(plan, kind, mod):
        return f"{area} {base}"
    return base


def _with_side(rng: Random, plan: _Plan, kind: str, name: str) -> str:
    """Put behind a name what tells it from another, at times in a hurry."""
    style = rng.random()
    if style > 0.07 or kind in PROPER:
        return name
    side = rng.choice(names("side", plan.split))
    if style < 0.02:
        return f"{name} {side.upper()} {rng.choice(('new', 'old', 'test'))}"
    return f"{name} {side}"


def _area_chance(plan: _Plan, kind: str, mod: str) -> float:
    """Return how likely a name begins with its area."""
    if kind in SELF_SAID:
        return plan.area_in_name * 0.15
    return plan.area_in_name if mod else min(1, plan.area_in_name + 0.3)


def _add_sibling(rng: Random, plan: _Plan) -> None:
    """Add a device that is named like one that is there, and a little different."""
    model = rng.choice(plan.devices)
    if model.kind in PROPER or not KINDS[model.kind].areas:
        return
    sides = names("side", plan.split)
    if {*model.name.lower().split()} & {side.lower() for side in sides}:
        return
    side = rng.choice(sides)
    first = side if rng.random() < 0.25 and not side.isdigit() and len(side) > 1 else ""
    name = f"{first} {model.name}" if first else f"{model.name} {side}"
    if _is_free(plan, name, model.area):
        _append(rng, plan, Device("", name, model.kind, model.area, base=model.base))


def _is_free(plan: _Plan, name: str, area: str | None) -> bool:
    """Tell whether a name is new, or new in its area and said with it."""
    if any(d.area == area and _bare(d.name, area) == _bare(name, area) for d in plan.devices):
        return False
    same = [d for d in plan.devices if tokens(d.name) == tokens(name)]
    if not same:
        return not _names_another_area(plan, name, area)
    places = [area, *(d.area for d in same)]
    return plan.has_areas and None not in places and len({*places}) == len(places)


def _bare(name: str, area: str | None) -> tuple[str, ...]:
    """Return the words of a name without those of its area that it begins with."""
    said, first = tokens(name), tokens(area or "")
    return said[len(first) :] if first and said[: len(first)] == first else said


def _names_another_area(plan: _Plan, name: str, area: str | None) -> bool:
    """Tell whether a name begins with an area where its device is not."""
    said = tokens(name)
    return any(said[: len(t := tokens(a))] == t for a in plan.areas if a != area)


def _append(rng: Random, plan: _Plan, device: Device) -> None:
    """Give a device its floor and its identifier."""
    floor = plan.floors.get(device.area or "")
    slug = "_".join(tokens(device.name))
    if device.area and rng.random() < 0.15 and not slug.startswith(tokens(device.area)[0]):
        slug = "_".join(tokens(device.area)) + "_" + slug
    elif rng.random() < 0.06:
        slug = f"{rng.choice(('0x', 'shelly', 'node', 'zb'))}{rng.randrange(16**4):04x}"
    domain, taken = KINDS[device.kind].domain, {d.id for d in plan.devices}
    number, identifier = 1, f"{domain}.{slug}"
    while identifier in taken:
        number += 1
        identifier = f"{domain}.{slug}_{number}"
    plan.devices.append(
        Device(identifier, device.name, device.kind, device.area, floor, device.base)
    )


def _in_case(rng: Random, name: str, case: str) -> str:
    """Write a name as its owner writes names."""
    if case == "lower":
        return name.lower()
    if case == "sentence":
        words = name.split()
        return " ".join(
            [words[0], *(w if re.search("[A-Z]{2}|'s", w) else w.lower() for w in words[1:])]
        )
    if rng.random() < 0.015:
        return name.replace(" ", "_").lower() if rng.random() < 0.5 else name.upper()
    return name
