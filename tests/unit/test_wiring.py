"""The configuration as the parts take it: what follows from several settings, and from each."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from edged.config.keys import Config
from edged.config.load import load_config
from edged.daemon.loader import ResidentModel
from edged.daemon.wiring import (
    broker_settings,
    energy_meter,
    group_settings,
    limits_of,
    own_filters,
    topics_of,
)
from edged.errors import UnavailableError
from edged.protocol.escalation import is_escalation_reply
from edged.scheduling.fair_share import ShareTerms
from edged.scheduling.memory_budget import MemoryBudget, MemoryPlan


def config(text: str = "") -> Config:
    overrides = {"model.path": "m", "node": "kitchen"}
    return load_config(text, "edged.yaml", overrides=overrides)


def model(given: Config, num_slots: int = 4) -> ResidentModel:
    """What of a loaded model limits a node."""
    facts = SimpleNamespace(kv_bytes_per_token=128)
    bundle = SimpleNamespace(manifest=SimpleNamespace(model=facts), model_id="tiny-int8@1fbea1")
    engine = SimpleNamespace(max_model_len=200, num_slots=num_slots)
    memory = SimpleNamespace(budget=MemoryBudget(1000), plan=MemoryPlan(1, 2, 3, 4, 500))
    installed = SimpleNamespace(held_bytes=lambda num_slots: 1 + num_slots)
    parts = {"config": given, "bundle": bundle, "engine": engine, "memory": memory}
    parts["specialists"] = SimpleNamespace(installed=installed)
    return cast("ResidentModel", SimpleNamespace(**parts))


def test_what_specialists_hold_is_known_when_they_are_read() -> None:
    plan = limits_of(model(config())).plan
    assert plan is not None
    assert plan.specialists_bytes == 5
    assert plan.weights_bytes == 1


def test_the_topics_are_those_of_the_node_and_its_group() -> None:
    topics = topics_of(config("prefix: home/llm\ngroup: {name: heating}"))
    assert topics.info == "home/llm/kitchen/info"
    assert topics.group_root == "home/llm/group/heating"


def test_where_the_broker_is_and_who_asks_there_is_taken_over() -> None:
    given = config(
        "broker: {host: hub, port: 8883, tls: true, ca_file: ca.pem, username: edged, password: p,"
        " protocol: '3.1.1', keepalive: 20s, session_expiry: 600s, client_id: me}"
    )
    settings = broker_settings(given)
    assert (settings.address.url, settings.client_id) == ("mqtts://hub:8883", "me")
    assert (settings.address.username, settings.address.password) == ("edged", "p")
    assert (settings.ca_file, settings.protocol) == (Path("ca.pem"), "3.1.1")
    assert (settings.keepalive_s, settings.session_expiry_s) == (20, 600)


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    given = config(f"broker: {{username: edged, password_file: {file}}}")
    with pytest.raises(UnavailableError, match=r"broker\.password_file: cannot be read"):
        broker_settings(given)
    file.write_text("secret\nof the house\n")
    assert broker_settings(given).address.password == "secret"  # noqa: S105 - of this test


@pytest.mark.parametrize("size", [1, 8, 64])
def test_a_refusal_or_a_cancel_arrives_while_queue_and_engine_are_full(size: int) -> None:
    given = config(f"queue: {{size: {size}}}\nmodel: {{num_slots: 4}}")
    assert broker_settings(given).receive_maximum >= size + 4 + 2


@pytest.mark.parametrize("payload", ["1KiB", "16KiB", "200KiB"])
def test_a_request_above_the_payload_limit_arrives_to_be_refused(payload: str) -> None:
    given = config(f"request: {{max_payload: {payload}}}")
    assert broker_settings(given).max_packet_bytes >= 2 * given.request.max_payload_bytes


def test_a_broker_that_refuses_home_assistants_topic_keeps_the_node() -> None:
    settings = broker_settings(config("homeassistant: {prefix: ha}"))
    assert settings.optional_filters == {"ha/status", "edged/kitchen/client/+/request/+"}


def test_where_accounts_are_required_their_topics_are_indispensable() -> None:
    settings = broker_settings(config("security: {identity: required}"))
    assert settings.optional_filters == {"homeassistant/status", "edged/kitchen/request/+"}
    assert limits_of(model(config("security: {identity: required}"))).defaults.is_identity_required
    assert not limits_of(model(config())).defaults.is_identity_required


@pytest.mark.parametrize("name", ["attic", "group/heating"])
def test_whom_it_asks_is_named_by_the_configuration_alone(name: str) -> None:
    given = config(f"prefix: home\nrequest: {{escalate_to: {name}}}")
    replies = "home/kitchen/response/escalation/kitchen"
    requests = ["home/kitchen/request/+", "home/kitchen/client/+/request/+"]
    assert own_filters(given) == [*requests, "homeassistant/status", replies]
    assert replies in broker_settings(given).optional_filters
    first, second = (limits_of(model(given)).escalation for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.name, first.request_topic) == (name, f"home/{name}/request/generate")
    assert first.reply_topic == replies
    assert first.secret != second.secret
    assert limits_of(model(config())).escalation is None
    assert len(own_filters(config())) == 3


@pytest.mark.parametrize(("name", "answering"), [("attic", "attic"), ("group/heating", "+")])
def test_an_account_asks_another_node_on_topics_of_its_own(name: str, answering: str) -> None:
    given = config(f"request: {{escalate_to: {name}}}\nbroker: {{username: edged}}")
    target = limits_of(model(given)).escalation
    assert target is not None
    assert target.request_topic == f"edged/{name}/client/edged/request/generate"
    assert target.reply_topic == f"edged/{name}/client/edged/response/escalation/kitchen"
    replies = f"edged/{answering}/client/edged/response/escalation/kitchen"
    assert own_filters(given)[-1] == replies
    assert is_escalation_reply(replies, "kitchen")
    assert not is_escalation_reply("edged/kitchen/client/ha/request/generate", "kitchen")


def test_the_connection_of_a_group_is_another_session_at_the_same_broker() -> None:
    given = config("group: {name: heating, receive_maximum: 1}\nbroker: {host: hub}")
    own = broker_settings(given)
    shared = group_settings(own, given)
    assert shared.client_id != own.client_id
    assert (shared.address, shared.receive_maximum) == (own.address, 1)
    # What a node that is away was given, the broker is to give to another one soon.
    assert shared.session_expiry_s < own.session_expiry_s


def test_energy_is_estimated_with_the_threads_that_are_configured() -> None:
    given = config("metrics: {watts_per_thread: 2.5}\nmodel: {num_threads: 3}")
    assert (energy_meter(given).watts_per_thread, energy_meter(given).num_threads) == (2.5, 3)


def test_the_limits_are_the_models_and_the_configured_ones() -> None:
    given = config(
        "queue: {size: 5, weights: [ha=2], lend: 1s}\n"
        "sessions: {count: 3, max_tokens: 100, idle: 60s}"
    )
    limits = limits_of(model(given, num_slots=2))
    assert (limits.max_model_len, limits.num_slots, limits.kv_bytes_per_token) == (200, 2, 128)
    assert (limits.model_id, limits.budget.limit_bytes) == ("tiny-int8@1fbea1", 1000)
    assert limits.max_waiting == 5
    assert limits.share_terms == ShareTerms({"ha": 2.0}, lend_s=1.0)
    required = limits_of(model(config("security: {identity: required}")))
    assert required.share_terms == ShareTerms(is_identity_required=True)
    sessions = limits.sessions
    assert (sessions.count, sessions.max_tokens, sessions.idle_s) == (3, 100, 60.0)


def test_what_a_request_leaves_open_is_configured() -> None:
    given = config(
        "request: {timeout: 5s, max_timeout: 50s, max_tokens: 7, max_payload: 2KiB,"
        " allow_system: false, system_prompt: Be brief., reply_prefixes: [answers/]}\n"
        "homeassistant: {prefix: ha}\n"
        "group: {name: heating}"
    )
    defaults = limits_of(model(given)).defaults
    assert defaults.topics.root == "edged/kitchen"
    shared = "$share/edged-heating/edged/group/heating/request/+"
    assert shared in defaults.topics.group_filters
    assert (defaults.timeout_s, defaults.max_timeout_s, defaults.max_tokens) == (5.0, 50.0, 7)
    assert (defaults.max_payload_bytes, defaults.is_system_allowed) == (2048, False)
    assert (defaults.system, tuple(defaults.reply_prefixes)) == ("Be brief.", ("answers/",))
    assert defaults.discovery_prefix == "ha"


@pytest.mark.parametrize(("count", "has_sessions"), [(0, False), (1, True)])
def test_without_room_for_a_session_there_are_none(count: int, *, has_sessions: bool) -> None:
    given = config(f"sessions: {{count: {count}}}")
    assert limits_of(model(given)).defaults.has_sessions is has_sessions
