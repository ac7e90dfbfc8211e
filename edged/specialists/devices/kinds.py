"""What a device is, more exactly than its domain, as far as its name says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from edged.specialists.devices.words import singles, stem, stems


@dataclass(frozen=True, slots=True)
class Kind:
    """What people call one."""

    domain: str
    nouns: tuple[str, ...]
    """What one is called by those who do not say its name."""
    hints: tuple[str, ...] = ()
    """Words in names by which one is recognized."""
    also: tuple[str, ...] = ()
    """What one may be called beside, though it is rather what is called so."""


# What blinds, curtains and their like are called together.
_AT_WINDOWS = (
    *("cover", "covering", "treatment"),
    *("window cover", "window covering", "window treatment"),
)
_HEATING = ("heating",)
# What several players may be called, and says of none what it is.
_BRANDS_OF_TVS = ("samsung", "lg", "bravia", "roku", "chromecast", "shield", "xbox")
_BRANDS_OF_SPEAKERS = (
    *("sonos", "homepod", "echo", "alexa", "google", "nest", "bose", "jbl", "denon", "yamaha"),
    "marantz",
)
KINDS = {
    "light": Kind("light", ("light", "lights", "lamp", "lamps")),
    "switch": Kind("switch", ("switch", "plug", "outlet", "socket")),
    "fan": Kind("fan", ("fan", "fans")),
    "blind": Kind(
        "cover",
        ("blind", "blinds", "covering"),
        ("venetian", "roman", "slats", "louvres", "jalousie", "blackout"),
        _AT_WINDOWS,
    ),
    "curtain": Kind(
        "cover",
        ("curtain", "curtains", "drapes"),
        ("sheers", "sheer", "voile", "nets", "portiere", "blackout"),
        _AT_WINDOWS,
    ),
    "shade": Kind(
        "cover",
        ("shade", "shades", "sunshade", "sunshades"),
        ("powerview", "serena", "honeycomb", "blackout"),
        _AT_WINDOWS,
    ),
    "shutter": Kind("cover", ("shutter", "shutters"), ("volet", "rollladen"), _AT_WINDOWS),
    "awning": Kind("cover", ("awning", "awnings"), ("canopy", "sail", "pergola"), ("cover",)),
    "garage_door": Kind("cover", ("garage door", "garage doors"), ("door",)),
    "gate": Kind("cover", ("gate", "gates")),
    "window": Kind("cover", ("window", "windows")),
    "lock": Kind("lock", ("lock", "locks"), also=("door", "doors")),
    "sprinkler": Kind(
        "valve",
        ("sprinkler", "sprinklers", "irrigation"),
        ("watering", "drip", "hose", "lawn", "bed", "beds", "plants", "garden", "zone", "soaker"),
        ("valve", "valves"),
    ),
    "water_main": Kind(
        "valve", ("water valve", "water main"), ("main", "stopcock", "shutoff"), ("water", "valve")
    ),
    "other_valve": Kind("valve", ("valve", "valves", "gas shutoff", "gas main")),
    "vacuum": Kind("vacuum", ("vacuum", "vacuums"), also=("robot", "cleaner")),
    "mower": Kind("lawn_mower", ("mower", "mowers"), also=("lawn", "robot")),
    "tv": Kind(
        "media_player",
        ("tv", "tvs", "television", "telly"),
        (
            *_BRANDS_OF_TVS,
            *("projector", "beamer", "firetv", "oled", "qled", "tcl", "vizio", "screen", "stick"),
            "kodi",
            *("playstation", "hisense", "panasonic", "webos", "monitor", "firestick", "sky"),
            *("toshiba", "sharp", "loewe", "grundig", "tivo", "plex", "optoma", "benq", "epson"),
        ),
    ),
    "speaker": Kind(
        "media_player",
        ("speaker", "speakers"),
        (
            *_BRANDS_OF_SPEAKERS,
            *("soundbar", "stereo", "radio", "hifi", "receiver", "boombox", "dot", "audio"),
            *("turntable", "sound", "music", "spotify", "roam", "amp", "subwoofer", "record"),
            *("mini", "cd", "jukebox", "gramophone", "homepods", "symfonisk", "avr"),
            *("marshall", "harman", "boom", "megaboom", "muso", "naim", "kef", "bluesound", "heos"),
            *("onkyo", "pioneer", "devialet", "beosound", "beoplay", "squeezebox", "wiim"),
            *("volumio", "soundtouch", "soundlink", "libratone"),
        ),
    ),
    "radiator": Kind("climate", ("radiator", "radiators"), ("trv", "valve", "heater"), _HEATING),
    "ac": Kind(
        "climate",
        ("ac", "acs", "air con", "conditioner", "conditioning"),
        (
            *("daikin", "mitsubishi", "fujitsu", "split", "lg", "gree", "midea", "haier", "voltas"),
            *("cooler", "cooling", "hisense", "sensibo", "kirigamine", "samsung", "hitachi"),
        ),
        ("air", "unit"),
    ),
    "thermostat": Kind(
        "climate",
        ("thermostat", "thermostats"),
        (
            *("nest", "ecobee", "hive", "tado", "honeywell", "heating", "evohome", "netatmo"),
            *("wiser", "heatmiser", "vaillant", "viessmann", "plugwise", "furnace", "hvac"),
        ),
        _HEATING,
    ),
    "dehumidifier": Kind("humidifier", ("dehumidifier", "dehumidifiers")),
    "humidifier": Kind("humidifier", ("humidifier", "humidifiers"), ("mister",)),
    "boiler": Kind("water_heater", ("water heater", "boiler"), also=("hot", "water")),
    "siren": Kind("siren", ("siren", "sirens")),
    "alarm": Kind("alarm_control_panel", (), also=("alarm", "panel", "system")),
    "todo": Kind("todo", (), also=("list",)),
    "timer": Kind("timer", (), also=("timer",)),
}
# What is meant by a name that says nothing.
_USUAL = {"humidifier": ("humidifier",), "climate": ("thermostat",)}
# Called by name, and nothing of the name is left out.
PROPER = frozenset(("scene", "script", "button", "input_boolean", "input_button"))
# Of these, one is often said for another.
AT_WINDOWS = frozenset(("blind", "curtain", "shade", "shutter"))
DOORS = frozenset(("garage_door", "gate", "lock", "alarm"))
# What is meant where no device is named, by the word that the model says for it.
IMPLIED = {
    "blind": ("blind", "curtain", "shade"),
    "boiler": ("boiler",),
    "climate": ("thermostat", "radiator", "ac"),
    "everything": ("light", "switch", "fan", "tv", "speaker"),
    "fan": ("fan",),
    "heating": ("thermostat", "radiator"),
    "humidifier": ("humidifier",),
    "light": ("light",),
    "lock": ("lock",),
    "media": ("tv", "speaker"),
    "mower": ("mower",),
    "shopping": ("todo",),
    "speaker": ("speaker",),
    "sprinkler": ("sprinkler",),
    "todo": ("todo",),
    "tv": ("tv",),
    "vacuum": ("vacuum",),
    "water_main": ("water_main",),
}
# Of these, all are meant that fit.
IMPLIED_ALL = frozenset(("blind", "everything", "light", "lock"))
_USUAL_WORDS = frozenset(singles(kind.nouns[0])[-1] for kind in KINDS.values() if kind.nouns)
_KINDS_IN = {
    known.domain: frozenset(kind for kind, one in KINDS.items() if one.domain == known.domain)
    for known in KINDS.values()
}
# The stems of what each kind is called, and of its hints.
_NOUNS, _HINTS, _ALSO = (
    {kind: frozenset(map(stems, getattr(known, listing))) for kind, known in KINDS.items()}
    for listing in ("nouns", "hints", "also")
)
_BRANDS = frozenset((*_BRANDS_OF_TVS, *_BRANDS_OF_SPEAKERS))
_CALLED = {
    words: frozenset(kind for kind in KINDS if words in _NOUNS[kind] | _ALSO[kind])
    for called in (*_NOUNS.values(), *_ALSO.values())
    for words in called
}


def is_usual(word: str) -> bool:
    """Tell whether a word is the usual one for a kind: not "drape", but "curtain"."""
    return word in _USUAL_WORDS


def is_brand(words: tuple[str, ...]) -> bool:
    """Tell whether stems are the brand of a player, and nothing else."""
    return len(words) == 1 and words[0] in _BRANDS


def kinds_of(domain: str, name: str) -> frozenset[str]:
    """Return what a device may be: one kind where its name says so, the usual ones else."""
    possible = possible_kinds(domain, name)
    says_nothing = possible == _kinds_in(domain)
    return frozenset(_USUAL.get(domain, possible)) if says_nothing else possible


@lru_cache(1024)
def possible_kinds(domain: str, name: str) -> frozenset[str]:
    """Return what a device may be: one kind where its name says so, all of its domain else."""
    possible, where = _kinds_in(domain), dict[str, int]()
    for place, word in enumerate(stems(name)):
        where.setdefault(word, place)
    for listing in (_NOUNS, _HINTS):
        # What stands last in a name says more.
        places = {
            kind: max((_place(words, where) for words in listing[kind]), default=-1)
            for kind in possible
        }
        last = max(places.values(), default=-1)
        if last >= 0:
            return frozenset(kind for kind, place in places.items() if place == last)
    return possible


def _kinds_in(domain: str) -> frozenset[str]:
    return _KINDS_IN.get(domain, frozenset())


def _place(words: tuple[str, ...], where: Mapping[str, int]) -> int:
    """Return where words end in a name; -1 where they are not in it."""
    places = [where.get(word, -1) for word in words]
    return -1 if -1 in places else max(places)


@cache
def nouns_of(kinds: frozenset[str]) -> frozenset[str]:
    """Return the stems of what devices of some kinds are."""
    return frozenset(stems(noun)[-1] for kind in kinds for noun in KINDS[kind].nouns)


@cache
def heads_of(kinds: frozenset[str]) -> frozenset[str]:
    """Return the stems by which devices of some kinds are called alone: not "garage" of a door."""
    return nouns_of(kinds) | {stem(word) for kind in kinds for word in KINDS[kind].also}


@cache
def words_for(kinds: frozenset[str]) -> frozenset[str]:
    """Return the stems of all words by which devices of some kinds may be called."""
    return frozenset(map(stem, names_for(kinds)))


@cache
def names_for(kinds: frozenset[str]) -> frozenset[str]:
    """Return the words by which devices of some kinds may be called, without plurals."""
    return frozenset(
        word
        for kind in kinds
        for noun in (*KINDS[kind].nouns, *KINDS[kind].also)
        for word in singles(noun)
    )


def kinds_called(words: tuple[str, ...]) -> frozenset[str]:
    """Return the kinds that some stems are the name of, with nothing else said."""
    return _CALLED.get(words, frozenset())
