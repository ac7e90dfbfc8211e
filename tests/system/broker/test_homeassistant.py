"""Home Assistant, imitated with its templates: discovery, sensors, asking."""

import json
import time
from pathlib import Path
from typing import Any

import jinja2

from edged.commands.local_broker import Broker
from edged.daemon.homeassistant import MAX_STATE_LENGTH, Announcement
from edged.daemon.logs import TOTAL_BURST, TOTAL_REFILL_S
from edged.protocol.wire import Topics
from edged.transport.events import Connected
from tests.system.broker import peer as clients
from tests.system.broker.accounts import REQUIRED, broker_with_accounts
from tests.system.broker.configured import configured
from tests.system.broker.daemons import daemon
from tests.system.broker.peer import new_id, peer
from tests.system.broker.test_transport import ACCEPTED_5, ScriptedBroker
from tests.system.broker.wire_ends import Peer, settings

CONFIG = "homeassistant/device/edged_kitchen/config"
STATUS = "homeassistant/status"
REQUEST = "edged/kitchen/request/generate"


def render(template: str, payload: bytes | None = None, value: str = "") -> str:
    """Render as Home Assistant does: ``value_json`` from a payload, ``value`` for a command."""
    members = None if payload is None else json.loads(payload)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    return environment.from_string(template).render(value=value, value_json=members)


def next_on(client: clients.Peer, topic: str) -> bytes:
    while True:
        message = client.message()
        if message.topic == topic:
            return bytes(message.payload)


def test_every_sensor_template_finds_its_value(
    broker: Broker, bundle: Path, tmp_path: Path
) -> None:
    topics = [CONFIG, *(f"edged/kitchen/{name}" for name in ("availability", "info", "state"))]
    with (
        daemon(tmp_path, *configured(tmp_path, bundle, broker)) as process,
        peer(broker.port, broker.protocol, *topics) as client,
    ):
        process.until("STATUS=serving")
        received: dict[str, bytes] = {}
        while len(received) < len(topics):
            message = client.message()
            received[message.topic] = bytes(message.payload)
        found = json.loads(received[CONFIG])
        assert received[found["availability"][0]["topic"]] == b"online"
        values = {
            name: render(component["value_template"], received[component["state_topic"]])
            for name, component in found["cmps"].items()
            if len(component) > 1
        }
    assert values["state"] in found["cmps"]["state"]["options"]
    assert values["model"].startswith("tiny-")
    assert 10 < float(values["rss_bytes"]) < float(values["budget_bytes"])  # MiB
    assert values["ttft_p50_s"] == "None"  # "unknown" in Home Assistant: no request yet


