"""What a prompt excepts or corrects, where a model wrote a command without it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.household import Household
from edged.specialists.devices.words import places_in, single, words_of

_ARTICLE = r"(?:the |my |our |that |in |on |at )*"
# "But not", "not" alone only behind a comma: "the fan, not the lamp" has no group.
_EXCEPT = re.compile(
    rf"(?:,? (?:except|excepting|excluding|apart from|aside from|other than|but not|besides"
    rf"|all but|but)(?: for)?|, ?not|\bnot) {_ARTICLE}([^,.;:!?]{{2,40}})(?=$|[,.;:!?])",
    re.IGNORECASE,
)
_BAR = re.compile(
    r"\bbar (?:in )?(?:the|my|our) ([^,.;:!?]{2,40}?)(?: (?:on|off|please)){0,2}(?=$|[,.;:!?])",
    re.IGNORECASE,
)
_KEEP = re.compile(
    rf"\b(?:(but)|and|just|,) (?:please )?(?:leave|keep) {_ARTICLE}([^,.;:!?]{{2,40}}?)"
    # "And leave the house" excepts nothing.
    r"(?: (?:on|off|open|closed|alone|as it is|as they are|running|burnin[g'\u2019]?|lit)"
    # "For Hank".
    r"(?: for [^,.;:!?]{2,20})?|(?(1)|(?!)))(?=$|[,.;:!?])",
    re.IGNORECASE,
)
_CORRECTING = frozenset(("no", "wait", "sorry", "mean", "meant", "scratch", "actually", "rather"))
# What may stand between two things of which the second is meant: not "no one is here".
_BETWEEN = _CORRECTING | frozenset(
    (
        *("the", "a", "my", "that", "it", "i", "oh", "um", "uh", "er", "oops", "make", "do", "not"),
        *("turn", "switch", "put", "set", "open", "close", "shut", "lock", "dim", "start", "stop"),
        *("on", "off", "up", "down", "to", "at", "percent", "degree", "instead", "please"),
    )
)
_PRONOUNS = frozenset(("one", "ones"))
_ADDING = frozenset(("and", "also", "too", "then", "plus", "well"))
_MOST_WORDS = 5


def with_exception(command: Command, prompt: str, home: Household) -> Command:
    """Return a command for several without what a prompt excepts at the end of a clause.

    Args:
        command: The only one.
        prompt: All that was said.
        home: Of which a word has to be excepted.
    """
    mention = command.mention
    is_group = mention.is_all or mention.is_plural or mention.kind
    text = prompt.rstrip(" .!?").removesuffix("please").rstrip(" ,")
    if command.left_out is not None or not is_group:
        return command
    for found in (*_KEEP.finditer(text), *_EXCEPT.finditer(text)):
        words = words_of(found.group(found.re.groups))
        noun = mention.words[-1:] if words[1:] and words[-1] in _PRONOUNS else ()
        own = words[:-1] if noun else words  # "the hall ones" of "all lights"
        if 0 < len(words) <= _MOST_WORDS and all(single(word) in home.known for word in own):
            return replace(command, left_out=Mention((*own, *noun)))
    return command


def with_bar(command: Command, prompt: str, home: Household) -> Command:
    """Return a command; "every light bar the stairs" is for no light bar, where none is here."""
    mention = command.mention
    *words, last = mention.words or ("",)
    found = _BAR.search(prompt) if words and last == "bar" and "bar" not in home.known else None
    left_out = words_of(found[1]) if found else ()
    own = left_out[:-1] if left_out[-1:] and left_out[-1] in _PRONOUNS else left_out
    is_known = all(single(word) in home.known for word in own)
    if not own or not is_known or not mention.is_all or command.left_out is not None:
        return command
    place = () if {*mention.place} <= {*own} else mention.place
    noun = tuple(words[-1:]) if own is not left_out else ()
    group = replace(mention, words=tuple(words), place=place)
    return replace(command, mention=group, left_out=Mention((*own, *noun)))


def corrected(commands: Sequence[Command], said: tuple[str, ...]) -> Iterator[Command]:
    """Yield commands without one that is corrected: "lamp 1, actually make that lamp 2"."""
    for command, then in zip(commands, (*commands, None)[1:], strict=True):
        if then is None or not _is_corrected(command, then, said):
            yield command


def _is_corrected(command: Command, then: Command, said: tuple[str, ...]) -> bool:
    """Tell whether nothing but a word for it stands between two commands that are alike."""
    if (command.verb, command.data) != (then.verb, then.data):
        return False
    first, second = (places_in(said, one.mention.singles) for one in (command, then))
    if not first or not second or second[-1] <= first[0]:
        return False
    between = {*said[first[0] + len(command.mention.words) : second[-1]]}
    behind = {*said[second[-1] + len(then.mention.words) :]}
    is_said = all(word in _BETWEEN or word.isdigit() for word in between)
    is_said &= "it" not in between or "make" in between  # "I mean it" corrects nothing
    return is_said and bool(between & _CORRECTING) and behind.isdisjoint(_ADDING)
