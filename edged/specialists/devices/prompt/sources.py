"""What plays, and modes, that a prompt says of a device, where a model took them for one."""

import re
from collections.abc import Sequence
from dataclasses import replace

from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.household import Household
from edged.specialists.devices.kinds import KINDS, names_for
from edged.specialists.devices.places import is_elsewhere
from edged.specialists.devices.prompt.values import as_it_stands
from edged.specialists.devices.words import single, synonyms

_SOURCE = "source"
_SOURCES = re.compile(
    r"(?:hdmi|aux|line in|optical|phono|bluetooth|airplay|netflix|spotify|plex|tidal|deezer"
    r"|youtube|disney plus|prime video|iplayer|hulu|apple music)(?: \d)?"
)
# "The TV on downstairs", where nothing is.
_NO_SOURCES = frozenset(
    (
        *("outside", "outdoors", "inside", "indoors", "everywhere", "there", "again", "now"),
        *("bedroom", "kitchen", "garage", "dining", "nursery", "balcony", "porch", "deck", "room"),
    )
)
_NO_BROADCASTERS = frozenset(("ok", "hey", "hi", "i", "pm", "am"))
_SOUNDS = frozenset(("racket", "noise", "din", "music", "sound", "song", "tune", "volume"))
_OF_PLAYERS = ("volume_", "media_")
_OF_MODES = frozenset(("fan", "mode", "only"))


def with_sources(commands: Sequence[Command], prompt: str, home: Household) -> list[Command]:
    """Return commands with the sources and modes that a prompt says of their devices.

    Args:
        commands: In the order in which they were said.
        prompt: All that was said.
        home: Its devices, of which none has the name of a source.
    """
    made: list[Command] = []
    for command in commands:
        before = made[-1].mention if made else Mention()
        said = _of_the_one_before(_of_what_plays(command, home), before, prompt, home)
        made.append(_with_source(said, prompt, home))
    return made


def _of_the_one_before(command: Command, before: Mention, prompt: str, home: Household) -> Command:
    """Return a command; "HDMI 1" and "fan only" behind another thing are of that."""
    mention = command.mention
    if command.verb == "set_hvac_mode" and {*mention.words} <= _OF_MODES and mention.words:
        climates = (one.name_words for one in home.devices if one.domain == "climate")
        is_named = any({*mention.singles} & {*name} for name in climates)
        return command if is_named or not before.words else replace(command, mention=before)
    player = Mention(mention.place) if mention.place else before
    is_plain = command.verb == "turn_on" and not command.data
    is_source = is_plain and _SOURCES.fullmatch(" ".join(mention.words))
    own = (word for word in mention.singles if not word.isdigit())
    if not is_source or not player.words or any(word in home.known for word in own):
        return command
    source = as_it_stands(mention.words, prompt)
    return Command("select_source", player, None, {_SOURCE: source})


def _of_what_plays(command: Command, home: Household) -> Command:
    """Return a command; "turn that racket down" is for what plays."""
    mention, said = command.mention, {*command.mention.singles}
    if not command.verb.startswith(_OF_PLAYERS) or not said or not said <= _SOUNDS - home.known:
        return command
    return replace(command, mention=replace(mention, words=(), kind="media"))


def _with_source(command: Command, prompt: str, home: Household) -> Command:
    """Return a command with the source of "the radio on Triple J", and with "BBC" of "BBC Four"."""
    if _SOURCE in command.data:
        source = str(command.data[_SOURCE])
        return replace(command, data={_SOURCE: _broadcaster(source, prompt, home) + source})
    mention = command.mention
    is_plain = command.verb == "turn_on" and not command.data and mention.words
    if not (is_plain and mention.place and is_elsewhere(home, mention)):
        return command
    source = as_it_stands(mention.place, prompt)
    said = {*map(single, mention.place)}
    is_place = any(map(synonyms, said)) or said & (_NO_SOURCES | home.known)
    is_said = re.search(rf"\b(?:on|to|onto) {re.escape(source)}\b", prompt)
    if is_place or not is_said or not _is_player(mention, home):
        return command
    only = Mention(mention.words)
    return replace(command, verb="select_source", mention=only, data={_SOURCE: source})


def _broadcaster(source: str, prompt: str, home: Household) -> str:
    """Return the word in capitals before a source, if it is none of the home: "BBC "."""
    found = re.search(rf"\b([A-Z]{{2,5}} ){re.escape(source)}(?!\w)", prompt)
    word = found[1] if found and not prompt.isupper() else ""
    known = home.known | names_for(frozenset(KINDS)) | _NO_BROADCASTERS
    return "" if single(word.strip().lower()) in known else word


def _is_player(mention: Mention, home: Household) -> bool:
    players = (one for one in home.devices if one.domain == "media_player")
    return any({*mention.stems} <= one.vocabulary for one in players)
