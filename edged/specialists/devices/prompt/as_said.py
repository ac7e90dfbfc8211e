"""What a prompt says of the devices that commands name, before these are looked for.

A model that writes commands knows no names: it may write a part of one, or a verb with it, and for
two or for none what the prompt says of several.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from edged.specialists.devices.command import OPENING, Command, Mention
from edged.specialists.devices.household import SIDES, Household
from edged.specialists.devices.kinds import KINDS, names_for
from edged.specialists.devices.places import is_elsewhere
from edged.specialists.devices.prompt.durations import with_durations
from edged.specialists.devices.prompt.left_out import corrected, with_bar, with_exception
from edged.specialists.devices.prompt.not_done import (
    EXCEPTING,
    not_opened,
    with_excepted_place,
    without_kept,
    without_later,
    without_own,
)
from edged.specialists.devices.prompt.other_services import powered
from edged.specialists.devices.prompt.sources import with_sources
from edged.specialists.devices.prompt.values import (
    not_swinging,
    with_color,
    with_direction,
    with_item,
    with_level,
    with_next_item,
    with_whole_item,
    without_numbers,
    without_unsaid,
)
from edged.specialists.devices.prompt.whole_names import (
    with_owner,
    with_whole_names,
    word_before,
)
from edged.specialists.devices.words import places_in, single, singles

# No part of a name, unless something here is called so.
_NO_NAMES = frozenset(
    (
        *("turn", "switch", "put", "set", "make", "get", "have", "dim", "open", "close", "shut"),
        *("lock", "unlock", "start", "stop", "pause", "play", "mute", "oscillate", "please", "now"),
        *("power", "flip", "bring", "glow", "shine", "turned", "opened", "closed", "plus"),
        *("on", "off", "to", "too", "two", "poor", "old", "dear"),
    )
)
# Said of any one, and of no other one less: "the electric fence" of one that is called "Fence".
_EPITHETS = frozenset(
    (
        *("electric", "electrical", "electronic", "automatic", "automated", "smart", "trusty"),
        *("damn", "bloody", "blasted", "stupid", "silly", "wretched", "lovely", "noisy"),
    )
)
_OTHERWISE = {("turn_on", "off"): "turn_off", ("turn_off", "on"): "turn_on"}
_ONES = (("one",), ("ones",))
_PAIR = frozenset(("both", "2"))
# What a model writes for "both machines".
_PAIR_KINDS = frozenset(("everything", "lock"))
_FLOOR = re.compile(r"\b(?:this|my|our|the same) (?:floor|level|storey|story)\b")
_EVERYWHERE = re.compile(
    r"\b(?:everywhere|every room|all (?:the )?rooms"
    r"|(?:whole|entire|this|in the) (?:house|home|flat|apartment|place))\b"
)
_HERE = re.compile(r"\b(?:here|this room)\b")
_OUTSIDE = frozenset(("outside", "outdoors", "outdoor", "inside", "indoors", "indoor"))
_BY = re.compile(r"\b(?:by|near|next to|beside|at) (?:the |my |our )?(\w+(?: \w+)?)$")
_NEARBY = frozenset(("here", "hear", "this", "these"))
_WITHIN = (("in",), ("on",), ("at",))
_PLACING = (*_WITHIN, ("under",), ("below",), ("above",))
_ONE_LIGHT = re.compile(r"\blight (?:on|off)\b|\b(?:on|off) the light\b")
_THERE = re.compile(r"\b(?:up|down|in|out|over) there\b")
# Said before what is there: "upstairs, lights off", "in the attic turn off the lights".
_FIRST = re.compile(r"(?:(?:in|on|at) )?(?:the |my )?([^,:]{2,40}?) ?[,:]", re.IGNORECASE)
_IN_FIRST = re.compile(r"(in|on|at) (?:the |my |our )?(.+)", re.IGNORECASE)


def as_said(commands: Sequence[Command], prompt: str, home: Household) -> list[Command]:
    """Return commands for the devices that a prompt names.

    Args:
        commands: As a model wrote them, in the order in which they were said.
        prompt: All that was said.
        home: Its devices, and how they are called.
    """
    said = singles(prompt)
    commands = [without_unsaid(with_item(one, prompt, home), prompt) for one in commands]
    commands = [with_bar(one, prompt, home) for one in commands]
    commands = with_whole_item(with_next_item(commands, prompt, home), prompt)
    commands = with_sources(with_durations(commands, prompt), prompt, home)
    commands = [_trimmed(one, home.known) for one in _parted(commands, home)]
    commands = without_numbers([*corrected(commands, said)], said, home.known)
    commands = [not_swinging(with_color(one, home), prompt) for one in commands]
    commands = with_direction(commands, prompt)
    if all(one.data == commands[0].data for one in commands):
        commands = [with_level(one, prompt) for one in commands]
    if len(commands) == 1:
        commands = [with_exception(_as_wide(commands[0], prompt.lower(), home), prompt, home)]
    commands = [with_excepted_place(one, said) for one in commands]
    commands = [with_owner(one, said, home) for one in _with_nouns(commands, home)]
    whole = (powered(one, said) for one in with_whole_names(commands, said, home))
    placed = _with_the_first_place(_for_pairs([*whole], said), prompt, home)
    placed = _with_the_place_there(placed, prompt, home)
    kept = without_kept(without_later(without_own(placed, prompt), prompt), said)
    return [not_opened(one, said) for one in kept]


def _parted(commands: Sequence[Command], home: Household) -> Iterator[Command]:
    """Yield commands; "den and hall lights", where that was written as one name, is for two."""
    for command in commands:
        mention, words = command.mention, command.mention.singles
        at = words.index("and") if "and" in words and "and" not in home.known else 0
        # Of "the den and dining room lights", the longest place.
        ends = range(len(words) - 1, at + 1, -1) if words[:at] in home.beginnings else ()
        end = next((end for end in ends if words[at + 1 : end] in home.beginnings), 0)
        if not end or mention.place or mention.where:
            yield command
            continue
        for place in (words[:at], words[at + 1 : end]):
            there = replace(mention, words=mention.words[end:], place=place)
            yield replace(command, mention=there)


def _trimmed(command: Command, known: Collection[str]) -> Command:
    """Return a command without verbs at the ends of a name, if more is left: "dim bed left"."""
    words, verb = [*command.mention.words], command.verb
    while words and words[-1] in _NO_NAMES and single(words[-1]) not in known:
        verb = _OTHERWISE.get((verb, words.pop()), verb)
    no_names = _NO_NAMES if verb in OPENING else _NO_NAMES | _EPITHETS
    while verb == "oscillate" and words[1:] and words[-1] == "side" and "side" not in known:
        words.pop()  # "swing the fan side to side"
    while words and words[0] in no_names and words[0] not in known:
        words.pop(0)
    if not words:
        return command
    return replace(command, verb=verb, mention=replace(command.mention, words=tuple(words)))


def _as_wide(command: Command, prompt: str, home: Household) -> Command:
    """Return a command for this floor, for everywhere, or for one light, if that was said."""
    mention = command.mention
    if mention.where == "here" and (place := _place_said(mention, prompt, home)):
        mention = replace(mention, where="", place=place)
    elif mention.where == "here" and _FLOOR.search(prompt):
        mention = replace(mention, where="floor")
    elif place := _place_beside(command, singles(prompt), home):
        mention = replace(mention, place=place)
    elif command.verb not in OPENING and (words := _words_beside(mention, prompt, home)):
        mention = replace(mention, place=(), words=(*words, *mention.words))
    elif _is_everywhere(mention, prompt):
        mention = replace(mention, where="", is_all=True)
    elif mention.kind == "light" and not command.data and _ONE_LIGHT.search(prompt):
        mention = replace(mention, kind="", words=("light",))
    return replace(command, mention=mention)


def _place_said(mention: Mention, prompt: str, home: Household) -> tuple[str, ...]:
    """Return the one place with which a prompt ends, and that the mention has no word of."""
    said, words = singles(prompt), {*mention.singles}
    if mention.place or _NEARBY & {*said}:
        return ()
    ends = (one for one in home.names_of_places.values() if one and said[-len(one) :] == one)
    place = max(ends, key=len, default=())
    before = said[: len(said) - len(place)][-1:]
    is_name = any(
        len(one.name_words) > len(place) and said[-len(one.name_words) :] == one.name_words
        for one in home.devices
    )
    is_placed = place[:1] in _PLACING or before in _PLACING
    return place if is_placed and not is_name and words.isdisjoint(place) else ()


def _place_beside(command: Command, said: tuple[str, ...], home: Household) -> tuple[str, ...]:
    """Return the one place in which all are, where a mention has none, or none of this home."""
    mention, left_out = command.mention, command.left_out or Mention()
    elsewhere = tuple(map(single, mention.place))
    is_said = any(said[at - 1 : at] in _PLACING for at in places_in(said, elsewhere))
    is_open = not mention.place or (is_elsewhere(home, mention) and not is_said)
    if not (mention.is_all and is_open) or mention.where:
        return ()
    before = said[: min(places_in(said, left_out.singles), default=len(said))]
    before = (*takewhile(lambda word: word not in EXCEPTING, before),)
    places = [
        place
        for place in {*home.names_of_places.values()}
        if any(before[at - 1 : at] in _WITHIN for at in places_in(before, place))
    ]
    is_one = len(places) == 1 and {*mention.singles}.isdisjoint(places[0])
    return places[0] if is_one else ()


def _words_beside(mention: Mention, prompt: str, home: Household) -> tuple[str, ...]:
    """Return the word of a name that ends "the lights outside by the pond", with no such place."""
    is_outside = bool(mention.place and mention.words) and {*mention.place} <= _OUTSIDE
    found = _BY.search(prompt.rstrip(" .!?")) if is_outside else None
    words = singles(found[1]) if found else ()
    is_place = any({*mention.place} <= {*one} for one in home.names_of_places.values())
    return words if not is_place and {*words} <= home.known else ()


def _is_everywhere(mention: Mention, prompt: str) -> bool:
    is_open = mention.where == "here" or (mention.kind and not mention.where and not mention.place)
    return bool(is_open and _EVERYWHERE.search(prompt) and not _HERE.search(prompt))


def _with_nouns(commands: Sequence[Command], home: Household) -> Iterator[Command]:
    """Yield commands; in "the left lamp on and the right one off", the second is for a lamp."""
    noun: tuple[str, ...] = ()
    for command in commands:
        words = command.mention.words
        if words[1:] in _ONES and words[0] in SIDES and noun:
            words = (words[0], *noun)
        elif words in _ONES and noun and command.mention.place:  # "the one in the hall"
            words = noun[-1:]
        elif words[1:] and words[-1:] in _ONES and not _is_numbered(command.mention, home):
            words = (*words[:-1], *noun[-1:])
        noun = tuple(word for word in words if word not in SIDES)
        yield replace(command, mention=replace(command.mention, words=words))


def _is_numbered(mention: Mention, home: Household) -> bool:
    """Tell whether the "one" of "zone one" is in a name."""
    said = {*mention.singles}
    names = ((*one.name_words, *one.area_words) for one in home.devices)
    return any(said.issubset(name) for name in (*names, *home.names_of_places.values()))


def _with_the_first_place(
    commands: Iterable[Command], prompt: str, home: Household
) -> list[Command]:
    """Return commands for the place with which a prompt begins, where they say none themselves."""
    alone, begun = _FIRST.match(prompt), _IN_FIRST.match(prompt)
    if not (alone or begun):
        return [*commands]
    places = {*home.names_of_places.values()} - {()}
    place = singles(alone[1]) if alone else ()
    if place not in places:
        place = _place_begun(begun[1], begun[2], places) if begun else ()
    return [_in_place(one, place, places) if place else one for one in commands]


def _with_the_place_there(
    commands: Sequence[Command], prompt: str, home: Household
) -> list[Command]:
    """Return commands, the last for the place of the one before: "upstairs … up there"."""
    if len(commands) <= 1 or not _THERE.search(prompt.lower()):
        return [*commands]
    before, words = commands[-2].mention, commands[-2].mention.singles
    last = commands[-1]
    if last.mention.where == "here" and not _HERE.search(prompt.lower()):
        last = replace(last, mention=replace(last.mention, where=""))
    begun = (words[:count] for count in range(len(words) - 1, 0, -1))
    place = before.place or next((one for one in begun if one in home.beginnings), ())
    places = {*home.names_of_places.values()} - {()}
    return [*commands[:-1], _in_place(last, place, places) if place else commands[-1]]


def _place_begun(
    preposition: str, text: str, places: Collection[tuple[str, ...]]
) -> tuple[str, ...]:
    """Return the place that the words behind a preposition begin with."""
    words = singles(text)
    place = max((one for one in places if words[: len(one)] == one), key=len, default=())
    behind = {*words[len(place) : len(place) + 1]}
    # "On the hall light, off the fan" switches; "in the hall and kitchen" is half of what was said.
    is_name = preposition.lower() == "on" and behind & names_for(frozenset(KINDS))
    return () if is_name or behind & {"and", "or"} else place


def _in_place(
    command: Command, place: tuple[str, ...], places: Collection[tuple[str, ...]]
) -> Command:
    mention = command.mention
    # A door is not found by it; of several, fewer are opened.
    is_guess = command.verb in OPENING and not (mention.is_all or mention.is_plural)
    if mention.place or mention.where or is_guess:
        return command
    words, count = mention.singles, len(place)
    said = {*words}
    if any(other != place and said.issuperset(other) for other in places):  # it is elsewhere
        return command
    if words[:count] == place and words[count:]:
        mention = replace(mention, words=mention.words[count:])
    return replace(command, mention=replace(mention, place=place))


def _for_pairs(commands: Sequence[Command], said: tuple[str, ...]) -> Iterator[Command]:
    """Yield commands; one for "both lights" or "the two lights" is for a pair."""
    for command in commands:
        mention = command.mention
        is_both = "both" in said and len(commands) == 1  # or it was said of another one
        is_of_kind = mention.kind in _PAIR_KINDS and mention.is_all and is_both
        if is_of_kind or (mention.is_plural and word_before(mention, said) in _PAIR):
            mention = replace(mention, is_all=True, is_pair=True)
        yield replace(command, mention=mention)
