"""The announcement for Home Assistant: what is documented, and nothing that is not."""

import json
import logging
from typing import Any

import pytest

from edged.daemon.homeassistant import MAX_DELAY_S, MIN_INTERVAL_S, Announcement, Discovery
from edged.protocol.decode import decode
from edged.protocol.request import OnDeadline, Request
from edged.protocol.wire import Delivery, RequestDefaults, Topics
from tests.fakes import FakeClock, FakeTransport
from tests.paths import DATA

SCHEMA = DATA / "homeassistant" / "device-discovery.schema.json"
STATUS = "homeassistant/status"


def announcement(
    *, can_ask: bool = False, has_specialists: bool = False, prefix: str = "edged"
) -> Announcement:
    topics = Topics(prefix, "kitchen")
    return Announcement(topics, "homeassistant", "ha", "tiny", can_ask, has_specialists)


def payload(*, can_ask: bool, has_specialists: bool = True) -> Any:  # noqa: ANN401 - JSON
    found = announcement(can_ask=can_ask, has_specialists=has_specialists)
    return json.loads(found.message().payload)


@pytest.mark.parametrize("can_ask", [False, True])
def test_it_is_what_home_assistant_documents(can_ask: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(payload(can_ask=can_ask), json.loads(SCHEMA.read_text()))


def test_the_schema_finds_a_typing_error() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    wrong = payload(can_ask=True)
    wrong["cmps"]["rss_bytes"]["unit_of_messurement"] = "B"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, json.loads(SCHEMA.read_text()))


def test_unique_ids_are_unique_and_the_topic_is_the_devices() -> None:
    components = payload(can_ask=True)["cmps"].values()
    ids = [component["unique_id"] for component in components]
    assert len(set(ids)) == len(ids)
    assert announcement().topic == "homeassistant/device/edged_kitchen/config"
    assert announcement(prefix="site 1/edged").device == "site_1_edged_kitchen"


def test_asking_is_taken_away_when_it_is_not_allowed() -> None:
    components = payload(can_ask=False)["cmps"]
    assert components["ask"] == {"p": "notify"}
    assert components["question"] == {"p": "text"}
    assert components["answer"] == {"p": "sensor"}


def test_what_its_entities_ask_is_answered_shorter_rather_than_refused() -> None:
    jinja2 = pytest.importorskip("jinja2")
    components = payload(can_ask=True)["cmps"]
    for name in ("ask", "question"):
        asked = jinja2.Template(components[name]["command_template"]).render(value="x")
        delivery = Delivery(components[name]["command_topic"], asked.encode(), qos=1, packet_id=1)
        request = decode(delivery, RequestDefaults(Topics("edged", "kitchen")), 0.0)
        assert isinstance(request, Request)
        assert request.on_deadline is OnDeadline.SHORTEN


def test_shares_of_decisions_are_shown_in_percent_where_there_are_specialists() -> None:
    components = payload(can_ask=False)["cmps"]
    unsure, agreement = components["unsure_share"], components["agreement_share"]
    assert unsure["entity_category"] == agreement["entity_category"] == "diagnostic"
    assert unsure["unit_of_measurement"] == "%"
    template = unsure["value_template"]
    jinja2 = pytest.importorskip("jinja2")
    shown = [
        jinja2.Template(template).render(value_json={"unsure_share": share})
        for share in (0.0625, 0, None)
    ]
    assert shown == ["6.2", "0", "None"]
    without = payload(can_ask=False, has_specialists=False)["cmps"]
    assert without["unsure_share"] == without["agreement_share"] == {"p": "sensor"}


def discovery(*, is_on: bool = True) -> tuple[Discovery, FakeTransport, FakeClock]:
    transport, clock = FakeTransport(), FakeClock()
    return Discovery(announcement(), transport, clock, is_on=is_on), transport, clock


def test_it_is_announced_again_soon_after_home_assistant_has_started() -> None:
    found, transport, clock = discovery()
    found.announce()
    assert not found.tick()
    delivery = Delivery(STATUS, b"online", qos=1)
    found.take(delivery)
    assert transport.acknowledged == [delivery.receipt]
    assert clock() <= found.due_s <= clock() + MAX_DELAY_S
    clock.advance(MAX_DELAY_S)
    assert found.tick()
    assert [(sent.retain, len(sent.message.payload) > 0) for sent in transport.sent] == [
        (True, True),
        (True, True),
    ]
    assert not found.tick()


def test_however_often_it_starts_it_costs_one_line_and_one_announcement_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    found, transport, clock = discovery()
    for _ in range(300):
        found.take(Delivery(STATUS, b"online", qos=1))
        clock.advance(MIN_INTERVAL_S / 100)
        found.tick()
    assert len(transport.acknowledged) == 300
    assert 3 <= len(transport.sent) <= 4
    assert len(caplog.messages) == len(transport.sent)
    clock.advance(MIN_INTERVAL_S)
    assert found.tick(), "the last one is answered, too"


def test_home_assistants_stop_changes_nothing() -> None:
    found, transport, clock = discovery()
    found.take(Delivery(STATUS, b"offline", qos=1))
    clock.advance(60)
    assert not found.tick()
    assert transport.sent == []


def test_switched_off_it_is_taken_back_once_and_not_announced() -> None:
    found, transport, clock = discovery(is_on=False)
    for _ in range(2):
        found.announce()
    assert [(sent.retain, sent.message.payload) for sent in transport.sent] == [(True, b"")]
    found.take(Delivery(STATUS, b"online", qos=1))
    clock.advance(60)
    assert not found.tick()
