"""Values as people say them, and as Home Assistant takes them."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from models.specialists.home.generator.tables import names
from models.specialists.home.generator.words import spoken_number

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Context:
    """What a value depends on beside chance."""

    rng: Random
    split: str
    is_fahrenheit: bool
    is_spoken: bool
    """Whether numbers are rather words."""

    def number(self, number: int) -> str:
        """Say a number."""
        return spoken_number(number) if self.is_spoken else str(number)


Said = tuple[str, Value]
"""What is said, and the value that is meant."""

COLORS = [
    "red",
    "green",
    "blue",
    "yellow",
    "orange",
    "purple",
    "pink",
    "turquoise",
    "cyan",
    "magenta",
    "violet",
    "teal",
    "gold",
    "white",
]
_WHITES = (
    ("warm white", 2700),
    ("warm white", 2700),
    ("cool white", 4000),
    ("cold white", 4000),
    ("daylight", 6500),
)
_QUARTERS = (("a quarter", 25), ("half", 50), ("three quarters", 75))
_QUARTER_SHARE = 0.05
_MODES: dict[str, tuple[Said, ...]] = {
    "level": (("low", 33), ("medium", 66), ("high", 100)),
    "direction": (("reverse", "reverse"), ("forward", "forward")),
    "part": (
        ("halfway", 50),
        ("half way", 50),
        ("half-way", 50),
        *_QUARTERS,
    ),
    "hvac": (
        ("heat", "heat"),
        ("heating", "heat"),
        ("cool", "cool"),
        ("cooling", "cool"),
        ("auto", "auto"),
        ("dry", "dry"),
        ("fan only", "fan_only"),
        ("heat cool", "heat_cool"),
    ),
    "preset": tuple((m, m) for m in ["eco", "away", "comfort", "sleep", "home", "boost"]),
    "fan_mode": tuple((m, m) for m in ["auto", "low", "medium", "high"]),
    "operation": (
        ("eco", "eco"),
        ("electric", "electric"),
        ("performance", "performance"),
        ("high demand", "high_demand"),
        ("heat pump", "heat_pump"),
        ("gas", "gas"),
    ),
}


def _percent(context: Context, low: int, high: int, *, has_unit: bool = False) -> Said:
    """Say a share between two bounds, mostly a round one."""
    rng = context.rng
    quarters = [(said, share) for said, share in _QUARTERS if low <= share <= high]
    if quarters and not has_unit and rng.random() < _QUARTER_SHARE:
        return rng.choice(quarters)
    step = rng.choices((10, 5, 1), (6, 3, 1))[0]
    number = rng.randrange(-(-low // step), high // step + 1) * step
    unit = rng.choices(("%", " percent", " per cent", ""), (5, 5, 0.5, 0 if has_unit else 3))[0]
    if unit == "%" and context.is_spoken:
        unit = " percent"
    return context.number(number) + unit, number


def _temperature(context: Context, *, has_unit: bool = False) -> Said:
    """Say a room's temperature."""
    rng = context.rng
    number: int | float = rng.randint(60, 79) if context.is_fahrenheit else rng.randint(15, 26)
    unit = rng.choices(
        (" degrees", "°", " degrees " + ("fahrenheit" if context.is_fahrenheit else "celsius"), ""),
        (6, 0 if context.is_spoken else 1.5, 0.7, 0 if has_unit else 4),
    )[0]
    text = context.number(int(number))
    if not context.is_fahrenheit and rng.random() < 0.1:
        number += 0.5
        text += " point five" if context.is_spoken else ".5"
    return text + unit, number


def _water(context: Context) -> Said:
    """Say a temperature of hot water."""
    number = context.rng.randrange(*((100, 141, 5) if context.is_fahrenheit else (38, 66)))
    return context.number(number) + context.rng.choice((" degrees", " degrees", "")), number


def _volume(context: Context) -> Said:
    """Say a volume in percent; it is meant as a share of 1."""
    text, number = _percent(context, 10, 100)
    return text, round(float(number) / 100, 2)


def _duration(context: Context) -> Said:
    """Say a time span."""
    kind = context.rng.random()
    if kind < 0.1:
        return context.rng.choice((("half an hour", "00:30:00"), ("an hour", "01:00:00")))
    if kind < 0.2:
        number = context.rng.choice((30, 45, 90))
        return f"{context.number(number)} seconds", f"00:{number // 60:02d}:{number % 60:02d}"
    number = context.rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 45))
    return f"{context.number(number)} minutes", f"00:{number:02d}:00"


def _white(context: Context) -> Said:
    """Say a colour temperature."""
    if context.rng.random() < 0.25:
        kelvin = context.rng.randrange(20, 66, 5) * 100
        unit = context.rng.choice((" kelvin", "k", "K"))
        return f"{kelvin}{' kelvin' if context.is_spoken else unit}", kelvin
    return context.rng.choice(_WHITES)


def _color(context: Context) -> Said:
    """Say a colour."""
    color = context.rng.choice(COLORS)
    return color, color


def _listed(title: str) -> Callable[[Context], Said]:
    """Say something of a list of names."""

    def say(context: Context) -> Said:
        said = context.rng.choice(names(title, context.split))
        return (said.lower() if title == "source" and context.is_spoken else said), said

    return say


def _mode(title: str) -> Callable[[Context], Said]:
    """Say one of a few words."""
    return lambda context: context.rng.choice(_MODES[title])


SAY: dict[str, Callable[[Context], Said]] = {
    "pct": lambda context: _percent(context, 5, 100),
    "percent": lambda context: _percent(context, 5, 100, has_unit=True),
    "step": lambda context: _percent(context, 5, 40, has_unit=True),
    "position": lambda context: _percent(context, 5, 95),
    "hum": lambda context: _percent(context, 30, 65),
    "vol": _volume,
    "temp": _temperature,
    "deg": lambda context: _temperature(context, has_unit=True),
    "water": _water,
    "duration": _duration,
    "white": _white,
    "color": _color,
    "buy": _listed("goods"),
    "item": _listed("goods"),
    "item_2": _listed("goods"),
    "chore": _listed("chore"),
    "source": _listed("source"),
    **{title: _mode(title) for title in _MODES},
}
# Slots that are filled as others.
ALIASES = {"percent": "pct", "deg": "temp"}
