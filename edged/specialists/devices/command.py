"""What a model says of a command: what is to be done, and in which words devices were named."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from edged.specialists.devices.kinds import IMPLIED, KINDS, words_for
from edged.specialists.devices.words import is_plural, is_several, single, stem, words_of

MAX_WORDS_CHARACTERS = 80
MAX_COMMANDS = 16
_ARTICLES = frozenset(("the", "teh", "hte"))  # typed in a hurry, too
# "All blinds but the one in the kitchen", "all but Ida's own".
_PRONOUNS = frozenset(("one", "ones", "own", "that", "those"))
# "Morning! The kettle".
_SENTENCE_END = re.compile(r"[!?;]\s+")
_BY_BED = re.compile(
    r"(?:(?<= )|^)([^\W\d_]+) (?:by|beside|next to|near) (?:(?:the|my|our|his|her) )?bed$",
    re.IGNORECASE,
)
# Verbs that may open a door, and do so on no guess.
OPENING = frozenset(("unlock", "open_cover", "set_cover_position", "alarm_disarm"))
_POSSESSIVE = ("'s", "\u2019s")
_QUANTITIES = frozenset(("all", "every", "each", "both"))
_BEFORE_NAMES = _QUANTITIES | {"of", "a", "an", "my", "our", "your", "this", "that"}
_BEFORE_PLACES = frozenset(("in", "on", "at", "the", "my", "our", "of", "floor", "level"))


@dataclass(frozen=True)
class Mention:
    """The words for one device or for several."""

    words: tuple[str, ...] = ()
    """As they were said, without articles."""
    kind: str = ""
    """A word of ``IMPLIED`` where none is named."""
    place: tuple[str, ...] = ()
    """The words for an area or a floor, without prepositions."""
    where: str = ""
    """``here``, ``floor`` (where the asker is), or empty."""
    is_all: bool = False
    is_pair: bool = False
    """Whether two are meant: "both lights"."""

    @cached_property
    def singles(self) -> tuple[str, ...]:
        """Its words without plurals."""
        return tuple(map(single, self.words))

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """Of its words."""
        return tuple(map(stem, self.words))

    @property
    def is_plural(self) -> bool:
        """Whether the last word is one for several."""
        return bool(self.words) and is_several(self.words[-1])


@dataclass(frozen=True, slots=True)
class Command:
    """One thing that is to be done."""

    verb: str
    """A service without its domain: ``turn_on``."""
    mention: Mention
    left_out: Mention | None
    """What is excepted."""
    data: Mapping[str, Any]


def form_of(services: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the JSON schema of what a model says for a prompt.

    Args:
        services: The schema of the data of each service by its name, ``light.turn_on``.

    Raises:
        ValueError: Two services have a field of one name that cannot be one.
    """
    fields: dict[str, Any] = {}
    for parameters in services.values():
        for name, schema in parameters.get("properties", {}).items():
            fields[name] = _joined(name, fields.get(name, schema), schema)
    words = {"type": "string", "minLength": 1, "maxLength": MAX_WORDS_CHARACTERS}
    command = {
        "do": {"enum": sorted({name.partition(".")[2] for name in services})},
        "what": words,
        "kind": {"enum": sorted(IMPLIED)},
        "in": words,
        "where": {"enum": ["here", "floor"]},
        "all": {"const": True},
        "except": words,
        "except_in": words,
    }
    if taken := sorted(command.keys() & fields.keys()):
        raise ValueError(f"{taken[0]}: no field of a service may have this name")
    item = {"type": "object", "properties": command | fields, "required": ["do"]}
    properties = {
        "commands": {"type": "array", "items": item, "maxItems": MAX_COMMANDS},
        "reason": {"enum": ["none"]},
    }
    return {"type": "object", "properties": properties, "required": ["commands"]}


def _joined(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema of the numbers that either allows.

    Raises:
        ValueError: They are of different types.
    """
    if one == other:
        return one
    bounds = {
        "minimum": min(one.get("minimum", 0), other.get("minimum", 0)),
        "maximum": max(one.get("maximum", 0), other.get("maximum", 0)),
    }
    if {**one, **bounds} != {**other, **bounds}:
        raise ValueError(f"{name}: two services have a field of this name, of different types")
    return {**one, **bounds}


def read_command(said: Mapping[str, Any]) -> Command:
    """Return what a model said, of the form of ``form_of``."""
    mention, left_out = _mention(said.get("what", ""), said.get("in", ""), said), None
    if "except" in said:
        left_out = _mention(said["except"], said.get("except_in", ""), {})
        while left_out.words[1:] and left_out.words[0] in _BEFORE_PLACES:  # "in the hall"
            left_out = replace(left_out, words=left_out.words[1:])
        if {*left_out.words} <= _PRONOUNS:
            left_out = replace(left_out, words=mention.words)
        elif left_out.words[-1] in _PRONOUNS:  # "the north one"
            left_out = replace(left_out, words=left_out.words[:-1])
    own = ("do", "what", "kind", "in", "where", "all", "except", "except_in")
    data = {name: value for name, value in said.items() if name not in own}
    return Command(said["do"], mention, left_out, data)


def _mention(what: str, place: str, said: Mapping[str, Any]) -> Mention:
    last = _BY_BED.sub(r"bedside \1", _SENTENCE_END.split(what)[-1] or what)
    words = [word for word in words_of(last) if word not in _ARTICLES]
    is_all = bool(said.get("all"))
    while words and words[0] in _BEFORE_NAMES:
        is_all |= words.pop(0) in _QUANTITIES
    if words[:1] == ["two"] and is_plural(words[-1]):
        words.pop(0)
    # "The aircon's" of "the aircon's fan mode"; "Amira's" is a name.
    if last.lower().endswith(_POSSESSIVE) and stem(words[-1]) in words_for(frozenset(KINDS)):
        words[-1] = single(words[-1])
    places = [word for word in words_of(place) if word not in _BEFORE_PLACES]
    where = "here" if places == ["hear"] else said.get("where", "")
    places = [word for word in places if word != "hear"]
    return Mention(tuple(words), said.get("kind", ""), tuple(places), where, is_all)
