"""Messages that end the process: the third return is refused, and nobody else is blamed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edged.daemon.journal_file import FILE_NAME, PAGE_BYTES
from edged.node.crash_journal import INTAKE_PAGE, MAX_SUSPECTS
from edged.node.events import Drain
from edged.node.intake import ISOLATION_LIMIT_S, MAX_ARRIVALS
from edged.protocol.request import ChatMessage
from edged.protocol.wire import Delivery
from tests.fakes import LIMITS, Bench, FakeLanguage, correlation, open_journal

ROOMY_QUEUE = replace(LIMITS, max_waiting=2 * MAX_ARRIVALS, num_slots=4)
LONG = {"prompt": "x", "max_tokens": 100, "timeout_ms": 200_000}


@dataclass
class DeadlyLanguage(FakeLanguage):
    """A tokenizer that ends the process at one word, as an abort of a library does."""

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        if "deadly" in messages[-1].content:
            raise SystemExit
        return super().encode_chat(messages)


def life(folder: Path, **more: Any) -> Bench:  # noqa: ANN401
    """One process of the daemon on this state folder."""
    return Bench(folder=folder, limits=ROOMY_QUEUE, language=DeadlyLanguage(), **more)


def die_of(bench: Bench, payload: object, **more: Any) -> None:  # noqa: ANN401
    with pytest.raises(SystemExit):
        bench.deliver(payload, **more)


def ids(bench: Bench) -> list[str | None]:
    return [job.request.reply_to.request_id for job in bench.worker.jobs]


def test_what_ends_the_process_twice_while_it_is_taken_in_is_refused_undecoded(
    tmp_path: Path,
) -> None:
    deadly = {"id": "d", "prompt": "deadly"}
    to_me: dict[str, Any] = {"properties": correlation(b"7", response_topic="reply/me")}
    for _ in range(2):
        die_of(life(tmp_path), deadly, **to_me)
    bench = life(tmp_path)
    refused = bench.deliver(deadly, **to_me, is_redelivery=True)
    good = bench.deliver({"id": "good", "prompt": "y"})
    bench.finish()
    (reply,) = bench.transport.on("reply/me")
    assert reply.json["error"]["code"] == "crashed_before"
    assert (reply.json["id"], reply.json["attempt"]) == (None, 3)
    assert reply.message.properties.correlation_data == b"7"
    assert [sent.json["id"] for sent in bench.transport.replies] == ["good"]
    assert bench.transport.on("/event")[0].json["event"] == "crashed_before"
    bench.confirm_all()
    assert bench.transport.acknowledged == [refused.receipt, good.receipt]


def test_without_a_property_the_refusal_goes_to_the_default_topic(tmp_path: Path) -> None:
    deadly = {"prompt": "deadly", "response_topic": "reply/me"}
    for _ in range(2):
        die_of(life(tmp_path), deadly)
    bench = life(tmp_path)
    bench.deliver(deadly)
    (reply,) = bench.transport.replies
    assert reply.message.topic == "edged/kitchen/response/generate"
    assert reply.json["error"]["code"] == "crashed_before"


@pytest.mark.parametrize(
    "more",
    [
        {"topic": "edged/kitchen/other"},
        {"properties": correlation(b"7", response_topic="home/lock/set")},
    ],
)
def test_a_refusal_that_may_go_nowhere_is_a_counted_drop(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    bench = life(tmp_path)
    delivery = bench.delivery({"prompt": "deadly"}, **more)
    for _ in range(2):
        open_journal(tmp_path).mark([delivery.fingerprint])
    bench = life(tmp_path)
    bench.take(delivery)
    assert bench.metrics.snapshot()["dropped"] == 1
    assert bench.transport.acknowledged == [delivery.receipt]


def test_a_bystander_in_the_engine_is_not_blamed(tmp_path: Path) -> None:
    """The long answer is not done while the deadly message is tried; then it is, alone."""
    long, deadly = LONG | {"id": "long"}, LONG | {"id": "d", "prompt": "deadly"}
    first = life(tmp_path)
    first.deliver(long)
    die_of(first, deadly)
    second = life(tmp_path)
    second.deliver(long, is_redelivery=True)
    second.deliver(deadly, is_redelivery=True)
    assert ids(second) == ["long"]
    with pytest.raises(SystemExit):
        second.finish()
    assert second.transport.replies[0].json["status"] == "ok"
    third = life(tmp_path)
    third.deliver(long, is_redelivery=True)
    third.finish()
    third.deliver(deadly, is_redelivery=True)
    again, refused = third.transport.replies
    assert (again.json["status"], again.json["duplicate"]) == ("ok", True)
    assert refused.json["error"]["code"] == "crashed_before"


def test_of_several_that_ran_when_the_process_ended_each_is_tried_alone(tmp_path: Path) -> None:
    dying = life(tmp_path)
    for name in "ab":
        dying.deliver(LONG | {"id": name})
    assert ids(dying) == ["a", "b"]
    bench = life(tmp_path)
    for name in "ab":
        bench.deliver(LONG | {"id": name}, is_redelivery=True)
    bench.deliver(LONG | {"id": "c"})
    assert ids(bench) == ["a"]
    bench.finish()
    assert ids(bench) == ["a", "b"]
    bench.finish()
    assert ids(bench) == ["a", "b", "c"]


def test_what_was_only_present_at_a_known_suspects_second_crash_is_not_counted(
    tmp_path: Path,
) -> None:
    suspect, running = "s" * 32, "r" * 32
    open_journal(tmp_path).mark([suspect])
    second = open_journal(tmp_path)
    assert second.num_intake_crashes(suspect) == 1
    second.begin(running)
    second.mark([suspect])
    third = open_journal(tmp_path)
    assert third.num_intake_crashes(suspect) == 2
    assert not third.was_left_running(running)
    assert third.begin(running) == 1


def test_what_was_taken_in_well_is_no_suspect_any_more(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.mark(["a"])
    later = open_journal(tmp_path)
    assert later.num_unfinished == 1
    assert open_journal(tmp_path).num_intake_crashes("a") == 1, "counted once"
    later.mark(["a"])
    later.forgive("a")
    later.mark([])
    last = open_journal(tmp_path)
    assert (last.num_intake_crashes("a"), last.num_unfinished) == (0, 0)


def test_the_number_of_suspects_is_bounded(tmp_path: Path) -> None:
    for number in range(MAX_SUSPECTS + 1):
        open_journal(tmp_path).mark([f"{number:032}"])
    journal = open_journal(tmp_path)
    assert journal.num_intake_crashes(f"{0:032}") == 0
    assert journal.num_intake_crashes(f"{MAX_SUSPECTS:032}") == 1


@pytest.mark.parametrize("content", [b"[1]", b"{", b'{"marked": 7, "crashes": [1]}', b"[" * 4000])
def test_a_damaged_journal_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(b" " * INTAKE_PAGE * PAGE_BYTES + content)
    bench = life(tmp_path)
    bench.deliver({"id": "a", "prompt": "x"})
    assert ids(bench) == ["a"]


def suspect_runs(tmp_path: Path) -> Bench:
    """A bench in which a suspect is answered, and another request waits to be taken in."""
    life(tmp_path).deliver(LONG | {"id": "suspect"})
    bench = life(tmp_path)
    bench.deliver(LONG | {"id": "suspect"}, is_redelivery=True)
    bench.deliver(LONG | {"id": "next"})
    assert ids(bench) == ["suspect"]
    return bench


def test_others_wait_a_bounded_time_for_a_suspect(tmp_path: Path) -> None:
    bench = suspect_runs(tmp_path)
    due_s = bench.node.next_tick_s()
    assert due_s == bench.clock() + ISOLATION_LIMIT_S
    bench.clock.now_s = due_s
    bench.tick()
    assert ids(bench) == ["suspect", "next"]
    assert bench.worker.jobs[1].request.received_s == due_s - ISOLATION_LIMIT_S


def test_nothing_waits_for_a_suspect_that_was_waited_for_already(tmp_path: Path) -> None:
    bench = suspect_runs(tmp_path)
    bench.clock.advance(ISOLATION_LIMIT_S)
    bench.deliver(LONG | {"id": "late"})
    assert ids(bench) == ["suspect", "next", "late"]


def test_who_came_later_waits_no_longer_than_who_came_first(tmp_path: Path) -> None:
    life(tmp_path).deliver(LONG | {"id": "suspect"})
    bench = life(tmp_path)
    bench.deliver(LONG | {"id": "suspect"}, is_redelivery=True)
    begun_s = bench.clock()
    bench.clock.advance(20.0)
    bench.deliver(LONG | {"id": "later"})
    assert bench.node.next_tick_s() == begun_s + ISOLATION_LIMIT_S
    bench.clock.advance(10.0)
    bench.tick()
    assert ids(bench) == ["suspect", "later"]


def test_a_bounded_number_waits_for_a_suspect(tmp_path: Path) -> None:
    bench = suspect_runs(tmp_path)
    for number in range(MAX_ARRIVALS):
        bench.deliver(LONG | {"id": f"r{number}"})
    assert ids(bench) == ["suspect", "next"]


def test_a_suspect_behind_which_too_many_wait_is_taken_in_beside_what_runs(tmp_path: Path) -> None:
    life(tmp_path).deliver(LONG | {"id": "suspect"})
    bench = life(tmp_path)
    bench.deliver(LONG | {"id": "runs"})
    bench.deliver(LONG | {"id": "suspect"}, is_redelivery=True)
    for number in range(MAX_ARRIVALS):
        bench.deliver(LONG | {"id": f"r{number}"})
    assert ids(bench) == ["runs", "suspect"]


def test_a_suspect_does_not_wait_for_an_idle_engine_for_ever(tmp_path: Path) -> None:
    life(tmp_path).deliver(LONG | {"id": "suspect"})
    bench = life(tmp_path)
    bench.deliver(LONG | {"id": "runs"})
    bench.deliver(LONG | {"id": "suspect"}, is_redelivery=True)
    bench.deliver(LONG | {"id": "waits", "timeout_ms": 1_000, "max_tokens": 100})
    assert ids(bench) == ["runs"]
    bench.clock.advance(ISOLATION_LIMIT_S)
    bench.tick()
    assert ids(bench) == ["runs", "suspect"]
    assert bench.node.next_tick_s() is None
    assert [reply.json["error"]["code"] for reply in bench.transport.replies] == ["timeout"]


def test_what_waits_for_a_suspect_is_left_to_the_next_process_at_a_stop(tmp_path: Path) -> None:
    bench = suspect_runs(tmp_path)
    bench.take(Drain())
    bench.finish()
    bench.confirm_all()
    assert ids(bench) == ["suspect"]
    assert len(bench.transport.acknowledged) == 1


def test_the_same_message_has_the_same_fingerprint_whenever_it_comes() -> None:
    first = Delivery("t", b"p", properties=correlation(b"1", message_expiry_s=9), packet_id=1)
    again = replace(
        first,
        is_redelivery=True,
        packet_id=7,
        connection_epoch=2,
        properties=correlation(b"1", message_expiry_s=3),
    )
    assert first.fingerprint == again.fingerprint
    others = [
        replace(first, topic="u"),
        replace(first, payload=b"q"),
        replace(first, properties=correlation(b"2")),
        replace(first, properties=correlation(b"1", response_topic="\ud800")),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.parametrize(
    "payload",
    [
        {"id": "a", "prompt": "admitted"},
        {"id": "a", "prompt": 7},
        {"id": "a", "prompt": "y", "timeout_ms": 1},
        {"id": "a", "prompt": "y" * 300},
    ],
    ids=["admitted", "refused-undecoded", "refused-unprepared", "refused-prepared"],
)
def test_a_suspect_that_is_decided_on_is_none_any_more(
    tmp_path: Path, payload: dict[str, object]
) -> None:
    bench = life(tmp_path)
    delivery = bench.delivery(payload)
    open_journal(tmp_path).mark([delivery.fingerprint])
    bench = life(tmp_path)
    bench.take(delivery)
    assert open_journal(tmp_path).num_intake_crashes(delivery.fingerprint) == 0
