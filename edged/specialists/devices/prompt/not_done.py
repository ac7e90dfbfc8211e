"""What a prompt says that is not to be done: now, or not to some of what a command is for."""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import takewhile

from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.prompt.whole_names import word_before
from edged.specialists.devices.words import places_in, single, singles
from edged.specialists.hearing import NUMBER_WORDS

# "Please dont turn the glue pot off I still need it"; with a second sentence, another thing may be
# to be done.
_NOT = re.compile(
    r"(?:please|no|oh|hey|ok|okay|and|but|so|\W)*"
    r"(?:don'?t|do not|never)\b"
    r"(?! (?:f\w{1,5}t|worry|mind|bother|disturb|leave|let|keep|you|hesitate|wait|just))"
    r"(?!.*(?:[,;.!?:][^,;.!?:]*\w|\b(?:but|and|just|instead|only|rather|then)\b))"
)
# "If it rains, close the awning", but not "if you can".
_IF = re.compile(
    r"(?:(?:if|when|whenever|unless|as soon as|the moment|the minute|in case)\b"
    r"(?! (?:you|youre|you're|u|possible|convenient|ready|ok|okay|there'?s time"
    r"|i may|i could|we may|we could"
    r"|(?:it|that)(?:'?s| is| isn'?t|) (?:ok|okay|no|not|too|possible|convenient|all right|alright)"
    r"|that suits|it suits|no ?(?:one|body) minds|at all|need))"
    r"|once (?!again|more)|should (?:it|he|she|they|we|the|my|our|any\w+|some\w+)\b)"
)
_NUMBER = rf"(?:\d{{1,2}}|{'|'.join(NUMBER_WORDS[1:])})"
_PART_OF_DAY = r"(?: (?:morning|noon|afternoon|evening|night))?"
# "Unlock the door at six", at the end of what has no value that this could be.
_LATER = re.compile(
    rf"\b(?:first thing )?(?:(?:later )?tonight|later(?: on| today)?|tomorrow{_PART_OF_DAY}"
    r"|next (?:week|month)|in the (?:mornin[g']?|afternoon|evening)"
    rf"|on (?:mon|tues|wednes|thurs|fri|satur|sun)day{_PART_OF_DAY}"
    r"|at (?:noon|midnight|dawn|dusk|sunset|sunrise|bedtime|lunchtime)"
    rf"|at {_NUMBER}(?:[:. ](?:\d\d|thirty|fifteen))?(?: ?(?:am|pm|a\.m|p\.m|o'?clock|sharp))?"
    r"|in (?:\w+ ){1,3}(?:second|minute|hour|day|week|while)s?)[^\w%]*(?:please\W*)?$"
)
_MYSELF = re.compile(
    r"\b(?:(?:i|we)(?:'?ll| will)|i'?m going to)\b[^,.;:!?]{0,80}?\b(?:myself|ourselves)\b"
)
_BEFORE_LATER = frozenset(("on", "off", "open", "closed", "shut", "up", "down", "please", "again"))
# Before a door is opened, any of these is a doubt.
_CONDITIONS = frozenset(
    (
        *(
            "if",
            "when",
            "whenever",
            "unless",
            "until",
            "till",
            "once",
            "after",
            "before",
            "provided",
        ),
        *("later", "tomorrow", "tonight", "time", "minute", "hour", "should", "stay", "remain"),
    )
)
_NEGATIONS = frozenset(("dont", "not", "never"))
# These only in the same clause: "she is here without a key, unlock the door".
_IN_CLAUSE = frozenset(("no", "without", "keep", "leave", "stop"))
_CLAUSE = re.compile(r"[,;:.!?]\s")
# "The shutter, wait, no, the skylight", "and after that unlock it".
_NO_DOUBT = re.compile(
    r"\b(?:wait|sorry|oh|oops|uh|um|er|actually)\W+no\b"
    r"|\bno\W+(?:wait|sorry|i mean|i meant|hang on|hold on)\b"
    r"|\band after that\b(?=\W+\w)"
)
_TAKEN_BACK = re.compile(
    r"\b(?:(?:don'?t|do not)(?: do (?:it|that))?|never ?mind|cancel(?: that)?"
    r"|forget (?:it|that))\W*$"
)
_ASKED_KINDLY = re.compile(
    r"\b(?:if|when(?:ever)?) (?:possible|convenient|you(?:'d| would| could| can)?"
    r" ?(?:be so kind|please|like|can|could|would|don'?t mind|get a chance|have a \w+))\b"
)
_OPENING = re.compile(r"\b(open|unlock|disarm)( up)? (everything|it all|all)\b")
# Commands of which one undoes the other.
_OPPOSITES = (("turn_on", "turn_off"), ("open_cover", "close_cover"), ("lock", "unlock"))
_OPENED = ("open_cover", "open_valve", "unlock")
_SHUT = frozenset(("close", "closing", "shut", "shutting", "lock", "locking"))
_OPEN = frozenset(("open", "opening", "unlock", "unlocking", "undo", "up", "raise", "lift", "wide"))
_BEFORE_VERBS = frozenset(("and", "then", "please", "you", "to", "now", "just", "also"))
_WORDS_BEFORE_A_NAME = 3
_KEEP = frozenset(("keep", "keeping", "leave", "leaving"))
_OTHERS = frozenset(("other", "rest", "remaining"))
_WORDS_BEFORE_OTHERS = 2
_ALONE = (("alone",), ("be",), ("as",))
_RUNNING = (("running",), ("going",))
# "Accept" is what speech recognition makes of it.
EXCEPTING = frozenset(
    (
        *("except", "excepting", "accept", "excluding", "but", "bar", "besides", "apart", "than"),
        *("keep", "leave", "without"),
    )
)
_JOINING = frozenset(("and", "or", "nor", "for", "not", "in", "on", "at", "my", "our", "one"))
_WORDS_BEFORE_A_PLACE = 4
_BUT_ALSO = re.compile(r"\bbut (?:also|especially|first|then|(?:make|be) (?:sure|certain))\b")


