"""Values that a prompt says, of which a model wrote a part: items, half degrees, whites."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TypeGuard

from edged.specialists.devices.calling import called
from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.household import Household
from edged.specialists.devices.words import Speller, single, stem
from edged.specialists.hearing import NUMBER_WORDS, number_words

_OF_LISTS = frozenset(("add_item", "remove_item", "update_item"))
_VERBS = frozenset(
    (
        *("add", "buy", "check", "cross", "cut", "delete", "drop", "erase", "get", "mark", "order"),
        *("put", "remove", "scratch", "strike", "take", "tick"),
    )
)
_PRONOUNS = frozenset(("it", "them", "that", "this", "those"))
_LIST = "list"
_ON, _W = r"(?:on|onto|to|in|into|under)(?: (?:the|my|our|your))?", r"\W+"
_MORE = r"((?: [^\s,.;:!?]+){1,6}?)"
_AMOUNT = rf"\b(?:\d+|an?|half an?|{'|'.join(NUMBER_WORDS)}) [^\W\d_]+ of "
_REMOVED = r"\b(?:get rid of|remove|delete|erase) (?:the |my |our )?"
# No part of an item: "jot milk down on the list".
_NO_ITEM = frozenset(
    (
        *("and", "then", "also", "plus", "or", "please", "too", "back", "again", "down", "up"),
        *("added", "put", "written", "noted", "to", "on", "onto", "under"),
    )
)
_KELVIN = {"warm white": 2700, "cool white": 4000, "cold white": 4000, "daylight": 6500}
_COLORS = frozenset(
    (
        *("red", "green", "blue", "yellow", "orange", "purple", "pink", "turquoise", "cyan"),
        *("magenta", "violet", "teal", "gold", "white"),
    )
)
_UNITS = frozenset(("percent", "per", "cent", "degree", "degrees"))
# What is meant by a number alone, by the field that has it.
_KINDS = {
    "brightness_pct": "light",
    "brightness_step_pct": "light",
    "percentage": "fan",
    "temperature": "climate",
    "volume_level": "media",
}
_SHARES = (("quarter",), ("half",), ("third",))
_THEM = frozenset(("it", "them"))
_OF_BRIGHTNESS = re.compile(
    r"bright|dim|%|per ?cent|\b(?:half|full|quarter|third|max|min|low|high)"
)
_DIGITS = re.compile(r"\d+")
# "Quit the swinging of the fan", "stop the fan oscillating".
_STILL = re.compile(
    r"\b(?:stop|quit|end|cease|no more) (?:(?!and |then |but |start)\w+ ){0,4}"
    r"(?:swing|oscillat|rotat|swivel)(?:ing|ion)\b"
)
# Which way a lamp goes. "But not too bright" says it of one that is turned up.
_BRIGHTER = re.compile(r"\b(?:less|not (?:as|so|that|too)|too) (?:dim|dark|gloomy)\b")
_DARKER = re.compile(r"\b(?:less|not (?:as|so|that)|(?<!not )too) bright\b")
_HEAT_COOL = re.compile(r"\bheat[ /-]cool\b")
_WHITES = re.compile(rf"\b(?:{'|'.join(_KELVIN)})\b")


def with_item(command: Command, prompt: str, home: Household) -> Command:
    """Return a command for a list with the item that a prompt says.

    Args:
        command: Of any kind.
        prompt: All that was said.
        home: With its lists.
    """
    if command.verb not in _OF_LISTS:
        return command
    item = _without_verb(str(command.data.get("item", "")), prompt)
    mention = command.mention
    if mention.words and not _names_a_list(mention.stems, home):
        is_item = not {*item.lower().split()} - _VERBS - _PRONOUNS
        item = as_it_stands(mention.words, prompt) if is_item else item
        # "Milk on the wine list" is for no list that is here.
        if is_item or called(home, mention.stems, home.devices):
            mention = replace(mention, words=(), kind="shopping")
    data = {**command.data, "item": item} if item else command.data
    verb = command.verb
    if verb == "add_item" and item and _is_removed(item, prompt):
        verb = "remove_item"
    return replace(command, verb=verb, mention=mention, data=data)


def _is_removed(item: str, prompt: str) -> bool:
    return re.search(rf"{_REMOVED}{re.escape(item)}\b", prompt, re.IGNORECASE) is not None


def with_next_item(commands: Sequence[Command], prompt: str, home: Household) -> list[Command]:
    """Return commands; of "milk on the list, and tea", the second item is no name of a list."""
    made = [*commands[:1]]
    for command in commands[1:]:
        before, mention = made[-1], command.mention
        is_again = (before.verb, before.data) == (command.verb, command.data)
        if not is_again or command.verb not in _OF_LISTS or not _is_item(mention, prompt, home):
            made.append(command)
            continue
        data = {**command.data, "item": as_it_stands(mention.words, prompt)}
        made.append(replace(before, data=data))
    return made


def _is_item(mention: Mention, prompt: str, home: Household) -> bool:
    """Tell whether a mention is of no list, and does not stand where one would."""
    if not mention.words or _names_a_list(mention.stems, home):
        return False
    said = rf"\b{_ON} {re.escape(as_it_stands(mention.words, prompt))}\b"
    return not re.search(said, prompt, re.IGNORECASE)


def with_whole_item(commands: Sequence[Command], prompt: str) -> list[Command]:
    """Return commands, the only item of which is as long as the prompt says.

    It goes on as far as the words for the list, "ring the surgery about my knee", and has its
    amount: "two kilos of flour".
    """
    added = [one for one in commands if one.verb == "add_item" and one.data.get("item")]
    if len(added) != 1:
        return [*commands]
    item, words = str(added[0].data["item"]), added[0].mention.words or (_LIST,)
    said = rf"({_AMOUNT})?\b{re.escape(item)}(?:{_MORE} {_ON} {_W.join(map(re.escape, words))}\b)?"
    found = re.search(said, prompt, re.IGNORECASE)
    amount, more = (found[1] or "", found[2] or "") if found else ("", "")
    more = more if _NO_ITEM.isdisjoint(more.lower().split()) else ""
    whole = {**added[0].data, "item": amount + item + more}
    return [replace(one, data=whole) if one is added[0] else one for one in commands]


def _without_verb(item: str, prompt: str) -> str:
    """Return an item without the verb with which a prompt begins: "take eggs off the list"."""
    verb, _, rest = item.partition(" ")
    is_first = prompt.lower().startswith(verb.lower())
    return rest if rest and is_first and verb.lower() in _VERBS else item


def _names_a_list(said: Collection[str], home: Household) -> bool:
    names = (one.name_stems for one in home.devices if one.domain == "todo")
    known = {_LIST, *(word for name in names for word in name)}
    return bool(known & {*home.speller.repaired(tuple(map(stem, said)))})


def as_it_stands(words: tuple[str, ...], prompt: str) -> str:
    """Return words with the capitals and signs that they have in a prompt."""
    letters = ("['\u2019]?".join(map(re.escape, word)) for word in words)  # "Barry's"
    found = re.search(_W.join(letters), prompt, re.IGNORECASE)
    return found.group() if found else " ".join(words)


def with_values(command: Command, prompt: str) -> Command:
    """Return the only command with the values that a prompt says otherwise."""
    if "hvac_mode" in command.data and _HEAT_COOL.search(prompt.lower()):
        command = replace(command, data={**command.data, "hvac_mode": "heat_cool"})
    return with_white(with_half(command, prompt), prompt)


def with_half(command: Command, prompt: str) -> Command:
    """Return a command for half a degree more where that was said: "twenty and a half"."""
    degrees = command.data.get("temperature")
    if not isinstance(degrees, int):
        return command
    said = rf"\b(?:{degrees}|{number_words(degrees)})(?: and a half|\.5| point (?:5|five))\b"
    if not re.search(said, prompt.lower()):
        return command
    return replace(command, data={**command.data, "temperature": degrees + 0.5})


def with_white(command: Command, prompt: str) -> Command:
    """Return a command with the white that a prompt says, if a white was meant."""
    said = {*_WHITES.findall(prompt.lower())}
    is_white = "color_temp_kelvin" in command.data or command.data.get("color_name") == "white"
    is_number = str(command.data.get("color_temp_kelvin", "")) in _DIGITS.findall(prompt)
    if len(said) != 1 or not is_white or is_number:
        return command
    data = {name: value for name, value in command.data.items() if name != "color_name"}
    return replace(command, data={**data, "color_temp_kelvin": _KELVIN[said.pop()]})


def with_color(command: Command, home: Household) -> Command:
    """Return a command for a light with the color that was written as a place, or in its name.

    Args:
        command: Of any kind.
        home: Of which a word may be like a color: "bed write" is the right one.
    """
    mention, is_place = command.mention, len(command.mention.place) == 1
    last = mention.place if is_place else mention.words[1:][-1:]
    is_colored = any(name.startswith("color") for name in command.data)
    if command.verb != "turn_on" or is_colored or not last:
        return command
    (color, *_) = Speller(_COLORS).repaired(last)
    is_known = home.known.issuperset(home.speller.repaired([*map(single, last)]))
    if is_known or color not in _COLORS:
        return command
    words = mention.words if is_place else mention.words[:-1]
    mention = replace(mention, words=words, place=() if is_place else mention.place)
    return replace(command, mention=mention, data={**command.data, "color_name": color})


def without_unsaid(command: Command, prompt: str) -> Command:
    """Return a command without a brightness that was made of the number for a color's warmth."""
    level = command.data.get("brightness_pct")
    kelvin = str(command.data.get("color_temp_kelvin", ""))
    text = prompt.lower()
    said = {*_DIGITS.findall(text)}
    is_said = not _is(level) or str(level) in said or number_words(round(level)) in text
    if is_said or kelvin not in said or _OF_BRIGHTNESS.search(text):
        return command
    data = {name: value for name, value in command.data.items() if name != "brightness_pct"}
    return replace(command, data=data)


