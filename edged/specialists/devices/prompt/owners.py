"""Whose a device is, where a prompt says it before: "Tom is asleep, turn his lamp off"."""

from dataclasses import replace

from edged.specialists.devices.command import Command
from edged.specialists.devices.household import Household
from edged.specialists.devices.prompt.whole_names import word_before

_OWNED_BY = frozenset(("his", "her", "their"))


def with_owner(command: Command, said: tuple[str, ...], home: Household) -> Command:
    """Return a command for what is of the one person whom a prompt names.

    Args:
        command: For "the lamp".
        said: All that was said, without plurals: "Toms asleep, his lamp off".
        home: In which an area or a device has the name of the person: "Tom's room".
    """
    mention = command.mention
    if not mention.words or word_before(mention, said) not in _OWNED_BY:
        return command
    named = home.owners & {*said}
    wanted = {*mention.stems, *named}
    if len(named) != 1 or not any(wanted <= one.vocabulary for one in home.devices):
        return command
    return replace(command, mention=replace(mention, words=(*named, *mention.words)))