def _plain(prompt: str) -> str:
    return prompt.lower().replace("\u2019", "'").strip()


def is_not_for_now(prompt: str) -> bool:
    """Tell whether a prompt begins with a condition, or says only what is not to be done."""
    text = _plain(prompt)
    return bool(_IF.match(text) or _NOT.match(text))


def without_own(commands: Sequence[Command], prompt: str) -> list[Command]:
    """Return commands without what somebody is going to do: "I'll lock the door myself"."""
    own = [singles(found.group()) for found in _MYSELF.finditer(_plain(prompt))]
    return [one for one in commands if not any(places_in(s, one.mention.singles) for s in own)]


def without_later(commands: Sequence[Command], prompt: str) -> list[Command]:
    """Return commands without those at the end that are to be done at another time."""
    text = _plain(prompt)
    found = _LATER.search(text)
    said = [*singles(text[: found.start()])] if found else []
    while said and said[-1] in _BEFORE_LATER:
        said.pop()
    kept = [*commands]
    last = kept[-1] if kept and said else None
    if last is None or last.data or not _ends_with(said, last.mention):
        return kept
    while kept and (kept[-1].verb, kept[-1].data) == (last.verb, last.data):
        kept.pop()
    return kept


def _ends_with(said: Sequence[str], mention: Mention) -> bool:
    """Tell whether a mention, or its place, stands at the end of what was said."""
    ends = (mention.singles, tuple(map(single, mention.place)))
    return any(words and tuple(said[-len(words) :]) == words for words in ends)


def is_doubtful(prompt: str, door: Mention) -> bool:
    """Tell whether a prompt to open a door has a condition or a negation, or takes it back."""
    text = _NO_DOUBT.sub("", _ASKED_KINDLY.sub("", _plain(prompt)))
    said = singles(text)
    if _TAKEN_BACK.search(text) or _CONDITIONS & {*said} or _NEGATIONS & {*_before(door, said)}:
        return True
    clauses = map(singles, _CLAUSE.split(text))
    with_door = next((one for one in clauses if places_in(one, door.singles)), said)
    return bool(_IN_CLAUSE & {*_before(door, with_door)})


def _before(mention: Mention, said: tuple[str, ...]) -> tuple[str, ...]:
    """Return what stands before a mention; all, where it does not stand there."""
    places = places_in(said, mention.singles)
    return said[: places[0]] if places else said


def opens_everything(command: Command, prompt: str) -> bool:
    """Tell whether everything is to be opened, which no command turns on or off."""
    return command.mention.kind == "everything" and bool(_OPENING.search(prompt.lower()))


def with_excepted_place(command: Command, said: tuple[str, ...]) -> Command:
    """Return a command; of "all lights except in the hall", the place is that of the exception."""
    mention, left_out = command.mention, command.left_out
    if left_out is None or left_out.place or not {*left_out.words} <= {*mention.words}:
        return command
    for at in places_in(said, tuple(map(single, mention.place)))[:1]:
        if EXCEPTING & {*said[max(at - _WORDS_BEFORE_A_PLACE, 0) : at]}:
            everywhere = replace(mention, place=(), is_all=True)
            left_out = replace(left_out, place=mention.place)
            return replace(command, mention=everywhere, left_out=left_out)
    return command