def without_numbers(
    commands: Sequence[Command], said: tuple[str, ...], known: Collection[str]
) -> list[Command]:
    """Return commands with no device where only a number was written: "twenty" of "by twenty".

    Args:
        commands: Of any kind.
        said: All that was said; "it" is what the command before is for.
        known: Words of the home.
    """
    made: list[Command] = []
    for command in commands:
        other = _without_number(command, known)
        is_it = made and other is not command and not _THEM.isdisjoint(said)
        if is_it and made[-1].verb == command.verb and made[-1].mention.words:
            other = replace(command, mention=made[-1].mention)
        made.append(other)
    return made


def _without_number(command: Command, known: Collection[str]) -> Command:
    words = tuple(word for word in command.mention.words if word not in _UNITS)
    kinds = [_KINDS[name] for name in command.data if name in _KINDS]
    if words not in (*_SHARES, *_numbers(command)) or {*words} & {*known} or not kinds:
        return command
    return replace(command, mention=replace(command.mention, words=(), kind=kinds[0]))


def _numbers(command: Command) -> Iterator[tuple[str, ...]]:
    for name, value in command.data.items():
        number = round(abs(value) * (100 if name == "volume_level" else 1)) if _is(value) else 0
        yield from (tuple(number_words(number).split()), (str(number),))


