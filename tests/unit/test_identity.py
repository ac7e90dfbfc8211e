"""Accounts: whose request it is says the topic, and what is whose is told apart by it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from edged.node.generation import Fragment
from edged.node.intake import ADVICE_INTERVAL_S
from edged.node.sessions import SessionLimits, Sessions
from edged.protocol.decode import decode, reply_address
from edged.protocol.request import CancelRequest, Client, Request
from edged.protocol.wire import (
    MAX_USER_BYTES,
    Delivery,
    Dropped,
    DropReason,
    Refusal,
    RequestDefaults,
    Topics,
    WireProperties,
)
from tests.fakes import LIMITS, Bench
from tests.make_request import make_request

TOPICS = Topics("edged", "kitchen", "lab")
DEFAULTS = RequestDefaults(TOPICS)
REQUIRED = replace(DEFAULTS, is_identity_required=True)
OWN, GROUP = "edged/kitchen/client/ha", "edged/group/lab/client/ha"


def ask(
    topic: str,
    defaults: RequestDefaults = DEFAULTS,
    response: str | None = None,
    **members: object,
) -> Any:  # noqa: ANN401 - what is expected of it depends on the test
    payload = json.dumps({"prompt": "x"} | members).encode()
    properties = WireProperties(response_topic=response)
    return decode(Delivery(topic, payload, properties=properties), defaults, 0.0)


def bench(*, is_identity_required: bool = False) -> Bench:
    defaults = replace(LIMITS.defaults, is_identity_required=is_identity_required)
    return Bench(replace(LIMITS, defaults=defaults))


def deliver(stage: Bench, user: str, operation: str = "generate", **members: object) -> None:
    topic = f"edged/kitchen/client/{user}/request/{operation}"
    stage.deliver({"prompt": "x"} | members, topic=topic)


@pytest.mark.parametrize("root", [OWN, GROUP])
def test_the_client_is_taken_from_the_topic_and_answered_below_the_answering_node(
    root: str,
) -> None:
    request = ask(f"{root}/request/generate")
    assert isinstance(request, Request)
    assert request.reply_to.topic == f"{OWN}/response/generate"
    assert request.reply_to.client == Client("ha")
    chosen = ask(f"{root}/request/generate", response_topic=f"{root}/response/a/b")
    assert chosen.reply_to.topic == f"{OWN}/response/a/b"
    assert chosen.reply_to.client == Client("ha"), "whatever its reply topics"
    assert ask(f"{root}/request/cancel", id="a").reply_to.topic == f"{OWN}/response/cancel"


@pytest.mark.parametrize(
    "asked",
    [
        "edged/kitchen/response/generate",
        "edged/kitchen/client/other/response/generate",
        "edged/attic/client/ha/response/generate",
        "edged/kitchen/client/ha/request/generate",
        "edged/kitchen/client/ha/stream/a",
        "edged/kitchen/client/ha/response",
        "edged/kitchen/client/ha/response/",
        "edged/kitchen/client/ha/response/a+",
        "edged/kitchen/client/ha/response/" + "a" * 256,
        "edged/kitchen/client/ha/response/" + "a/" * 16,
        "reply/a",
        "home/lock/set",
        "",
    ],
)
@pytest.mark.parametrize("way", ["response", "response_topic"])
def test_another_reply_topic_than_ones_own_is_refused_where_one_reads(asked: str, way: str) -> None:
    chosen = asked if way == "response" else None
    member = {} if way == "response" else {way: asked}
    refusal = ask(f"{OWN}/request/generate", DEFAULTS, chosen, **member)
    assert isinstance(refusal, Refusal)
    assert refusal.reply_to.topic == f"{OWN}/response/generate"
    assert refusal.rejected.message == (
        f"response_topic: must be below {OWN}/response/, as all replies to you"
    )


def test_a_reply_topic_of_a_group_is_no_topic_of_the_node() -> None:
    refusal = ask(f"{OWN}/request/generate", response=f"{GROUP}/response/a")
    assert isinstance(refusal, Refusal)
    refusal = ask(f"{GROUP}/request/generate", response=f"{OWN}/response/a")
    assert refusal.reply_to.topic == f"{OWN}/response/generate"
    assert f"below {GROUP}/response/" in refusal.rejected.message


@pytest.mark.parametrize("node", ["kitchen", "attic"])
def test_without_an_account_no_reply_goes_to_one(node: str) -> None:
    wide = replace(DEFAULTS, reply_prefixes=("edged/", "reply/"))
    topic = f"edged/{node}/client/ha/response/generate"
    dropped = ask("edged/kitchen/request/generate", wide, response=topic)
    assert isinstance(dropped, Dropped)
    assert dropped.reason is DropReason.FORBIDDEN_TOPIC
    request = ask("edged/kitchen/request/generate", response="reply/ha")
    assert request.reply_to.client == Client(None, "reply/ha")


@pytest.mark.parametrize(
    "topic",
    [
        "edged/kitchen/client//request/generate",
        "edged/kitchen/client/a/b/request/generate",
        f"edged/kitchen/client/{'u' * (MAX_USER_BYTES + 1)}/request/generate",
        f"edged/kitchen/client/{'é' * (MAX_USER_BYTES // 2 + 1)}/request/generate",
        "edged/kitchen/client/a\x85/request/generate",
        "edged/kitchen/client/ha/request/",
        "edged/kitchen/client/ha/response/generate",
        "edged/kitchen/client/ha",
        "edged/group/other/client/ha/request/generate",
    ],
)
def test_a_topic_of_no_client_is_dropped(topic: str) -> None:
    dropped = ask(topic)
    assert isinstance(dropped, Dropped)
    assert dropped.reason is DropReason.UNKNOWN_TOPIC


def test_an_unknown_operation_is_refused_on_the_topic_that_mirrors_it() -> None:
    refusal = ask(f"{OWN}/request/sing")
    assert refusal.reply_to.topic == f"{OWN}/response/sing"
    # No reply can go there.
    dropped = ask(f"{OWN}/request/{'a' * 300}")
    assert dropped.reason is DropReason.FORBIDDEN_TOPIC


@pytest.mark.parametrize("root", ["edged/kitchen", "edged/group/lab"])
@pytest.mark.parametrize("operation", ["generate", "cancel", "correct"])
def test_where_accounts_are_required_the_old_topic_names_the_new_one(
    root: str, operation: str
) -> None:
    refusal = ask(f"{root}/request/{operation}", REQUIRED, "reply/a", id="a1")
    assert isinstance(refusal, Refusal)
    assert refusal.reply_to.topic == f"edged/kitchen/response/{operation}"
    assert (refusal.reply_to.request_id, refusal.reply_to.correlation_data) == (None, None)
    assert f"publish to {root}/client/USER/request/{operation} " in refusal.rejected.message
    assert refusal.rejected.code.status == 403
    assert isinstance(ask(f"{root}/client/ha/request/generate", REQUIRED), Request)


def test_where_accounts_are_required_an_unknown_operation_is_dropped() -> None:
    dropped = ask("edged/kitchen/request/sing", REQUIRED)
    assert dropped.reason is DropReason.UNKNOWN_TOPIC


def test_the_address_of_what_is_never_decoded_is_in_the_same_subtree() -> None:
    properties = WireProperties(response_topic="edged/kitchen/client/other/response/a")
    delivery = Delivery(f"{OWN}/request/generate", b"\0", properties=properties)
    address = reply_address(delivery, DEFAULTS)
    assert not isinstance(address, Dropped)
    assert (address.topic, address.user) == (f"{OWN}/response/generate", "ha")


def test_a_second_of_messages_without_an_account_costs_one_reply() -> None:
    stage = bench(is_identity_required=True)
    for _ in range(3):
        stage.deliver({"prompt": "x", "id": "a"})
    (reply,) = stage.transport.on("/response/generate")
    assert reply.json["error"]["code"] == "identity_required"
    assert reply.json["id"] is None
    stage.confirm_all()
    assert len(stage.transport.acknowledged) == 3
    assert stage.metrics.snapshot()["dropped"] == 2
    stage.clock.advance(ADVICE_INTERVAL_S)
    stage.deliver({"prompt": "x"})
    assert len(stage.transport.on("/response/generate")) == 2
    assert stage.worker.jobs == []


def test_an_account_streams_to_a_topic_of_its_own() -> None:
    stage = bench()
    deliver(stage, "ha", id="a1", stream=True)
    stage.take(Fragment(stage.worker.jobs[0].key, 0, "Pa"))
    (fragment,) = stage.transport.on("/stream/a1")
    assert fragment.message.topic == "edged/kitchen/client/ha/stream/a1"


@pytest.mark.parametrize("canceller", ["edged/kitchen/client/other", "edged/kitchen"])
def test_anothers_request_is_cancelled_as_if_it_did_not_exist(canceller: str) -> None:
    stage = bench()
    deliver(stage, "ha", id="a1")
    stage.deliver({"id": "a1"}, topic=f"{canceller}/request/cancel")
    (reply,) = stage.transport.on("/response/cancel")
    assert reply.json["data"] == {"found": False}
    assert reply.message.topic == f"{canceller}/response/cancel"
    assert stage.worker.cancelled == []
    deliver(stage, "ha", "cancel", id="a1")
    assert stage.transport.on("/response/cancel")[-1].json["data"] == {"found": True}


def test_an_account_cancels_whatever_its_reply_topic() -> None:
    cancel = ask(f"{OWN}/request/cancel", response=f"{OWN}/response/elsewhere", id="a1")
    assert isinstance(cancel, CancelRequest)
    stage = bench()
    deliver(stage, "ha", id="a1", response_topic=f"{OWN}/response/generate/1")
    stage.deliver({"id": "a1"}, topic=f"{OWN}/request/cancel")
    assert len(stage.worker.cancelled) == 1


def test_a_session_goes_on_whatever_the_reply_topic_and_for_its_account_only() -> None:
    sessions = Sessions(SessionLimits())

    def turns(user: str | None, topic: str) -> int:
        request = make_request(session="s", topic=topic, user=user)
        turn = sessions.open(request, topic, may_be_a_repeat=False, now_s=0.0)
        assert turn is not None
        return sessions.close(turn, "ok", 0.0).num_turns

    assert [turns("ha", "a"), turns("ha", "b"), turns("other", "a"), turns(None, "a")] == [
        1,
        2,
        1,
        1,
    ]


def test_the_same_id_of_two_accounts_is_two_requests() -> None:
    stage = Bench(replace(LIMITS, num_slots=2))
    deliver(stage, "ha", id="a1")
    deliver(stage, "other", id="a1")
    assert len(stage.worker.jobs) == 2
