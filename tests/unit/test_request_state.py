"""The record of one request: what it may show, and what it keeps."""

from dataclasses import replace

from edged.node.request_state import Identity, RequestState
from edged.protocol.request import ChatMessage, ReplyAddress
from edged.protocol.wire import Delivery, WireProperties
from edged.scheduling.queued_request import RequestPhase
from tests.make_request import make_request

WORDS = "secret words"
DELIVERY = Delivery("t", WORDS.encode(), qos=1, packet_id=7, connection_epoch=2)


def state_of(delivery: Delivery = DELIVERY) -> RequestState:
    return RequestState(3, 0.0, delivery=delivery, fingerprint=delivery.fingerprint)


def accepted() -> RequestState:
    state = state_of()
    state.accept(make_request(request_id="a", messages=(ChatMessage("user", WORDS),)))
    state.prompt_ids, state.max_tokens = [1, 2], 9
    return state


def test_it_can_be_printed_in_every_phase_without_its_words() -> None:
    arrived, waiting = state_of(), accepted()
    waiting.phase = RequestPhase.WAITING
    assert str(arrived) == (
        "request 3: arrived, 0 tokens prefilled, 0 of 0 generated, paused 0 times"
    )
    assert repr(waiting) == (
        "request 3: waiting, 0 tokens prefilled, 0 of 9 generated, paused 0 times"
    )
    waiting.forget_content()
    assert "request 3" in repr([waiting])


def test_from_the_decoding_on_the_payload_is_not_kept() -> None:
    state = accepted()
    assert state.delivery == DELIVERY.receipt
    assert state.identity == Identity.of(DELIVERY, state.request.reply_to)
    assert state.expires_s == state.request.deadline_s


def test_an_answered_request_keeps_what_its_acknowledgement_needs() -> None:
    state = accepted()
    identity = state.identity
    for _ in range(2):
        state.forget_content()
        assert (state.delivery, state.identity) == (DELIVERY.receipt, identity)
        assert not hasattr(state, "request")
        assert not state.prompt_ids


def test_a_refused_delivery_keeps_no_payload() -> None:
    state = state_of()
    state.forget_content()
    assert state.delivery == DELIVERY.receipt


def test_two_deliveries_are_the_same_request_by_token_topics_and_payload() -> None:
    address = ReplyAddress("t", "a")
    identity = Identity.of(DELIVERY, address)
    again = replace(DELIVERY, packet_id=8, properties=WireProperties(content_type="text/plain"))
    assert Identity.of(again, address) == identity
    others = [
        Identity.of(DELIVERY, ReplyAddress("u", "a")),
        Identity.of(DELIVERY, ReplyAddress("t", "b")),
        Identity.of(DELIVERY, ReplyAddress("t", "a", b"c")),
        Identity.of(replace(DELIVERY, payload=b"x"), address),
        Identity.of(replace(DELIVERY, topic="edged/kitchen/request/correct"), address),
    ]
    assert len({identity, *others}) == 6
    assert identity.has_token
    assert not Identity.of(DELIVERY, ReplyAddress("t")).has_token


def test_without_a_token_only_a_redelivery_may_be_a_repeat() -> None:
    named, anonymous, again = (
        accepted(),
        state_of(),
        state_of(replace(DELIVERY, is_redelivery=True)),
    )
    for state in (anonymous, again):
        state.accept(make_request())
    assert [it.may_be_a_repeat for it in (named, anonymous, again)] == [True, False, True]
