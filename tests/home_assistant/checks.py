"""What must hold of edged with Home Assistant, in the order in which it is tried."""

import signal
from dataclasses import dataclass
from typing import Any

from edged.commands.local_broker import Broker
from edged.daemon.homeassistant import MAX_STATE_LENGTH
from tests.home_assistant.home import HomeAssistant, eventually
from tests.home_assistant.kitchen import EXAMPLES, WATCHER, Node
from tests.paths import ROOT
from tests.system.broker.peer import peer

ANNOUNCEMENT = "homeassistant/device/edged_kitchen/config"
PACKAGES = (
    ROOT / "tests" / "home_assistant" / "things.yaml",
    EXAMPLES / "home-assistant-home.yaml",
    EXAMPLES / "home-assistant-specialist.yaml",
)
WATER = "switch.washing_machine_water"
# The devices by their area; the first area is on a floor.
AREAS = {
    "Office": ("light.desk_lamp", "cover.curtains", "fan.ceiling_fan"),
    "Hall": ("lock.front_door",),
    "Laundry": (WATER,),
}
QUESTIONS = (
    ("notify.send_message", "notify.edged_kitchen_ask", "message", "France", "Paris"),
    ("text.set_value", "text.edged_kitchen_question", "value", "Italy", "Rome"),
)
REFUSAL = "I know no device here for that."
# What the script is given, and what it changes; where that is nothing, the refusal is told.
COMMANDS: tuple[tuple[dict[str, str], dict[str, object]], ...] = (
    ({"text": "turn off the desk lamp"}, {"light.desk_lamp": "off"}),
    ({"text": "turn the lamp on in here", "area": "Office"}, {"light.desk_lamp": "on"}),
    ({"text": "turn the lights off upstairs"}, {"light.desk_lamp": "off"}),
    ({"text": "open the curtains half way"}, {"cover.curtains": 50}),
    ({"text": "lock the front door"}, {"lock.front_door": "locked"}),
    (
        {"text": "switch off the fan and close the curtains"},
        {"fan.ceiling_fan": "off", "cover.curtains": 0},
    ),
    ({"text": "start the lawn mower"}, {}),
)


@dataclass
class Trial:
    """All that runs, and how often something was wrong."""

    broker: Broker
    node: Node
    home: HomeAssistant
    num_bad: int = 0

    def check(self, what: str, is_right: object, found: object) -> None:
        """Print a line: whether it is right, else what was found instead."""
        self.num_bad += not is_right
        print(f"ok   {what}" if is_right else f"BAD  {what}: {found}", flush=True)

    def check_log(self, what: str) -> None:
        """Check that Home Assistant's log has no complaint."""
        problems = self.home.problems()
        self.check(f"no warning in Home Assistant's log {what}", not problems, problems)

    def check_availability(self, entities: list[str], when: str, *, is_available: bool) -> None:
        """Check that entities become available, or unavailable."""

        def others() -> list[str]:
            states = self.home.states().values()
            available = {each["entity_id"] for each in states if each["state"] != "unavailable"}
            return [each for each in entities if (each in available) is not is_available]

        holds = eventually(lambda: not others())
        state = "available" if is_available else "unavailable"
        self.check(f"{len(entities)} entities are {state} {when}", holds, holds or others())


def run(trial: Trial) -> None:
    """Check everything."""
    entities = _discover(trial)
    for package in PACKAGES:
        trial.home.add_package(package)
    trial.home.stop()
    trial.home.start()
    trial.check_availability(entities, "after Home Assistant's restart", is_available=True)
    trial.check_log("after its restart, with the examples")
    for name, number in (("SIGTERM", signal.SIGTERM), ("kill -9", signal.SIGKILL)):
        trial.node.stop(number)
        trial.check_availability(entities, f"after {name} to the node", is_available=False)
        trial.node.start()
        trial.check_availability(entities, "after its start", is_available=True)
    for service, entity, key, country, capital in QUESTIONS:
        text = f"What is the capital of {country}? Answer in one sentence."
        trial.home.do(service, **{"entity_id": entity, key: text})
        _check_answer(trial, service, capital)
    _furnish(trial.home)
    _check_washing_machine(trial)
    for said, changes in COMMANDS:
        _check_command(trial, said, changes)
    trial.check_log("after all this")
    trial.broker.stop()
    trial.check_availability(entities, "without the broker", is_available=False)
    trial.broker.start()
    trial.check_availability(entities, "after the broker's start", is_available=True)


