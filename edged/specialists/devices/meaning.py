"""From what a model says of a prompt to the actions in a home."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from edged.specialists.compact.schemas import shape_of
from edged.specialists.compact.shapes import AnswerError, Inputs, Shape, ShapeError
from edged.specialists.devices.command import OPENING, Command, read_command
from edged.specialists.devices.finding import find
from edged.specialists.devices.household import Device, Devices, Found, Household, Nothing
from edged.specialists.devices.kinds import IMPLIED, IMPLIED_ALL
from edged.specialists.devices.prompt.as_said import as_said
from edged.specialists.devices.prompt.named import (
    named_after_all,
    named_alone,
    named_in_part,
    named_instead,
    named_within,
    widened,
)
from edged.specialists.devices.prompt.not_done import (
    is_among_exceptions,
    is_doubtful,
    is_excepting_more,
    is_exception,
    is_not_for_now,
    opens_everything,
)
from edged.specialists.devices.prompt.other_services import (
    at_full,
    fan_modes,
    other_levels,
    other_services,
    started,
    switched,
)
from edged.specialists.devices.prompt.values import with_values
from edged.specialists.devices.words import last_words, single, singles
from edged.specialists.hearing import MAX_WORDS, Heard

Answer = dict[str, Any]
_SERVICE = re.compile(r"[a-z_]+\.[a-z_]+")
# Verbs that mean the same of devices of different domains; a model does not know the devices.
_ALIKE = (
    ("open_cover", "open_valve"),
    ("close_cover", "close_valve"),
    ("stop_cover", "stop_valve", "stop", "media_stop"),
    ("pause", "media_pause"),
    ("start", "start_mowing"),
    ("return_to_base", "dock"),
    ("turn_on", "open_valve", "start", "start_mowing", "press", "media_play"),
    ("turn_off", "close_valve", "stop", "media_stop", "dock"),
    ("set_cover_position", "set_valve_position"),
)


def home_services(tools: object) -> dict[str, Mapping[str, Any]]:
    """Return the schema of the data of each service by its name.

    Args:
        tools: As OpenAI lists functions; named as Home Assistant's services, ``light.turn_on``.

    Raises:
        ShapeError: They are not.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for index, one in enumerate(tools if isinstance(tools, list) else ()):
        function = one.get("function") if isinstance(one, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        parameters = function.get("parameters") if isinstance(function, dict) else None
        if not isinstance(name, str) or not _SERVICE.fullmatch(name):
            raise ShapeError(f".x-home[{index}].function.name: must be a service: light.turn_on")
        if not isinstance(parameters, dict):
            raise ShapeError(f".x-home[{index}].function.parameters: must be a schema")
        found[name] = parameters
    if not found:
        raise ShapeError(".x-home: must be a list of functions")
    return found


class HomeMeaning:
    """The services of homes, and what commands mean among a home's devices.

    Args:
        services: The JSON schema of the data of each by its name, ``light.turn_on``.

    Raises:
        ShapeError: A schema has a keyword that is not known.
    """

    def __init__(self, services: Mapping[str, Mapping[str, Any]]) -> None:
        self._shapes: dict[str, Shape] = {
            name: shape_of(schema) for name, schema in services.items()
        }

    def check(self, inputs: Inputs) -> None:
        """Check the inputs of a request.

        Raises:
            InputsError: They are no list of devices; the message names the member.
        """
        Household(inputs)

    def actions(self, said: Mapping[str, Any], inputs: Inputs, prompt: str = "") -> Answer:
        """Return the actions that a home is to carry out, or why there are none.

        Args:
            said: What a model made of the prompt, of the form of ``form_of``.
            inputs: Of the request.
            prompt: All that was said; where it is left out, only ``said`` counts.

        Raises:
            InputsError: The inputs are no list of devices.
        """
        home, prompt = Household(inputs), last_words(Heard(prompt).text, MAX_WORDS)
        if (device := named_alone(home, prompt)) is not None:
            return _answer(home, [(f"{device.domain}.{self._started_by(device)}", {}, device)])
        found: list[tuple[Command, Devices]] = []
        for command, meant in self._understood(home, said, prompt):
            devices = self._meant_beside(home, command, *found[-1], meant) if found else meant
            if found and (rest := self._rest(home, found[-1], command, devices, prompt)):
                found[-1] = found[-1][0], rest
            elif devices is Nothing.AMBIGUOUS:
                return {"actions": [], "reason": devices.value}
            elif isinstance(devices, tuple):
                found.append((command, devices))
        return _answer(
            home,
            [
                (f"{device.domain}.{command.verb}", command.data, device)
                for command, devices in found
                for device in devices
            ],
        )

    def _rest(
        self,
        home: Household,
        last: tuple[Command, Devices],
        command: Command,
        meant: Found,
        prompt: str,
    ) -> Devices:
        """Return what is left of the devices before, where a command says an exception of them."""
        (before, those), devices = last, meant if isinstance(meant, tuple) else ()
        if devices and is_excepting_more(command, before):
            return tuple(one for one in those if one in {*devices})
        if not is_exception(command, before, prompt):
            return ()
        if before.left_out and is_among_exceptions(command.mention, prompt, home.known):
            whole, rest = (
                self._found(home, replace(before, left_out=but))[1]
                for but in (None, command.mention)
            )
            if isinstance(rest, tuple) and rest != whole:
                return tuple(one for one in those if one in {*rest})
        is_part = {*devices} < {*those}
        return tuple(one for one in those if one not in {*devices}) if devices and is_part else ()

    def _understood(
        self, home: Household, said: Mapping[str, Any], prompt: str
    ) -> Iterator[tuple[Command, Found]]:
        """Yield the commands as the home understands them, with the devices that are meant."""
        if is_not_for_now(prompt):
            return
        commands = as_said([*map(read_command, said["commands"])], prompt, home)
        if len(commands) == 1:
            command = with_values(commands[0], prompt)
            commands = [self._named_after_all(home, command, prompt)]
        for one in commands:
            yield self._found_at_last(home, one, prompt, is_alone=len(commands) == 1)

    def _found_at_last(
        self, home: Household, one: Command, prompt: str, *, is_alone: bool
    ) -> tuple[Command, Found]:
        if opens_everything(one, prompt):
            return one, Nothing.NONE
        command, found = self._found(home, one)
        if _opens_a_door(command, found) and is_doubtful(prompt, command.mention):
            return command, Nothing.NONE
        if found is Nothing.NONE:
            command, found = self._reread(home, one, prompt)
        if found is Nothing.NONE and is_alone:
            command, found = self._by_another_name(home, command, prompt)
        if found is Nothing.AMBIGUOUS and command.verb not in OPENING:
            mention = widened(one.mention, prompt, home.known, is_alone=is_alone)
            if is_alone and mention.kind and mention.kind not in IMPLIED_ALL:
                mention = named_in_part(mention, prompt, self._of_kind(home, one))
            command, found = self._found(home, replace(one, mention=mention))
            found = Nothing.AMBIGUOUS if found is Nothing.NONE else found
        full = at_full(command, found, prompt) if is_alone else command
        if full is not command and self._can(f"fan.{full.verb}", full):
            command = full
        return started(command, found, prompt), found

    def _named_after_all(self, home: Household, command: Command, prompt: str) -> Command:
        is_group = command.mention.kind == "everything" or command.mention.is_all
        if command.mention.kind not in IMPLIED or is_group or command.left_out is not None:
            return command
        able = self._of_kind(home, command)
        return replace(command, mention=named_after_all(command.mention, prompt, able))

    def _of_kind(self, home: Household, command: Command) -> list[Device]:
        """Return the devices of the kind that a command says which can do it."""
        kinds, domains = frozenset(IMPLIED[command.mention.kind]), self._able(home, command)
        return [one for one in home.devices if one.kinds & kinds and one.domain in domains]

    def _meant_beside(
        self, home: Household, command: Command, before: Command, devices: Devices, meant: Found
    ) -> Found:
        """Return what is meant, which the command before may say.

        Those are its devices, where none is named: "Sonos to 20 and play"; or one in its place:
        "the kitchen lights and the fan off".
        """
        if meant is not Nothing.AMBIGUOUS or command.mention.place or command.left_out is not None:
            return meant
        if self._is_for(devices, command):
            return devices
        place = _place_said(before, devices)
        if not place or command.mention.where or command.verb in OPENING:
            return meant
        there = replace(command, mention=replace(command.mention, place=place))
        found = self._found(home, there)[1]
        return found if isinstance(found, tuple) else meant

    def _is_for(self, devices: Devices, command: Command) -> bool:
        kinds = frozenset(IMPLIED.get(command.mention.kind, ()))
        services = {f"{one.domain}.{command.verb}" for one in devices}
        is_one = all(one.kinds & kinds for one in devices)
        return is_one and all(self._can(one, command) for one in services)

    def _by_another_name(
        self, home: Household, command: Command, prompt: str
    ) -> tuple[Command, Found]:
        if (device := named_within(home, command, prompt)) is not None:
            return replace(command, verb=self._started_by(device), data={}), (device,)
        domains = self._able(home, command)
        able = [one for one in home.devices if one.domain in domains]
        if command.verb in OPENING:
            able = [one for one in able if not one.is_door]
        mention = named_instead(command.mention, prompt, able)
        found = self._found(home, replace(command, mention=mention))
        return found if isinstance(found[1], tuple) else (command, Nothing.NONE)

    def _started_by(self, device: Device) -> str:
        return "press" if f"{device.domain}.press" in self._shapes else "turn_on"

    def _found(self, home: Household, command: Command) -> tuple[Command, Found]:
        """Return the devices, and the command as these understand it."""
        for verb in _verbs(command.verb):
            other = replace(command, verb=verb)
            found = self._among_able(home, other)
            if found is not Nothing.NONE:
                return other, found
        return command, Nothing.NONE

    def _reread(self, home: Household, command: Command, prompt: str) -> tuple[Command, Found]:
        others = (
            fan_modes(command, prompt),
            other_levels(command, prompt),
            switched(command, prompt),
            other_services(command, prompt),
        )
        for other in chain.from_iterable(others):
            found = self._among_able(home, other)
            if isinstance(found, tuple) and not _opens_a_door(other, found):
                return other, found
        return command, Nothing.NONE

    def _among_able(self, home: Household, command: Command) -> Found:
        return find(home, command, self._able(home, command))

    def _able(self, home: Household, command: Command) -> frozenset[str]:
        """Return the domains of the devices that can do it."""
        found = (one for one in home.domains if self._can(f"{one}.{command.verb}", command))
        return frozenset(found)

    def _can(self, service: str, command: Command) -> bool:
        shape = self._shapes.get(service)
        if shape is None:
            return False
        try:
            shape.write(dict(command.data), {})
        except AnswerError:
            return False
        return True


def _opens_a_door(command: Command, found: Found) -> bool:
    """Tell whether a door would be opened: "the garage to 20" opens none."""
    if command.verb not in OPENING or not isinstance(found, tuple):
        return False
    return any(one.is_door for one in found)


def _place_said(command: Command, devices: Devices) -> tuple[str, ...]:
    """Return the words of the area or floor that a command says and all its devices are in."""
    said = {*command.mention.singles, *map(single, command.mention.place)}
    for names in ({one.area for one in devices}, {one.floor for one in devices}):
        place = singles(names.pop()) if len(names) == 1 else ()
        if place and said.issuperset(place):
            return place
    return ()


def _answer(home: Household, wanted: Sequence[tuple[str, Mapping[str, Any], Device]]) -> Answer:
    """Return the actions; those of one kind are one, with its devices in the order of inputs."""
    places = {device: place for place, device in enumerate(home.devices)}
    alike: dict[str, tuple[str, Mapping[str, Any], set[Device]]] = {}
    for service, data, device in wanted:
        key = f"{service} {sorted(data.items())}"
        alike.setdefault(key, (service, data, set()))[2].add(device)
    actions = [
        {
            "service": service,
            "target": [*dict.fromkeys(one.id for one in sorted(devices, key=places.__getitem__))],
            "data": dict(data),
        }
        for service, data, devices in alike.values()
    ]
    return {"actions": actions} if actions else {"actions": [], "reason": "none"}


def _verbs(verb: str) -> Iterator[str]:
    """Yield a verb, and those that are said for it of other devices."""
    yield verb
    seen = {verb}
    for group in _ALIKE:
        # Of the last two groups, what is on the right is not said for what is on the left.
        is_one = verb in group if group[0] not in ("turn_on", "turn_off") else verb == group[0]
        for other in group if is_one else ():
            if other not in seen:
                seen.add(other)
                yield other