def _is(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def not_swinging(command: Command, prompt: str) -> Command:
    """Return a command; "quit the swinging" stops a fan that was to oscillate."""
    if command.verb != "oscillate" or not _STILL.search(prompt.lower()):
        return command
    return replace(command, data={"oscillating": False})


def with_level(command: Command, prompt: str) -> Command:
    """Return a command for a brightness where a step was written: "down to ten percent"."""
    step = command.data.get("brightness_step_pct")
    if not isinstance(step, int):
        return command
    level = abs(step)
    if not re.search(rf"\bto (?:{level}|{number_words(level)})\b", prompt.lower()):
        return command
    data = {name: value for name, value in command.data.items() if name != "brightness_step_pct"}
    return replace(command, data={**data, "brightness_pct": level})


def with_direction(commands: Sequence[Command], prompt: str) -> list[Command]:
    """Return commands, the only step of which goes as the prompt says: "not so bright" is down."""
    steps = [one for one in commands if _is(one.data.get("brightness_step_pct"))]
    is_up, is_down = _BRIGHTER.search(prompt.lower()), _DARKER.search(prompt.lower())
    if len(steps) != 1 or bool(is_up) == bool(is_down):
        return [*commands]
    size = abs(steps[0].data["brightness_step_pct"])
    data = {**steps[0].data, "brightness_step_pct": size if is_up else -size}
    return [replace(one, data=data) if one is steps[0] else one for one in commands]