def _discover(trial: Trial) -> list[str]:
    """Check what becomes of the announcement; enable and return all entities."""
    with peer(trial.broker.port, "5", ANNOUNCEMENT, user=WATCHER) as watcher:
        components = watcher.reply()["cmps"]
    # One that has nothing but its platform is there to be removed.
    announced = {each["unique_id"] for each in components.values() if len(each) > 1}
    home = trial.home

    def entities() -> list[dict[str, Any]]:
        (all_entities,) = home.command({"type": "config/entity_registry/list"})
        return [each for each in all_entities if each["platform"] == "mqtt"]

    def missing() -> set[str]:
        return announced ^ {each["unique_id"] for each in entities()}

    holds = eventually(lambda: not missing())
    what = f"each of {len(announced)} announced components is an entity"
    trial.check(what, holds, holds or missing())
    found = {each["entity_id"]: each["disabled_by"] for each in entities()}
    shown = [name for name, disabled_by in found.items() if disabled_by is None]
    trial.check_availability(shown, "that are enabled by default", is_available=True)
    trial.check_log("after the announcement")
    update = {"type": "config/entity_registry/update", "disabled_by": None}
    home.command(*({**update, "entity_id": name} for name in found if name not in shown))
    return list(found)


def _check_answer(trial: Trial, service: str, word: str) -> None:
    """Check that the sensor gets an answer with this word, and all of it as its attribute."""

    def sensor() -> tuple[str, str]:
        found = trial.home.states()["sensor.edged_kitchen_last_answer"]
        return found["state"], found["attributes"].get("answer", "")

    holds = eventually(lambda: word in sensor()[1])
    state, answer = sensor()
    is_right = holds and state == answer[:MAX_STATE_LENGTH].strip()
    trial.check(f"{service}: the answer is in the sensor", is_right, (state, answer))


def _furnish(home: HomeAssistant) -> None:
    """Put the devices into areas, and one of these on a floor.

    An id is the name in small letters.
    """
    areas = [{"type": "config/area_registry/create", "name": name} for name in AREAS]
    areas[0]["floor_id"] = "upstairs"
    update = {"type": "config/entity_registry/update"}
    places = [
        {**update, "entity_id": device, "area_id": area.lower()}
        for area, devices in AREAS.items()
        for device in devices
    ]
    home.command({"type": "config/floor_registry/create", "name": "Upstairs"}, *areas, *places)


def _notification(home: HomeAssistant) -> str:
    return str(home.states()["sensor.notification"]["state"])


def _check_washing_machine(trial: Trial) -> None:
    home = trial.home

    def report(text: str) -> None:
        home.do("switch.turn_on", entity_id=WATER)
        home.do("input_text.set_value", entity_id="input_text.washing_machine_report", value=text)

    def water() -> str:
        return str(home.states()[WATER]["state"])

    report("There is a puddle under my washing machine.")
    holds = eventually(lambda: water() == "off")
    trial.check("a leak turns the water off", holds, holds or water())
    report("Nothing comes on and the floor is damp")
    told = eventually(lambda: _notification(home).startswith("Did you mean"))
    found = (water(), _notification(home))
    trial.check("what is unsure is asked, and the water stays on", told and found[0] == "on", found)


def _devices(home: HomeAssistant) -> dict[str, object]:
    """Return the state of each device; of the curtains their position."""
    states = home.states()
    found = {name: states[name]["state"] for devices in AREAS.values() for name in devices}
    return found | {"cover.curtains": states["cover.curtains"]["attributes"]["current_position"]}


def _check_command(trial: Trial, said: dict[str, str], changes: dict[str, object]) -> None:
    """Check that a command changes this and nothing else, or that its refusal is told."""
    home = trial.home
    expected = _devices(home) | changes

    def wrong() -> dict[str, object]:
        return {name: now for name, now in _devices(home).items() if now != expected[name]}

    def holds() -> bool:
        return not wrong() and (bool(changes) or _notification(home) == REFUSAL)

    home.do("script.edged_command", **said)
    effect = "is done" if changes else "changes nothing, and somebody is told"
    is_right = eventually(holds)
    trial.check(f"{said['text']!r} {effect}", is_right, (wrong(), _notification(home)))
