"""Which requests were started and not ended, over the death of a process."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.daemon.journal_file import FILE_NAME, PAGE_BYTES
from edged.node.crash_journal import (
    INTAKE_PAGE,
    MAX_ATTEMPTS,
    MAX_REMEMBERED,
    MAX_SUSPECTS,
    STARTS_PAGE,
    CrashJournal,
)
from edged.node.effects import Effect, WriteJournal
from edged.node.events import Abandon, Drain, Synced
from edged.node.generation import Finished
from edged.protocol.request import Answer, FinishReason
from tests.fakes import LIMITS, Bench, SlowJournal, open_journal, ran


def test_a_start_that_did_not_end_is_counted_in_the_next_process(tmp_path: Path) -> None:
    assert open_journal(tmp_path).begin("a") == 1
    assert open_journal(tmp_path).begin("a") == 2
    assert open_journal(tmp_path).begin("b") == 1
    assert open_journal(tmp_path).begin("a") == 3


def test_what_ended_is_forgotten(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.begin("a")
    journal.end("a")
    journal.end("never begun")
    assert open_journal(tmp_path).begin("a") == 1


def test_it_remembers_a_bounded_number(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for number in range(MAX_REMEMBERED + 1):
        journal.begin(f"r{number}")
    later = open_journal(tmp_path)
    assert later.begin("r0") == 1
    assert later.begin(f"r{MAX_REMEMBERED}") == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"a": "x", "b": -1}', b"\xff", b"[" * 4000, b"x" * 50_000]
)
def test_a_damaged_file_is_as_good_as_none_and_repaired(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    journal = open_journal(tmp_path)
    assert journal.begin("a") == 1
    assert journal.begin("b") == 1
    assert open_journal(tmp_path).begin("a") == 2
    assert (tmp_path / FILE_NAME).stat().st_size == 2 * PAGE_BYTES
    assert caplog.text.count("is started anew") <= 2, "once for each page"


NAMES = st.sampled_from([f"{n:032x}" for n in range(4)] + ["", "x" * 33, "ä", '"', "\ud800"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**4000) | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=60) | st.dictionaries(NAMES, inner, max_size=60),
    max_leaves=60,
)
MEMBERS = st.sampled_from(["starts", "answered", "marked", "crashes", "is_closed"])
PAGES = st.binary(max_size=PAGE_BYTES) | st.dictionaries(MEMBERS, VALUES).map(
    lambda content: json.dumps(content).encode()
)


@given(PAGES, PAGES)
def test_whatever_the_pages_hold_they_are_whole_after_the_start(
    starts: bytes, intake: bytes
) -> None:
    written: dict[int, bytes] = {}

    def write(effect: Effect) -> None:
        assert isinstance(effect, WriteJournal)
        assert len(effect.content) <= PAGE_BYTES, "it would overwrite the other page"
        written[effect.page] = effect.content

    journal = CrashJournal((starts, intake), write)
    assert written.keys() == {STARTS_PAGE, INTAKE_PAGE}
    for content in written.values():
        assert isinstance(json.loads(content), dict)
    for number in range(MAX_REMEMBERED):
        key = f"{number:032x}"
        journal.mark([key, key[::-1]])
        assert 1 <= journal.begin(key) <= MAX_ATTEMPTS + 1
        journal.end(key, is_answered=True)
    journal.close()
    again = CrashJournal((written[STARTS_PAGE], written[INTAKE_PAGE]), write)
    assert again.num_unfinished == 0


def test_the_fullest_pages_fit(tmp_path: Path) -> None:
    """Each of the names has the length of a digest."""
    journal = open_journal(tmp_path)
    for number in range(MAX_REMEMBERED):
        journal.begin(f"{number:032}")
        journal.end(f"{number:032}", is_answered=True)
        journal.begin(f"{number:032}")
    for number in range(MAX_SUSPECTS):
        journal.mark([f"{number:032}", f"{number:031}x"])
        journal = open_journal(tmp_path)
    content = (tmp_path / FILE_NAME).read_bytes()
    assert len(content) == 2 * PAGE_BYTES
    assert content[PAGE_BYTES - 1 :: PAGE_BYTES] == b"  ", "padded: none reaches into the other"
    assert journal.was_answered(f"{MAX_REMEMBERED - 1:032}")
    assert journal.num_intake_crashes(f"{MAX_SUSPECTS - 1:032}") == 1


def test_a_folder_that_cannot_be_written_costs_one_line_and_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal(tmp_path / "missing")
    assert journal.begin("a") == 1
    journal.end("a")
    assert caplog.text.count("state.folder") == 1
    (tmp_path / "missing").mkdir()
    journal.begin("a")
    assert open_journal(tmp_path / "missing").begin("a") == 2


def test_a_request_that_ends_the_process_twice_is_refused_and_the_next_one_served(
    tmp_path: Path,
) -> None:
    """Three lives of the daemon: two die under the poison, the third refuses it and goes on."""
    for life in (1, 2):
        dying = Bench(folder=tmp_path)
        dying.deliver({"id": "poison", "prompt": "x"})
        assert len(dying.worker.jobs) == 1, life
    bench = Bench(folder=tmp_path)
    poison = bench.deliver({"id": "poison", "prompt": "x"}, is_redelivery=True)
    good = bench.deliver({"id": "good", "prompt": "y"})
    bench.finish()
    refused, answered = bench.transport.replies
    assert refused.json["error"]["code"] == "crashed_before"
    assert refused.json["error"]["retryable"] is False
    assert refused.json["attempt"] == 3
    assert answered.json["id"] == "good"
    assert answered.json["attempt"] == 1
    bench.confirm_all()
    assert bench.transport.acknowledged == [poison.receipt, good.receipt]
    assert bench.transport.on("/event")[0].json["event"] == "crashed_before"
    assert open_journal(tmp_path).begin("anything") == 1


def test_the_second_attempt_is_made_and_told(tmp_path: Path) -> None:
    Bench(folder=tmp_path).deliver({"id": "a", "prompt": "x"})
    bench = Bench(folder=tmp_path)
    bench.deliver({"id": "a", "prompt": "x"})
    bench.finish()
    assert bench.transport.replies[0].json["attempt"] == 2


def test_a_stop_in_the_middle_of_an_answer_is_no_crash(tmp_path: Path) -> None:
    bench = Bench(folder=tmp_path)
    bench.deliver({"id": "a", "prompt": "x"})
    bench.take(Drain())
    bench.take(Abandon())
    bench = Bench(folder=tmp_path)
    bench.deliver({"id": "a", "prompt": "x"})
    bench.finish()
    assert bench.transport.replies[0].json["attempt"] == 1


def test_a_request_starts_when_its_start_is_on_the_disk_and_not_before() -> None:
    journal = SlowJournal()
    bench = Bench(journal=journal)
    bench.deliver({"id": "a", "prompt": "x"})
    assert bench.worker.jobs == []
    assert [state.phase.value for state in bench.node.scheduler.running] == ["starting"]
    bench.take(Synced(journal.keys[0]))
    assert [job.key for job in bench.worker.jobs] == journal.keys
    bench.take(Synced(journal.keys[0]))
    assert len(bench.worker.jobs) == 1


def test_a_request_that_is_cancelled_while_its_start_is_written_never_starts() -> None:
    journal = SlowJournal()
    bench = Bench(journal=journal)
    bench.deliver({"id": "a", "prompt": "x"})
    bench.deliver({"id": "a"}, "cancel")
    bench.take(Synced(journal.keys[0]))
    assert bench.worker.jobs == []
    assert [sent.json["status"] for sent in bench.transport.replies] == ["ok", "error"]
    assert bench.transport.replies[1].json["error"]["code"] == "cancelled"


def test_the_file_is_two_blocks_that_are_overwritten(tmp_path: Path) -> None:
    """Then a full disk is no obstacle, and the file system has nothing of its own to write."""
    journal = open_journal(tmp_path)
    path = tmp_path / FILE_NAME
    journal.begin("x" * 32)
    before = path.stat()
    for number in range(MAX_REMEMBERED + 1):
        journal.begin(f"{number:032}")
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_size == before.st_size == 2 * PAGE_BYTES


def test_an_answer_whose_acknowledgement_was_lost_with_the_process_is_marked_as_repeated(
    tmp_path: Path,
) -> None:
    dying = Bench(folder=tmp_path)
    dying.deliver({"id": "a", "prompt": "x"})
    dying.finish()
    assert dying.transport.replies[0].json["duplicate"] is False
    bench = Bench(folder=tmp_path)
    assert bench.node.num_unfinished == 0
    bench.deliver({"id": "a", "prompt": "x"}, is_redelivery=True)
    bench.finish()
    reply = bench.transport.replies[0].json
    assert (reply["duplicate"], reply["attempt"], reply["status"]) == (True, 1, "ok")


@pytest.mark.parametrize("is_redelivery", [False, True])
def test_the_same_words_in_another_message_are_no_repetition(
    tmp_path: Path, *, is_redelivery: bool
) -> None:
    dying = Bench(folder=tmp_path)
    dying.deliver({"prompt": "x"})
    dying.finish()
    bench = Bench(folder=tmp_path)
    bench.deliver({"prompt": "x"}, is_redelivery=is_redelivery)
    bench.finish()
    assert bench.transport.replies[0].json["duplicate"] is False


def test_only_what_was_begun_can_have_been_answered(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.begin("a")
    assert not journal.was_answered("a")
    journal.end("a", is_answered=True)
    journal.end("never begun", is_answered=True)
    later = open_journal(tmp_path)
    assert later.was_answered("a")
    assert not later.was_answered("never begun")
    assert later.begin("a") == 1
    after_a_crash = open_journal(tmp_path)
    assert after_a_crash.num_unfinished == 1
    assert after_a_crash.was_answered("a")
    assert after_a_crash.begin("a") == 2


EQUAL = {"prompt": "x", "max_tokens": 5}
ROOMY = replace(LIMITS, max_waiting=4, num_slots=4)


def test_equal_messages_without_an_id_that_run_at_once_are_no_attempts_of_each_other() -> None:
    bench = Bench(limits=ROOMY)
    for _ in range(4):
        bench.deliver(EQUAL)
    for job in list(bench.worker.jobs):
        ran(job, bench.clock(), bench.clock(), num_output_tokens=1)
        bench.take(Finished(job, Answer("x", FinishReason.STOP), bench.clock()))
    assert [sent.json["attempt"] for sent in bench.transport.replies] == [1] * 4


def test_a_crash_under_equal_messages_counts_once_and_until_the_last_of_them_ended(
    tmp_path: Path,
) -> None:
    journal = open_journal(tmp_path)
    for _ in range(3):
        assert journal.begin("equal") == 1
    journal.end("equal", is_answered=True)
    journal.end("equal")
    later = open_journal(tmp_path)
    assert later.num_unfinished == 1
    assert later.begin("equal") == 2
    later.end("equal", is_answered=True)
    assert open_journal(tmp_path).begin("equal") == 1


def test_a_refusal_of_one_message_keeps_the_start_of_an_equal_one(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.begin("equal")
    journal.end("equal", was_started=False)
    assert open_journal(tmp_path).begin("equal") == 2


def test_a_refused_request_stays_refused_until_its_reply_is_confirmed(tmp_path: Path) -> None:
    poison = {"id": "poison", "prompt": "x"}
    for _ in range(2):
        Bench(folder=tmp_path).deliver(poison)
    for _ in range(2):  # the connection breaks before the first refusal is confirmed
        bench = Bench(folder=tmp_path)
        bench.deliver(poison, is_redelivery=True)
        bench.take(Abandon())
        assert bench.worker.jobs == []
        assert bench.transport.replies[0].json["error"]["code"] == "crashed_before"
    bench = Bench(folder=tmp_path)
    assert bench.node.num_unfinished == 0
    bench.deliver(poison)
    assert len(bench.worker.jobs) == 1, "a new message with the same words is tried"


def test_a_refused_request_stays_refused_when_its_next_delivery_expires(tmp_path: Path) -> None:
    """That one was not confirmed either, and it is delivered once more."""
    for _ in range(2):
        open_journal(tmp_path).begin("poison")
    journal = open_journal(tmp_path)
    assert journal.begin("poison", is_redelivery=True) == 3
    journal.end("poison", is_answered=True)
    open_journal(tmp_path).end("poison", was_started=False)
    assert open_journal(tmp_path).begin("poison", is_redelivery=True) == 3


def test_two_suspects_at_once_clear_a_bystander_once(tmp_path: Path) -> None:
    open_journal(tmp_path).mark(["s", "t"])
    open_journal(tmp_path).begin("r")
    crashed_twice = open_journal(tmp_path)
    assert crashed_twice.begin("r") == 2
    crashed_twice.mark(["s", "t"])
    assert open_journal(tmp_path).begin("r") == 2


def test_a_refused_request_is_not_cleared_by_a_suspect(tmp_path: Path) -> None:
    for _ in range(2):
        open_journal(tmp_path).begin("poison")
    journal = open_journal(tmp_path)
    assert journal.begin("poison", is_redelivery=True) == 3
    journal.end("poison", is_answered=True)
    for _ in range(2):
        journal.mark(["suspect"])
        journal = open_journal(tmp_path)
    assert journal.num_unfinished == 1, "the suspect alone"
    assert journal.begin("poison", is_redelivery=True) == 3


def test_a_stop_between_two_crashes_forgives_neither(tmp_path: Path) -> None:
    poison = {"id": "poison", "prompt": "x"}
    Bench(folder=tmp_path).deliver(poison)
    stopped = Bench(folder=tmp_path)
    stopped.deliver(poison, is_redelivery=True)
    stopped.take(Abandon())
    Bench(folder=tmp_path).deliver(poison, is_redelivery=True)
    bench = Bench(folder=tmp_path)
    bench.deliver(poison, is_redelivery=True)
    assert bench.worker.jobs == []
    assert bench.transport.replies[0].json["error"]["code"] == "crashed_before"
