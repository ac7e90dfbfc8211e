"""Replies: one for each delivery, copies for duplicates, and a bound on everything kept."""

import gc
from dataclasses import replace

import pytest

from edged.node.generation import Finished
from edged.node.ledger import MAX_DUPLICATES, REPLAY_BYTES
from edged.node.replies import MAX_FINISHED
from edged.protocol.request import Answer, ChatMessage, Energy, EnergySource, FinishReason
from edged.protocol.wire import Delivery
from tests.fakes import LIMITS, Bench, correlation, ran
from tests.unit.test_node_scheduling import ask_slow_then_person, interrupted

ASK = {"id": "a", "prompt": "x", "max_tokens": 5}
LONG = ASK | {"timeout_ms": 300_000}


def codes(bench: Bench) -> list[str]:
    return [sent.json["error"]["code"] for sent in bench.transport.replies if "error" in sent.json]


def test_duplicates_beyond_a_bound_are_refused_and_the_others_get_their_copies() -> None:
    bench = Bench()
    for _ in range(1 + MAX_DUPLICATES):
        bench.deliver(ASK)
    assert bench.transport.replies == []
    bench.deliver(ASK)
    (refused,) = bench.transport.replies
    assert (refused.json["error"]["code"], refused.json["id"]) == ("queue_full", "a")
    assert refused.json["error"]["retry_after_ms"] > 0
    bench.finish()
    assert len(bench.worker.jobs) == 1
    assert len(bench.transport.replies) == 2 + MAX_DUPLICATES
    bench.confirm_all()
    assert len(bench.transport.acknowledged) == 2 + MAX_DUPLICATES