def test_text_for_the_ask_entity_is_answered_in_the_answer_sensor(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    arguments = configured(tmp_path, bundle, mosquitto, homeassistant={"ask": True})
    with daemon(tmp_path, *arguments) as process, peer(mosquitto.port, "5", CONFIG) as client:
        process.until("STATUS=serving")
        found = json.loads(next_on(client, CONFIG))["cmps"]
        answer = found["answer"]
        with peer(mosquitto.port, "3.1.1", answer["state_topic"]) as home:
            for entity in ("ask", "question"):
                command = render(found[entity]["command_template"], value='Is "it" on? <ä>')
                home.publish(found[entity]["command_topic"], command.encode())
                payload = bytes(home.message().payload)
                state = render(answer["value_template"], payload)
                attributes = json.loads(render(answer["json_attributes_template"], payload))
                assert attributes["status"] == "ok"
                assert attributes["answer"][:MAX_STATE_LENGTH] == state
                assert attributes["total_ms"] >= 0
            long = render(found["ask"]["command_template"], value="x" * 15_000)
            home.publish(found["ask"]["command_topic"], long.encode())
            payload = bytes(home.message().payload)
            assert "model.max_model_len" in render(answer["value_template"], payload)
            attributes = json.loads(render(answer["json_attributes_template"], payload))
            assert attributes["code"] == "prompt_too_long"


def test_its_entities_ask_as_home_assistants_own_account(bundle: Path, tmp_path: Path) -> None:
    home = {"ask": True, "user": "me"}
    with broker_with_accounts(tmp_path) as broker:
        arguments = configured(
            tmp_path, bundle, broker, user="node-kitchen", security=REQUIRED, homeassistant=home
        )
        with daemon(tmp_path, *arguments), peer(broker.port, "5", CONFIG, user="me") as client:
            found = json.loads(next_on(client, CONFIG))["cmps"]
        with (
            daemon(tmp_path, *arguments) as process,
            peer(broker.port, "3.1.1", found["answer"]["state_topic"], user="me") as client,
        ):
            process.until("STATUS=serving")
            command = render(found["ask"]["command_template"], value="Is it on?")
            client.publish(found["ask"]["command_topic"], command.encode())
            message = client.message()
            assert json.loads(message.payload)["status"] == "ok"
    assert message.topic == "edged/kitchen/client/me/response/generate/entities"


def test_a_long_answer_is_truncated_in_the_state_and_complete_in_the_attribute() -> None:
    announced = Announcement(
        Topics("edged", "kitchen"), "homeassistant", "ha", "tiny", can_ask=True
    )
    answer = json.loads(announced.message().payload)["cmps"]["answer"]
    text = "ä" * 1000
    reply: dict[str, Any] = {"status": "ok", "data": {"text": text, "finish_reason": "length"}}
    payload = json.dumps(reply).encode()
    assert render(answer["value_template"], payload) == "ä" * MAX_STATE_LENGTH
    assert json.loads(render(answer["json_attributes_template"], payload))["answer"] == text


def test_the_node_is_announced_again_when_home_assistant_starts(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    arguments = configured(tmp_path, bundle, mosquitto)
    with daemon(tmp_path, *arguments) as process, peer(mosquitto.port, "5", CONFIG) as client:
        process.until("STATUS=serving")
        first = next_on(client, CONFIG)
        client.publish(STATUS, b"online")
        assert next_on(client, CONFIG) == first


def test_a_flood_of_starts_and_of_refused_requests_costs_few_lines_and_one_announcement(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    arguments = configured(tmp_path, bundle, mosquitto)
    answers = "edged/kitchen/response/#"
    with daemon(tmp_path, *arguments) as process, peer(mosquitto.port, "5", CONFIG, answers) as it:
        process.until("STATUS=serving")
        next_on(it, CONFIG)
        lines_before, begun_s = process.log.count("\n"), time.monotonic()
        for number in range(300):
            it.publish(STATUS, b"online")
            if number % 3 == 0:
                it.publish(REQUEST, {"prompt": "x", "response_topic": "homeassistant/lock/set"})
        next_on(it, CONFIG)
        name = new_id()
        it.publish(REQUEST, {"id": name, "prompt": "x", "max_tokens": 1})
        topics = [it.message().topic]
        while topics[-1] == CONFIG:
            topics.append(it.message().topic)
        assert CONFIG not in topics
        num_allowed = TOTAL_BURST + (time.monotonic() - begun_s) / TOTAL_REFILL_S
        assert process.log.count("\n") - lines_before <= num_allowed
        assert process.log.count("Home Assistant has started") == 1


def test_disabling_discovery_removes_an_earlier_announcement(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    for is_on in (True, False):
        arguments = configured(tmp_path, bundle, mosquitto, homeassistant={"discovery": is_on})
        with daemon(tmp_path, *arguments) as process:
            process.until("STATUS=serving")
            assert process.stop() == 0
        with peer(mosquitto.port, "5", CONFIG, "edged/kitchen/availability") as client:
            retained = client.message().topic  # in the order of the subscriptions
            assert (retained == CONFIG) is is_on


def test_it_connects_without_access_to_home_assistants_status() -> None:
    one_granted_one_refused = ACCEPTED_5 + b"\x90\x05\x00\x01\x00\x01\x87"
    with ScriptedBroker([one_granted_one_refused]) as broker:
        terms = settings(broker.place, "node", optional_filters=frozenset({STATUS}))
        node = Peer(terms, "edged/kitchen/request/+", STATUS)
        node.expect(Connected)
        node.stop()