def without_kept(commands: Sequence[Command], said: tuple[str, ...]) -> list[Command]:
    """Return "turn off the lights and keep the lamp on" as one command: all lights but the lamp."""
    kept: list[Command] = []
    for command in commands:
        if _is_left_alone(command, said, is_only=len(commands) == 1):
            continue
        if kept and _is_kept(kept[-1], command, said):
            kept[-1] = replace(kept[-1], left_out=command.mention)
        elif kept and _is_for_others(command, said):
            before = kept[-1].mention
            if word_before(before, said) in _KEEP:
                kept.pop()
            kept.append(replace(command, left_out=before))
        else:
            kept.append(command)
    return kept


def _is_for_others(command: Command, said: tuple[str, ...]) -> bool:
    """Tell whether a command is for "all the other lights", or "the rest of the lights"."""
    mention = command.mention
    at = max(places_in(said, mention.singles), default=0)
    is_for_others = not _OTHERS.isdisjoint(said[max(at - _WORDS_BEFORE_OTHERS, 0) : at])
    is_group = mention.is_all or mention.is_plural
    return is_group and command.left_out is None and is_for_others


def _is_left_alone(command: Command, said: tuple[str, ...], *, is_only: bool) -> bool:
    """Tell whether "leave the lamp alone" was said, or, beside another command, "running"."""
    mention, words = command.mention, command.mention.singles
    behind = [said[at + len(words) :][:2] for at in places_in(said, words)]
    if ("can", "stay") in behind:
        return command.verb != "turn_on"  # "all others off" may be behind
    is_switched = command.verb in ("turn_on", "turn_off") and not command.data and not is_only
    alone = (*_ALONE, *_RUNNING) if is_switched else _ALONE
    return word_before(mention, said) in _KEEP and any(one[:1] in alone for one in behind)


def _is_kept(before: Command, command: Command, said: tuple[str, ...]) -> bool:
    """Tell whether a command says what another one is not to change."""
    is_undone = any({before.verb, command.verb} == {*pair} for pair in _OPPOSITES)
    group = before.mention
    is_of_several = group.is_all or group.is_plural or group.kind
    if not (is_undone and is_of_several) or command.data or before.left_out is not None:
        return False
    return word_before(command.mention, said) in _KEEP


def is_excepting_more(command: Command, before: Command) -> bool:
    """Tell whether a command is the one before but for another exception."""
    is_same = command == replace(before, left_out=command.left_out)
    return is_same and command.left_out is not None and before.left_out is not None


def not_opened(command: Command, said: tuple[str, ...]) -> Command:
    """Return a command; what opens closes, where "close" or "lock" stands before its devices."""
    words, is_opened = command.mention.singles, command.verb in _OPENED
    for at in places_in(said, words) if is_opened else ():
        first = max(at - _WORDS_BEFORE_A_NAME, 0)
        before = {said[i] for i in range(first, at) if said[i] != "lock" or _is_verb(said[:i])}
        behind = {*said[at + len(words) : at + len(words) + 1]}
        if (before | behind) & _OPEN or not before & _SHUT:
            return command
        command = replace(command, verb="lock" if "lock" in before else "close_cover")
    return command


def _is_verb(before: tuple[str, ...]) -> bool:
    """Tell whether "lock" is one by what stands before it: not in "release the lock on"."""
    return not before or before[-1] in _BEFORE_VERBS


def is_among_exceptions(mention: Mention, prompt: str, known: Collection[str]) -> bool:
    """Tell whether only names stand between a word that excepts and a mention: "but A and B"."""
    said = singles(_BUT_ALSO.sub("", prompt.lower()))
    at = max(places_in(said, mention.singles), default=0)
    names = takewhile(lambda word: word not in EXCEPTING, reversed(said[:at]))
    is_behind = not EXCEPTING.isdisjoint(said[:at])
    return is_behind and all(word in known or word in _JOINING for word in names)


def is_exception(command: Command, before: Command, prompt: str) -> bool:
    """Tell whether a command for one of those before is an exception: "all but A and B"."""
    is_of_all = before.mention.is_all or before.left_out is not None
    if not is_of_all or (command.verb, command.data) != (before.verb, before.data):
        return False
    return bool(EXCEPTING & {*singles(_BUT_ALSO.sub("", prompt.lower()))})