def test_all_copies_of_a_reply_share_its_payload() -> None:
    """A reply may have hundreds of kilobytes, and the memory for so many copies is not planned."""
    bench = Bench()
    for _ in range(1 + MAX_DUPLICATES):
        bench.deliver(LONG)
    bench.finish("x" * (REPLAY_BYTES // 2))
    bench.clock.advance(7.0)
    for _ in range(3):
        bench.deliver(LONG)
    sent = [one.message for one in bench.transport.replies]
    assert len(sent) == 1 + MAX_DUPLICATES + 3
    assert [one.json["duplicate"] for one in bench.transport.replies] == [False] + [True] * 67
    assert len({id(one.payload) for one in sent}) == 2
    left = [one.properties.message_expiry_s for one in (sent[0], sent[-4], sent[-1])]
    assert left == [299, 299, 292]
    assert bench.metrics.snapshot()["duplicates"] == MAX_DUPLICATES + 3


def num_kept(words: str) -> int:
    """Count the objects in memory that hold these words of a request."""
    gc.collect()
    kept = gc.get_objects()
    # isinstance() would ask an object's __class__, too, and some libraries' proxies warn then.
    payloads = [it for it in kept if type(it) is Delivery and words.encode() in it.payload]
    messages = [it for it in kept if type(it) is ChatMessage and words in it.content]
    return len(payloads) + len(messages)


def test_of_what_waits_for_its_confirmation_no_content_is_kept() -> None:
    """Thousands may: a broker may deliver far beyond the Receive Maximum."""
    bench = Bench(limits=replace(LIMITS, max_waiting=1), is_preparing=False)
    asked: list[dict[str, object]] = [
        {"id": f"r{number}", "prompt": "these words"} for number in range(3)
    ]
    asked.append({"id": "bad", "prompt": ["these words"]})
    for payload in asked:
        bench.deliver(payload)
    assert len(bench.transport.replies) == 3
    for payload in asked:  # a redelivery takes the place of the one before
        bench.take(replace(bench.delivery(payload), is_redelivery=True, connection_epoch=1))
    assert len(bench.transport.replies) == 3
    assert num_kept("these words") == 1, "the one request that is not answered"


def test_of_a_duplicate_no_content_is_kept() -> None:
    bench = Bench()
    for _ in range(5):
        bench.deliver({"id": "a", "prompt": "those words"})
    assert num_kept("those words") == 1


def test_duplicates_of_a_request_that_is_refused_are_refused_with_it() -> None:
    bench = Bench(is_preparing=False)
    deliveries = [bench.deliver(ASK) for _ in range(2)]
    bench.clock.advance(40.0)
    bench.tick()
    assert codes(bench) == ["timeout", "timeout"]
    bench.confirm_all()
    assert bench.transport.acknowledged == [it.receipt for it in deliveries]


def test_duplicates_are_cancelled_with_their_request() -> None:
    bench = Bench()
    bench.deliver(ASK | {"id": "runs"})
    for _ in range(2):
        bench.deliver(ASK)
    bench.deliver({"id": "a"}, "cancel")
    assert codes(bench) == ["cancelled", "cancelled"]


def redeliver(bench: Bench, delivery: Delivery, epoch: int) -> Delivery:
    again = replace(delivery, is_redelivery=True, connection_epoch=epoch)
    bench.take(again)
    return again


def test_each_of_several_equal_deliveries_is_redelivered_in_its_own_place() -> None:
    bench = Bench()
    first, second = bench.deliver(ASK), bench.deliver(ASK)
    again = [redeliver(bench, it, epoch=1) for it in (first, second)]
    bench.finish()
    bench.confirm_all()
    assert len(bench.transport.replies) == 2
    assert bench.transport.acknowledged == [it.receipt for it in again]


def test_a_redelivery_on_the_same_connection_is_a_delivery_of_its_own() -> None:
    bench = Bench()
    first = bench.deliver(b"no id")
    again = redeliver(bench, first, epoch=0)
    bench.finish()
    bench.finish()
    assert len(bench.worker.jobs) == 2
    bench.confirm_all()
    assert bench.transport.acknowledged == [first.receipt, again.receipt]


@pytest.mark.parametrize("payload", [{"id": "a", "prompt": 7}, b"\xff"])
def test_a_refusal_on_its_way_is_not_sent_again_to_a_redelivery(payload: object) -> None:
    bench = Bench()
    again = redeliver(bench, bench.deliver(payload), epoch=1)
    assert len(bench.transport.replies) == 1
    bench.confirm_all()
    assert bench.transport.acknowledged == [again.receipt]


def test_a_cancel_on_its_way_is_not_answered_again_to_a_redelivery() -> None:
    bench = Bench()
    again = redeliver(bench, bench.deliver({"id": "a"}, "cancel"), epoch=1)
    assert len(bench.transport.replies) == 1
    bench.confirm_all()
    assert bench.transport.acknowledged == [again.receipt]


def test_two_requests_to_one_reply_topic_are_answered_apart() -> None:
    bench = Bench()
    for data in (b"1", b"2"):
        bench.deliver(b"hello", properties=correlation(data, response_topic="reply/me"))
    bench.finish("one")
    bench.finish("two")
    answers = {
        sent.message.properties.correlation_data: sent.json["data"]["text"]
        for sent in bench.transport.on("reply/me")
    }
    assert answers == {b"1": "one", b"2": "two"}


def test_the_same_words_without_an_id_are_asked_anew() -> None:
    bench = Bench()
    for _ in range(2):
        bench.deliver(b"hello")
        bench.finish()
    assert len(bench.worker.jobs) == 2


def test_a_reply_larger_than_what_is_kept_is_not_kept() -> None:
    bench = Bench()
    for number in range(2):
        bench.deliver(LONG)
        bench.finish("x" * (REPLAY_BYTES if number == 0 else 1))
    assert len(bench.worker.jobs) == 2


def test_the_oldest_replies_make_room_for_new_ones() -> None:
    bench = Bench()
    for name in ("a", "b"):
        bench.deliver(LONG | {"id": name})
        bench.finish("x" * (REPLAY_BYTES * 3 // 5))
    bench.deliver(LONG | {"id": "b"})
    assert len(bench.worker.jobs) == 2
    bench.deliver(LONG | {"id": "a"})
    assert len(bench.worker.jobs) == 3


def ask_as(bench: Bench, client: str, name: str, text: str = "yes") -> None:
    """Let a client's request be answered with a text, unless it is known."""
    num_started = len(bench.worker.jobs)
    bench.deliver(LONG | {"id": name, "response_topic": f"reply/{client}"})
    if len(bench.worker.jobs) > num_started:
        bench.finish(text, seconds=0.001)


def test_a_client_that_asks_a_lot_pushes_out_its_own_replies_only() -> None:
    """One that is asked again is executed once, however much another client asks meanwhile."""
    bench = Bench()
    ask_as(bench, "honest", "q1")
    for number in range(MAX_FINISHED + 3):
        ask_as(bench, "flood", f"q{number}")
    for number in range(8):  # few, but most of the bytes
        ask_as(bench, "long", f"q{number}", "x" * (REPLAY_BYTES // 3))
    num_started = len(bench.worker.jobs)
    ask_as(bench, "honest", "q1")
    assert len(bench.worker.jobs) == num_started
    assert bench.transport.on("reply/honest")[-1].json["duplicate"] is True
    ask_as(bench, "flood", f"q{MAX_FINISHED + 2}")
    assert len(bench.worker.jobs) == num_started, "the latest of its own"
    ask_as(bench, "flood", "q0")
    assert len(bench.worker.jobs) == num_started + 1


def test_correlation_data_identifies_a_request_rather_than_its_id() -> None:
    bench = Bench()
    for data, num_started in ((b"1", 1), (b"2", 2), (b"1", 2)):
        bench.deliver(LONG, properties=correlation(data))
        if len(bench.worker.jobs) == num_started:
            bench.finish()
        assert len(bench.worker.jobs) == num_started
    bench.deliver(LONG | {"id": "b"}, properties=correlation(b"1"))
    assert len(bench.worker.jobs) == 3, "another payload is another request"


def test_a_reply_that_the_broker_never_takes_is_counted_and_acknowledged_once() -> None:
    bench = Bench()
    delivery = bench.deliver(ASK)
    bench.finish()
    (reply,) = bench.transport.replies
    for _ in range(2):
        bench.driver.confirm(reply.handle, "refused")
    assert bench.transport.acknowledged == [delivery.receipt]
    assert bench.metrics.snapshot()["undelivered"] == 1


def test_the_energy_of_an_answer_that_ends_while_it_is_paused_counts() -> None:
    bench = ask_slow_then_person()
    interrupted(bench).energy = Energy(2.0, EnergySource.MODEL)
    bench.deliver({"id": "slow"}, "cancel")
    assert bench.metrics.snapshot()["energy_j"] == 2.0


def test_a_second_terminal_reply_is_a_fault() -> None:
    bench = Bench(limits=replace(LIMITS, num_slots=2))
    bench.deliver(ASK)
    (state,) = bench.node.scheduler.running
    bench.finish()
    state.request = bench.worker.jobs[0].request
    with pytest.raises(KeyError):
        bench.node._replies.finish(state, Answer("twice", FinishReason.STOP))


def ended(bench: Bench, reason: FinishReason) -> dict[str, object]:
    """Let the running answer end in time, and the process pause before its reply is made."""
    generation = bench.worker.jobs[-1]
    job = ran(generation, bench.clock(), bench.clock() + 1.0, num_output_tokens=5)
    finished_s = bench.clock() + 2.0
    bench.clock.advance(9.0)
    bench.take(Finished(job, Answer("Paris", reason, choice=1, is_choice=True), finished_s))
    reply = bench.transport.replies[-1].json
    assert isinstance(reply, dict)
    return reply


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (FinishReason.STOP, "deadline"),
        (FinishReason.LENGTH, "deadline"),
        (FinishReason.DEADLINE, "deadline"),
        (FinishReason.CANCELLED, "cancelled"),
        (FinishReason.UNSURE, "unsure"),
    ],
)
def test_an_answer_that_is_published_after_its_deadline_says_so(
    reason: FinishReason, said: str
) -> None:
    bench = Bench()
    bench.deliver(ASK | {"timeout_ms": 8999})
    reply = ended(bench, reason)
    assert isinstance(reply["data"], dict)
    assert (reply["data"]["finish_reason"], reply["data"]["text"]) == (said, "Paris")
    assert reply["data"]["choice"] == 1
    assert isinstance(reply["timing"], dict)
    assert reply["timing"]["total_ms"] == 9000


def test_an_answer_that_is_published_at_its_deadline_is_not_late() -> None:
    bench = Bench()
    bench.deliver(ASK | {"timeout_ms": 9000})
    reply = ended(bench, FinishReason.LENGTH)
    assert isinstance(reply["data"], dict)
    assert reply["data"]["finish_reason"] == "length"
    assert isinstance(reply["timing"], dict)
    assert reply["timing"]["total_ms"] == 2000


def test_what_waited_over_a_pause_is_refused_and_its_late_copies_say_the_same() -> None:
    bench = Bench()
    bench.deliver(ASK | {"timeout_ms": 8000})
    bench.deliver(ASK | {"timeout_ms": 8000})
    bench.deliver(LONG | {"id": "waits", "timeout_ms": 8000})
    ended(bench, FinishReason.STOP)
    bench.tick()
    ends = [sent.json["data"].get("finish_reason") for sent in bench.transport.replies]
    assert ends == ["deadline", "deadline", None]
    assert codes(bench) == ["timeout"]
