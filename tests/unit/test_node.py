"""The service: one terminal reply a delivery, and the acknowledgement only after it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from edged.engine.decoding import Constraint
from edged.engine.grammar import FormatError
from edged.engine.tokenizer import TemplateError
from edged.node.events import Drain
from edged.node.generation import Finished, Fragment
from edged.protocol.request import Answer, ChatMessage, FinishReason, OutputFormat
from edged.protocol.wire import WireProperties
from edged.scheduling.memory_budget import MemorySnapshot
from tests.fakes import LIMITS, MIB, Bench, FakeLanguage, correlation, ran


def test_a_request_is_acknowledged_only_after_the_broker_has_its_reply() -> None:
    bench = Bench()
    delivery = bench.deliver({"id": "a1", "prompt": "capital?"})
    assert [job.max_tokens for job in bench.worker.jobs] == [128]
    assert bench.transport.sent == []
    bench.finish()
    (reply,) = bench.transport.replies
    assert reply.message.topic == "edged/kitchen/response/generate"
    assert reply.qos == 1
    assert reply.json["id"] == "a1"
    assert reply.json["status"] == "ok"
    assert reply.json["data"]["text"] == "Paris"
    assert reply.json["model"] == "tiny@abcdef"
    assert reply.json["timing"]["total_ms"] == 1000
    assert bench.transport.acknowledged == []
    bench.driver.confirm(reply.handle)
    assert bench.transport.acknowledged == [delivery.receipt]
    assert bench.node.num_unconfirmed == 0


def test_a_refusal_of_the_content_is_replied_to_and_then_acknowledged() -> None:
    bench = Bench()
    delivery = bench.deliver({"id": "a1", "prompt": 7})
    (reply,) = bench.transport.replies
    assert reply.json["error"]["code"] == "bad_request"
    assert "prompt" in reply.json["error"]["message"]
    bench.confirm_all()
    assert bench.transport.acknowledged == [delivery.receipt]
    assert bench.metrics.snapshot()["refused"] == 1


def test_a_forbidden_reply_topic_gets_an_event_and_no_reply() -> None:
    bench = Bench()
    delivery = bench.deliver({"prompt": "x", "response_topic": "home/lock/set"})
    assert bench.transport.replies == []
    (event,) = bench.transport.on("/event")
    assert event.json["event"] == "dropped"
    assert event.json["reason"] == "forbidden_topic"
    assert bench.transport.acknowledged == [delivery.receipt]


def test_the_queue_is_bounded_and_the_newest_is_told_when_to_come_back() -> None:
    bench = Bench()
    for i in range(4):
        bench.deliver({"id": f"r{i}", "prompt": "x", "max_tokens": 10})
    (reply,) = bench.transport.replies
    assert reply.json["id"] == "r3"
    assert reply.json["error"]["code"] == "queue_full"
    assert reply.json["error"]["retryable"] is True
    assert reply.json["error"]["retry_after_ms"] > 0
    assert len(bench.node.scheduler) == 2
    assert len(bench.node.scheduler.running) == 1


def test_the_next_request_starts_when_the_one_before_has_ended() -> None:
    bench = Bench()
    bench.deliver({"id": "r0", "prompt": "x"})
    bench.deliver({"id": "r1", "prompt": "y"})
    assert len(bench.worker.jobs) == 1
    bench.finish("one")
    assert len(bench.worker.jobs) == 2
    bench.finish("two")
    assert [reply.json["data"]["text"] for reply in bench.transport.replies] == ["one", "two"]
    assert bench.transport.replies[1].json["timing"]["queued_ms"] == 1000


def test_what_cannot_be_done_in_time_is_refused_at_once_with_the_predicted_time() -> None:
    bench = Bench()
    bench.deliver({"id": "a", "prompt": "x", "max_tokens": 100, "timeout_ms": 2000})
    error = bench.transport.replies[0].json["error"]
    assert error["code"] == "timeout"
    assert error["predicted_ms"] > 8_000
    assert 1 <= error["max_tokens"] < 25
    assert bench.worker.jobs == []


def test_it_is_shortened_when_the_request_allows_it() -> None:
    bench = Bench()
    request = {"prompt": "x", "max_tokens": 100, "timeout_ms": 2000, "on_deadline": "shorten"}
    bench.deliver(request)
    assert 1 <= bench.worker.jobs[0].max_tokens < 25


def test_a_request_that_waited_too_long_is_answered_with_timeout() -> None:
    bench = Bench()
    bench.deliver({"id": "long", "prompt": "x", "max_tokens": 5})
    bench.deliver({"id": "wait", "prompt": "x", "max_tokens": 5, "timeout_ms": 2000})
    due_s = bench.node.next_tick_s()
    assert due_s is not None
    bench.clock.advance(due_s - bench.clock() + 0.01)
    bench.tick()
    (reply,) = bench.transport.replies
    assert reply.json["id"] == "wait"
    assert reply.json["error"]["code"] == "timeout"
    assert bench.metrics.snapshot()["expired"] == 1
    assert bench.node.next_tick_s() is None


def test_memory_pressure_refuses_instead_of_trying() -> None:
    bench = Bench()
    bench.memory = MemorySnapshot(401 * MIB, 900 * MIB)
    bench.deliver({"id": "a", "prompt": "x"})
    assert bench.transport.replies[0].json["error"]["code"] == "memory_pressure"
    assert bench.worker.jobs == []


def test_the_cache_a_request_will_fill_counts_once() -> None:
    bench = Bench()
    bench.memory = MemorySnapshot(320 * MIB, 500 * MIB)  # 80 MiB of the budget are left
    bench.deliver({"id": "big", "prompt": "x", "max_tokens": 100})
    assert bench.transport.replies[0].json["error"]["missing_bytes"] == 21 * MIB
    bench.deliver({"id": "fits", "prompt": "x", "max_tokens": 50})
    bench.memory = MemorySnapshot(371 * MIB, 500 * MIB)  # its 51 positions are resident now
    bench.worker.num_touched = 51
    bench.finish("y" * 50)
    bench.deliver({"id": "again", "prompt": "x", "max_tokens": 50})
    assert [job.request.reply_to.request_id for job in bench.worker.jobs] == ["fits", "again"]


def test_a_request_that_never_ran_has_filled_no_cache() -> None:
    bench = Bench()
    request = {"prompt": "x", "max_tokens": 100, "timeout_ms": 200_000}
    for name in ("runs", "waits"):
        bench.deliver(request | {"id": name})
    bench.memory = MemorySnapshot(340 * MIB, 500 * MIB)
    bench.deliver(request | {"id": "big"})
    refused = {reply.json["id"]: reply.json["error"]["code"] for reply in bench.transport.replies}
    assert refused == {"big": "memory_pressure"}


@pytest.mark.parametrize("error", [TemplateError("messages[0].role"), FormatError("format.schema")])
def test_what_template_or_grammar_refuse_is_a_bad_request(error: Exception) -> None:
    bench = Bench()
    bench.language.error = error
    bench.deliver({"id": "a", "prompt": "x"})
    reply = bench.transport.replies[0].json
    assert reply["error"]["code"] == "bad_request"
    assert str(error) in reply["error"]["message"]


def test_a_prompt_over_the_context_is_told_both_counts() -> None:
    bench = Bench()
    bench.deliver({"id": "a", "prompt": "x" * 300})
    error = bench.transport.replies[0].json["error"]
    assert (error["code"], error["prompt_tokens"]) == ("prompt_too_long", 300)
    assert error["max_model_len"] == 256


def test_cancel_takes_a_waiting_request_out() -> None:
    bench = Bench()
    bench.deliver({"id": "r0", "prompt": "x"})
    bench.deliver({"id": "r1", "prompt": "x"})
    bench.deliver({"id": "r1"}, "cancel")
    found, cancelled = bench.transport.replies
    assert found.json["data"] == {"found": True}
    assert found.message.topic.endswith("/response/cancel")
    assert cancelled.json["error"]["code"] == "cancelled"
    assert len(bench.node.scheduler) == 0
    assert bench.metrics.snapshot()["cancelled"] == 1


def test_cancel_ends_the_running_request_and_its_reply_says_so() -> None:
    bench = Bench()
    bench.deliver({"id": "r0", "prompt": "x"})
    bench.deliver({"id": "r0"}, "cancel")
    job, now_s = bench.worker.jobs[0], bench.clock()
    assert bench.worker.cancelled == [job.key]
    ran(job, now_s, now_s, num_output_tokens=3)
    bench.take(Finished(job, Answer("Par", FinishReason.CANCELLED), now_s))
    assert bench.transport.replies[1].json["data"]["finish_reason"] == "cancelled"


def test_cancel_of_an_unknown_id_is_ok_and_not_found_every_time() -> None:
    bench = Bench()
    bench.deliver({"id": "r0"}, "cancel")
    bench.deliver({"id": "r0", "prompt": "x"})
    bench.deliver({"id": "r0"}, "cancel")
    found = [reply.json["data"]["found"] for reply in bench.transport.replies]
    assert found == [False, True]


def test_fragments_go_to_the_stream_of_the_running_request_only() -> None:
    bench = Bench()
    bench.deliver({"id": "s1", "prompt": "x", "stream": True})
    key = bench.worker.jobs[0].key
    bench.take(Fragment(key, 0, "Pa"))
    bench.take(Fragment(key + 1, 0, "of an earlier request"))
    bench.take(Fragment(key, 1, "ris", is_done=True))
    streamed = bench.transport.on("/stream/s1")
    assert [sent.json["delta"] for sent in streamed] == ["Pa", "ris"]
    assert [sent.json["done"] for sent in streamed] == [False, True]
    assert {sent.qos for sent in streamed} == {0}


def test_the_measured_costs_follow_what_happens() -> None:
    bench = Bench()
    before = bench.node.latency_model.current
    bench.deliver({"prompt": "x" * 100})
    bench.finish("y" * 100, seconds=2.0)
    after = bench.node.latency_model.current
    assert after.decode_tok_s > before.decode_tok_s
    assert bench.metrics.snapshot()["decode_tok_s"] == 99.0
    assert bench.metrics.snapshot()["prediction_error_p50"] > 1


def test_draining_takes_nothing_in_and_starts_nothing() -> None:
    bench = Bench()
    bench.deliver({"id": "r0", "prompt": "x"})
    bench.deliver({"id": "r1", "prompt": "x"})
    bench.take(Drain())
    bench.deliver({"id": "r2", "prompt": "x"})
    bench.finish()
    bench.confirm_all()
    assert [reply.json["id"] for reply in bench.transport.replies] == ["r0"]
    assert len(bench.transport.acknowledged) == 1
    assert len(bench.worker.jobs) == 1


def test_unknown_keys_are_counted() -> None:
    bench = Bench()
    bench.deliver({"prompt": "x", "colour": "blue", "size": 1})
    assert bench.metrics.snapshot()["ignored_keys"] == 2


def test_the_reply_lives_as_long_as_the_deadline() -> None:
    bench = Bench()
    request = {"prompt": "x", "max_tokens": 5}
    bench.deliver(request, properties=correlation(b"\x00\x01", message_expiry_s=9))
    bench.finish(seconds=2.0)
    properties = bench.transport.replies[0].message.properties
    assert properties.message_expiry_s == 7
    assert properties.correlation_data == b"\x00\x01"


def test_the_same_request_twice_runs_once_and_is_answered_twice() -> None:
    bench = Bench()
    first = bench.deliver({"id": "r0", "prompt": "x"})
    second = bench.deliver({"id": "r0", "prompt": "x"})
    bench.finish()
    third = bench.deliver({"id": "r0", "prompt": "x"})
    bench.confirm_all()
    assert len(bench.worker.jobs) == 1
    assert [reply.json["duplicate"] for reply in bench.transport.replies] == [False, True, True]
    assert bench.transport.acknowledged == [it.receipt for it in (first, second, third)]
    assert bench.metrics.snapshot()["duplicates"] == 2


def test_the_same_id_with_another_payload_is_another_request() -> None:
    bench = Bench()
    bench.deliver({"id": "r0", "prompt": "x"})
    bench.deliver({"id": "r0", "prompt": "y"})
    assert len(bench.node.scheduler) == 1


def test_requests_without_an_id_are_never_duplicates() -> None:
    bench = Bench()
    bench.deliver(b"hello")
    bench.deliver(b"hello")
    assert len(bench.node.scheduler) == 1


def test_a_retry_after_a_refusal_is_tried_again() -> None:
    bench = Bench()
    bench.memory = MemorySnapshot(401 * MIB, 900 * MIB)
    bench.deliver({"id": "a", "prompt": "x"})
    bench.memory = MemorySnapshot(200 * MIB, 900 * MIB)
    bench.deliver({"id": "a", "prompt": "x"})
    assert len(bench.worker.jobs) == 1


@pytest.mark.parametrize("payload", [{"id": "r0", "prompt": "x"}, b"no id"])
def test_a_redelivery_takes_the_place_of_the_message_whose_connection_is_gone(
    payload: object,
) -> None:
    bench = Bench()
    bench.deliver(payload, connection_epoch=1)
    again = bench.deliver(payload, connection_epoch=2, is_redelivery=True)
    bench.finish()
    bench.confirm_all()
    assert len(bench.worker.jobs) == 1
    assert len(bench.transport.replies) == 1
    assert bench.transport.acknowledged == [again.receipt]


def test_a_request_in_two_sessions_is_executed_once_and_answered_and_acknowledged_in_each() -> None:
    """After a change of the client identifier: packet ids and epochs of the two are not one row."""
    bench, asked = Bench(), {"id": "r0", "prompt": "x"}
    mine = bench.deliver(asked, connection_epoch=1, client_id="new")
    theirs = bench.deliver(asked, connection_epoch=2, client_id="old", is_redelivery=True)
    bench.finish()
    bench.confirm_all()
    assert len(bench.worker.jobs) == 1
    assert [sent.json["duplicate"] for sent in bench.transport.replies] == [False, True]
    assert bench.transport.acknowledged == [mine.receipt, theirs.receipt]
    assert [it.client_id for it in bench.transport.acknowledged] == ["new", "old"]


def test_a_redelivery_while_the_reply_is_on_its_way_needs_no_second_reply() -> None:
    bench = Bench()
    bench.deliver({"id": "r0", "prompt": "x"}, connection_epoch=1)
    bench.finish()
    again = bench.deliver({"id": "r0", "prompt": "x"}, connection_epoch=2, is_redelivery=True)
    assert len(bench.transport.replies) == 1
    bench.confirm_all()
    assert bench.transport.acknowledged == [again.receipt]


def test_a_redelivery_after_the_acknowledgement_was_lost_is_answered_from_memory() -> None:
    bench = Bench()
    bench.deliver(b"no id", connection_epoch=1)
    bench.finish()
    bench.confirm_all()
    bench.deliver(b"no id", connection_epoch=2, is_redelivery=True)
    assert len(bench.worker.jobs) == 1
    assert bench.transport.replies[1].json["duplicate"] is True


def test_finished_replies_are_forgotten_after_the_deadline() -> None:
    bench = Bench()
    bench.deliver({"id": "r0", "prompt": "x"})
    bench.finish()
    bench.clock.advance(60)
    bench.deliver({"id": "r0", "prompt": "x"})
    assert len(bench.worker.jobs) == 2


def test_finished_replies_are_bounded() -> None:
    bench = Bench(limits=replace(LIMITS, max_waiting=200))
    for i in range(70):
        bench.deliver({"id": f"r{i}", "prompt": "x", "timeout_ms": 300_000, "max_tokens": 1})
        bench.finish("y", seconds=0.001)
    assert len(bench.worker.jobs) == 70
    bench.deliver({"id": "r0", "prompt": "x", "timeout_ms": 300_000, "max_tokens": 1})
    assert len(bench.worker.jobs) == 71
    bench.deliver({"id": "r69", "prompt": "x", "timeout_ms": 300_000, "max_tokens": 1})
    assert len(bench.worker.jobs) == 71


def test_a_retained_prompt_is_dropped_and_acknowledged() -> None:
    bench = Bench()
    delivery = bench.deliver({"prompt": "x"}, retain=True, properties=WireProperties())
    assert bench.transport.replies == []
    assert bench.transport.acknowledged == [delivery.receipt]
    assert bench.metrics.snapshot()["dropped_by_reason"] == {"retained": 1}


@dataclass
class CountingLanguage(FakeLanguage):
    """Count how often the content of a request is worked on."""

    calls: int = 0

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        self.calls += 1
        return super().encode_chat(messages)

    def compile_format(self, output_format: OutputFormat) -> Constraint | None:
        self.calls += 1
        return super().compile_format(output_format)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"prompt": "x"}, "queue_full"),
        ({"prompt": "x", "timeout_ms": 1}, "queue_full"),
    ],
)
def test_a_full_queue_refuses_before_the_content_costs_anything(
    request_: dict[str, object], code: str
) -> None:
    language = CountingLanguage()
    bench = Bench(language=language)
    for number in range(3):
        bench.deliver({"id": f"r{number}", "prompt": "x", "max_tokens": 10})
    before = language.calls
    bench.deliver(request_)
    assert bench.transport.replies[-1].json["error"]["code"] == code
    assert language.calls == before


def test_no_time_for_a_token_and_no_memory_are_refused_before_the_content_costs_anything() -> None:
    language = CountingLanguage()
    bench = Bench(language=language)
    bench.deliver({"id": "late", "prompt": "x", "timeout_ms": 1})
    bench.memory = MemorySnapshot(401 * MIB, 900 * MIB)
    bench.deliver({"id": "short", "prompt": "x"})
    errors = [reply.json["error"] for reply in bench.transport.replies]
    assert [error["code"] for error in errors] == ["timeout", "memory_pressure"]
    assert errors[0]["message"].startswith("1 token is predicted to take")
    assert errors[0]["max_tokens"] == 0
    assert language.calls == 0


def test_a_fault_of_ours_is_replied_to_and_logged_once_without_the_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.language.error = RuntimeError("secret words")
    for number in range(3):
        bench.deliver({"id": f"r{number}", "prompt": "secret words"})
    assert [r.json["error"]["code"] for r in bench.transport.replies] == ["internal"] * 3
    assert caplog.text.count("RuntimeError") == 1
    assert "secret" not in caplog.text
    bench.language.error = None
    bench.deliver({"id": "r0", "prompt": "x"})
    assert len(bench.worker.jobs) == 1


def test_a_request_that_is_prepared_counts_in_the_queue_and_can_be_cancelled() -> None:
    bench = Bench(is_preparing=False)
    for number in range(3):
        bench.deliver({"id": f"r{number}", "prompt": "x"})
    assert len(bench.node.scheduler) == 2
    assert bench.transport.replies[0].json["error"]["code"] == "queue_full"
    bench.deliver({"id": "r1"}, "cancel")  # waits behind the one that is being prepared
    bench.deliver({"id": "r0"}, "cancel")  # is being prepared
    codes = [sent.json.get("error", {}).get("code") for sent in bench.transport.replies]
    assert codes == ["queue_full", None, "cancelled", None, "cancelled"]
    bench.prepare()
    assert (bench.worker.jobs, bench.preparer.waiting) == ([], [])
    assert len(bench.node.scheduler) == 0


def test_requests_are_decided_on_in_the_order_of_their_arrival() -> None:
    bench = Bench(is_preparing=False, limits=replace(LIMITS, max_waiting=4))
    for number in range(3):
        bench.deliver({"id": f"r{number}", "prompt": "x", "max_tokens": 5})
    assert len(bench.preparer.waiting) == 1, "one at a time"
    for _ in range(3):
        bench.prepare()
    started = [job.request.reply_to.request_id for job in bench.worker.jobs]
    assert started == ["r0"]
    bench.finish()
    bench.finish()
    assert [job.request.reply_to.request_id for job in bench.worker.jobs] == ["r0", "r1", "r2"]


def test_what_expires_while_it_is_prepared_is_a_timeout() -> None:
    bench = Bench(is_preparing=False)
    bench.deliver({"id": "r0", "prompt": "x", "timeout_ms": 5000, "max_tokens": 5})
    bench.clock.advance(5.0)
    bench.tick()
    assert bench.transport.replies[0].json["error"]["code"] == "timeout"
    bench.prepare()
    assert len(bench.transport.replies) == 1
    assert bench.worker.jobs == []
