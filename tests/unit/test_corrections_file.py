"""The corrections on the disk: bounded, each once, whole again after a fault; and their thread."""

import json
import os
import queue
import stat
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edged.daemon.corrections_file import (
    MAX_BYTES,
    MAX_LINE_BYTES,
    CorrectionKeeper,
    CorrectionsFile,
    Line,
)
from edged.errors import ErrorCode
from edged.node.effects import KeepCorrection
from edged.node.events import CorrectionKept
from edged.protocol.request import ChatMessage, Correction, ReplyAddress
from edged.specialists.corrections import FILE_NAME, read_corrected_dialogues, read_corrections
from edged.specialists.decider import Said
from edged.specialists.dialogues import Turn
from edged.specialists.folder import Specialist
from edged.specialists.installed import Installed
from edged.specialists.lesson import taught
from edged.specialists.writer import Writer
from tests.unit.lessons import lesson
from tests.unit.writers import writer

LIMIT_S = 10.0


def line(prompt: str, answer: object = "on", **more: object) -> Line:
    return Line.of({"prompt": prompt, "answer": answer, "specialist": "lamp", **more})


def kept(folder: Path) -> list[Any]:
    """Prompt and answer of each line."""
    rows = (folder / FILE_NAME).read_text().splitlines()
    return [(row["prompt"], row["answer"]) for row in map(json.loads, rows)]


def opened(folder: Path, limit: int = 100) -> CorrectionsFile:
    return CorrectionsFile(folder / FILE_NAME, limit)


def test_what_is_written_is_there_for_the_next_process_and_its_owner_alone(tmp_path: Path) -> None:
    assert opened(tmp_path).add([line("a"), line("b", None)]) == [True, True]
    file = opened(tmp_path)
    assert file.add([line("c", {"room": "Küche"})]) == [True]
    assert file.count == 3
    assert kept(tmp_path) == [("a", "on"), ("b", None), ("c", {"room": "Küche"})]
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_the_same_correction_is_kept_once_and_another_answer_counts_instead(tmp_path: Path) -> None:
    for _ in range(2):  # by the process that wrote it, and by the next one
        file = opened(tmp_path)
        file.add([line("a", time="today"), line("b")])
        assert file.add([line("a", time="tomorrow")]) == [False]
    assert kept(tmp_path) == [("a", "on"), ("b", "on")]
    assert file.add([line("a", "off"), line("a", "off")]) == [True, False]
    assert file.count == 2
    assert kept(tmp_path)[-1] == ("a", "off")
    assert file.add([line("a", "on")]) == [True], "back to the first answer"


def test_another_specialist_is_corrected_for_itself(tmp_path: Path) -> None:
    other = Line.of({"prompt": "a", "answer": "on", "specialist": "heater"})
    assert opened(tmp_path).add([line("a"), other]) == [True, True]


def test_another_account_takes_nobodys_place(tmp_path: Path) -> None:
    file = opened(tmp_path)
    for user in ("ha", "other"):
        assert file.add([line("a", user, user=user)]) == [True]
    assert file.add([line("a", "ha", user="ha"), line("a", "ha")]) == [False, True]
    assert kept(tmp_path) == [("a", "ha"), ("a", "other"), ("a", "ha")]


@pytest.mark.parametrize("limit", [1, 7, 16])
def test_above_the_limit_the_oldest_go(tmp_path: Path, limit: int) -> None:
    file = opened(tmp_path, limit)
    for number in range(3 * limit):
        file.add([line(f"prompt {number}")])
        prompts = [prompt for prompt, _ in kept(tmp_path)]
        assert len(prompts) <= limit
        assert prompts[-1] == f"prompt {number}"
        assert len(prompts) == file.count
    assert len(prompts) >= limit * 7 // 8
    first = int(prompts[0].split()[1])
    assert prompts == [f"prompt {number}" for number in range(first, 3 * limit)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE_NAME]


def test_a_full_file_is_written_anew_for_an_eighth_of_it_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed: list[str] = []
    replace = Path.replace

    def count(path: Path, to: Path) -> Path:
        renamed.append(path.name)
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", count)
    file = opened(tmp_path, 80)
    file.add([line(f"old {number}") for number in range(80)])
    for number in range(40):
        file.add([line(f"new {number}")])
    assert len(renamed) == 4


def test_a_changed_mind_takes_no_room_for_long(tmp_path: Path) -> None:
    file = opened(tmp_path, 10)
    file.add([line("first")])
    for number in range(50):
        file.add([line("again", str(number))])
    assert file.count == 2
    assert ("first", "on") in kept(tmp_path)
    assert len(kept(tmp_path)) <= 10


def test_above_the_bytes_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.daemon.corrections_file.MAX_BYTES", 40_000)
    file = opened(tmp_path, 10_000)
    for number in range(50):
        file.add([line(f"{number} {'x' * 900}")])
        assert (tmp_path / FILE_NAME).stat().st_size <= 40_000
    assert kept(tmp_path)[-1][0].startswith("49 ")
    assert 33 < file.count <= 41


def test_an_account_that_sends_many_loses_its_own(tmp_path: Path) -> None:
    """In number and in bytes; what one leaves of its share is the others'."""
    file = opened(tmp_path, 80)
    file.add([line(f"few {number}", user="few") for number in range(10)])
    for number in range(300):
        file.add([line(f"many {number}", user="many")])
    prompts = [prompt for prompt, _ in kept(tmp_path)]
    assert prompts[:10] == [f"few {number}" for number in range(10)]
    assert 70 <= len(prompts) <= 80
    assert prompts[-1] == "many 299"
    for number in range(400):
        file.add([line(f"long {number} {'x' * 20_000}", user="long")])
    prompts = [prompt for prompt, _ in kept(tmp_path)]
    assert prompts[:10] == [f"few {number}" for number in range(10)]
    assert prompts[-1].startswith("long 399 ")
    assert len([prompt for prompt in prompts if prompt.startswith("many")]) > 20


def test_of_more_accounts_than_places_the_newest_are_kept(tmp_path: Path) -> None:
    file = opened(tmp_path, 8)
    for number in range(40):
        file.add([line("x", user=f"user{number}")])
    assert kept(tmp_path)[-1] == ("x", "on")
    lines = (tmp_path / FILE_NAME).read_text().splitlines()
    assert [json.loads(text)["user"] for text in lines][-7:] == [f"user{n}" for n in range(33, 40)]


def test_what_is_there_already_is_read_no_further_than_may_be_written(tmp_path: Path) -> None:
    old = line("old " + "x" * 30_000).text
    (tmp_path / FILE_NAME).write_bytes(old * 300 + line("new").text)
    file = opened(tmp_path)
    file.add([line("newest")])
    assert [prompt[:6] for prompt, _ in kept(tmp_path)] == ["old xx", "new", "newest"]
    (tmp_path / FILE_NAME).write_bytes(b"x" * (MAX_BYTES + 1))
    file.add([line("only")])
    assert kept(tmp_path) == [("only", "on")]


@pytest.mark.parametrize(
    "rest",
    [
        line("half").text[:20],
        line("half").text[:-1],
        b"\0" * 100,
        b"[]\n",
        b'{"prompt": "x"}\n',
        b"[" * 5000 + b"\n",
        b"\xff\n",
    ],
)
def test_half_a_line_after_a_power_cut_is_taken_away(tmp_path: Path, rest: bytes) -> None:
    opened(tmp_path).add([line("a")])
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(rest)
    opened(tmp_path).add([line("b")])
    assert kept(tmp_path) == [("a", "on"), ("b", "on")]


def test_a_file_that_was_taken_away_is_begun_anew(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.add([line("a")])
    (tmp_path / FILE_NAME).unlink()
    assert file.add([line("a"), line("b")]) == [True, True]
    assert kept(tmp_path) == [("a", "on"), ("b", "on")]


def test_a_correction_is_on_the_disk_with_its_name_before_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    path = tmp_path / FILE_NAME
    monkeypatch.setattr(os, "fdatasync", lambda _file: done.append(path.read_text()[:12]))
    monkeypatch.setattr(os, "fsync", lambda _file: done.append("name"))
    file = opened(tmp_path)
    file.add([line("a")])
    assert done == ['{"prompt": "', "name"]
    file.add([line("a")])
    assert len(done) == 2, "nothing was new"


def test_after_a_fault_it_is_found_out_what_the_disk_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = opened(tmp_path)
    file.add([line("a")])

    def fail(_file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="Input/output error"):
            file.add([line("b")])
    (tmp_path / FILE_NAME).write_bytes(line("a").text + b'{"prom')
    assert file.add([line("b")]) == [True]
    assert kept(tmp_path) == [("a", "on"), ("b", "on")]


@cache
def six() -> Specialist:
    return taught(lesson(), lambda _: None)


class Kept:
    """A keeper in a folder, and what it reports."""

    def __init__(
        self,
        folder: Path,
        specialist: Callable[[], Specialist] = six,
        writers: Mapping[str, Writer] | None = None,
    ) -> None:
        self.events: queue.SimpleQueue[CorrectionKept] = queue.SimpleQueue()
        self.keeper = CorrectionKeeper(
            CorrectionsFile(folder / FILE_NAME, 100),
            lambda: Installed(specialists={"six": specialist()}, writers=writers),
            self.events.put,
            lambda: 1_800_000_000.0,
        )

    def keep(
        self,
        key: int = 1,
        said: Said | None = None,
        user: str | None = None,
        **members: Any,  # noqa: ANN401
    ) -> CorrectionKept:
        given = {"specialist": "six", "prompt": "x", "answer": "label 1"} | members
        correction = Correction(ReplyAddress("reply/me", user=user), **given)
        self.keeper.keep(KeepCorrection(key, correction, said))
        return self.events.get(timeout=LIMIT_S)


def test_a_correction_is_kept_with_what_was_said_and_can_be_learned_from(tmp_path: Path) -> None:
    it = Kept(tmp_path)
    said = Said("label 2", is_unsure=True)
    assert it.keep(7, said) == CorrectionKept(7, 1, is_new=True, is_agreed=False)
    again = it.keep(8, Said("label 1", is_unsure=False), prompt="y")
    assert again == CorrectionKept(8, 2, is_new=True, is_agreed=True)
    assert it.keep(9) == CorrectionKept(9, 2, is_new=False, is_agreed=None)
    assert it.keep(10, user="ha") == CorrectionKept(10, 3, is_new=True, is_agreed=None)
    first, second, third = map(json.loads, (tmp_path / FILE_NAME).read_text().splitlines())
    assert first == {
        "prompt": "x",
        "answer": "label 1",
        "specialist": "six",
        "time": "2027-01-15T08:00:00+00:00",
        "said": "label 2",
        "unsure": True,
    }
    assert "unsure" not in second
    examples = read_corrections(tmp_path, "six")
    assert [one.prompt for one in examples] == ["x", "y", "x"]
    assert {one.answer for one in examples} == {"label 1"}
    assert third["user"] == "ha"


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"specialist": "lamp"}, "specialist: lamp is not installed on this node"),
        ({"answer": "label 9"}, 'answer: "label 9" is not a label of six'),
        ({"prompt": "x" * 5000}, "prompt: 5000 characters"),
        # Six bytes of JSON for each of these, and of the longest prompt too many.
        ({"prompt": "\x01" * 4096, "said": Said("\x01" * 1024, is_unsure=False)}, ""),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_reason(
    tmp_path: Path, members: dict[str, Any], problem: str
) -> None:
    event = Kept(tmp_path).keep(**members)
    if problem:
        assert event.rejected is not None
        assert event.rejected.code is ErrorCode.BAD_REQUEST
        assert event.rejected.message.startswith(problem)
    else:
        assert event.rejected is None
        assert MAX_LINE_BYTES // 2 < (tmp_path / FILE_NAME).stat().st_size <= MAX_LINE_BYTES


def test_a_line_that_is_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.daemon.corrections_file.MAX_LINE_BYTES", 200)
    event = Kept(tmp_path).keep(prompt="x" * 200)
    assert event.rejected is not None
    assert event.rejected.message.startswith("answer: too long; at most 200 bytes")


def test_a_disk_that_takes_nothing_costs_an_error_each_and_one_line_of_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    it = Kept(tmp_path)
    (tmp_path / FILE_NAME).mkdir()
    for prompt in ("secret", "words"):
        event = it.keep(prompt=prompt)
        assert event.rejected is not None
        assert event.rejected.code is ErrorCode.INTERNAL
        assert event.rejected.message.startswith("state.folder: the correction cannot be written")
    assert caplog.text.count("state.folder: the corrections cannot be written") == 1
    assert "secret" not in caplog.text
    (tmp_path / FILE_NAME).rmdir()
    assert it.keep(prompt="words").is_new


@pytest.mark.parametrize("put", [lambda path: path.symlink_to("/dev/full"), os.mkfifo, os.mkdir])
def test_what_is_no_file_is_neither_waited_for_nor_written(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    put(tmp_path / FILE_NAME)
    with pytest.raises(OSError, match=FILE_NAME):
        opened(tmp_path).add([line("a")])


def test_an_error_of_the_code_is_answered_and_the_thread_lives_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[Specialist] = []

    def specialist() -> Specialist:
        return found[0]

    it = Kept(tmp_path, specialist)
    event = it.keep(prompt="secret")
    assert event.rejected is not None
    assert event.rejected.code is ErrorCode.INTERNAL
    assert "IndexError" in caplog.text
    assert "secret" not in caplog.text
    found.append(six())
    assert it.keep().is_new


def test_one_sync_serves_all_that_were_sent_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: queue.SimpleQueue[int] = queue.SimpleQueue()
    may_end: queue.SimpleQueue[int] = queue.SimpleQueue()

    def slow_sync(file: int) -> None:
        begun.put(file)
        may_end.get(timeout=LIMIT_S)

    monkeypatch.setattr(os, "fdatasync", slow_sync)
    it = Kept(tmp_path)
    address = ReplyAddress("reply/me")
    for key in range(4):
        correction = Correction(address, "six", f"prompt {key}", "label 1")
        it.keeper.keep(KeepCorrection(key, correction, None))
        if key == 0:
            begun.get(timeout=LIMIT_S)
    for key in range(2):
        may_end.put(key)
    events = [it.events.get(timeout=LIMIT_S) for _ in range(4)]
    assert [(event.key, event.count) for event in events] == [(0, 1), (1, 4), (2, 4), (3, 4)]
    begun.get(timeout=LIMIT_S)
    assert begun.empty(), "more than two syncs"


ROOM = {"type": "string", "x-inputs": {"list": "rooms", "value": "id", "say": "name"}}
SCHEMA = {"type": "object", "properties": {"room": ROOM}, "required": ["room"]}
HOUSE = {"rooms": [{"id": "r1", "name": "hall"}, {"id": "r2", "name": "den"}]}
# What a node keeps corrections of: a writer of calls, of rooms, of texts, of unchecked JSON.
WRITERS = {
    name: writer(schema, name=name, is_list=name == "calls")
    for name, schema in {
        "calls": [{"type": "function", "function": {"name": "stop"}}],
        "rooms": SCHEMA,
        "talk": "",
        "free": {"$ref": "#"},
    }.items()
}


def written(folder: Path, *said: str, **members: Any) -> tuple[CorrectionKept, dict[str, Any]]:  # noqa: ANN401
    """Correct a writer; return what became of it, and the line that was kept."""
    it = Kept(folder, writers=WRITERS)
    roles = ["user", "assistant"] * len(said)
    messages = tuple(map(ChatMessage, roles, said))
    event = it.keep(prompt="\n".join(said), messages=messages, **members)
    path = folder / FILE_NAME
    return event, json.loads(path.read_text().splitlines()[-1]) if path.exists() else {}


def test_a_writer_is_corrected_with_its_inputs_and_learns_of_it(tmp_path: Path) -> None:
    right: dict[str, Any] = {"specialist": "rooms", "answer": {"room": "r1"}}
    for said, is_agreed in (
        (None, None),
        (Said({"room": "r1"}, is_unsure=False), True),
        (Said("room=hall", is_unsure=True), True),
        (Said("room=den", is_unsure=True), False),
        (Said("room=ha", is_unsure=True), False),
    ):
        (tmp_path / FILE_NAME).unlink(missing_ok=True)
        event, line = written(tmp_path, "the hall", inputs=HOUSE, said=said, **right)
        assert (event.rejected, event.is_agreed) == (None, is_agreed)
    assert line.items() >= {"prompt": "the hall", "inputs": HOUSE, **right}.items()
    (found,) = read_corrected_dialogues(tmp_path, "rooms")
    assert (found.turns, found.inputs) == ((Turn("the hall", {"room": "r1"}),), HOUSE)
    other = HOUSE | {"rooms": HOUSE["rooms"][:1]}
    event, _ = written(tmp_path, "the hall", inputs=other, **right)
    assert event.count == 2, "with other inputs it is another prompt"
    assert written(tmp_path, "hi", specialist="talk", answer="hello")[0].rejected is None
    calls = {"specialist": "calls", "answer": {"name": "stop", "arguments": {}}}
    assert written(tmp_path, "stop", **calls)[1]["answer"] == [calls["answer"]]


def test_of_a_dialogue_the_earlier_answers_are_kept_as_what_they_say(tmp_path: Path) -> None:
    given: dict[str, Any] = {"specialist": "rooms", "inputs": HOUSE, "answer": {"room": "r2"}}
    event, line = written(tmp_path, "the hall", "room=hall", "no, the other", **given)
    assert event.rejected is None
    assert line["messages"][1] == {"role": "assistant", "content": {"room": "r1"}}
    (found,) = read_corrected_dialogues(tmp_path, "rooms")
    turns = (Turn("the hall", {"room": "r1"}), Turn("no, the other", {"room": "r2"}))
    assert found.turns == turns


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"answer": {"room": "r3"}}, "answer.room: "),
        ({"answer": None}, "answer: null is no answer of rooms"),
        ({"specialist": "talk", "answer": "\ud83d"}, "answer: has half of a character"),
        ({"answer": "[" * 9000}, "answer: must be an object"),
        ({"inputs": {}}, "inputs.rooms: must be a list"),
        ({"specialist": "free"}, "specialist: no correction of free is kept"),
        ({"specialist": "talk", "answer": "x" * 4097}, "answer: must be a text of 1 to 4096"),
        ({"specialist": "six", "answer": "label 1"}, "inputs: six writes no answers"),
    ],
)
def test_what_a_writer_cannot_answer_is_refused(
    tmp_path: Path, members: dict[str, Any], problem: str
) -> None:
    given = {"specialist": "rooms", "inputs": HOUSE, "answer": {"room": "r1"}} | members
    event, line = written(tmp_path, "the hall", **given)
    assert event.rejected is not None
    assert event.rejected.code is ErrorCode.BAD_REQUEST
    assert event.rejected.message.startswith(problem)
    assert line == {}


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (("x" * 4097,), "prompt: must be a text of 1 to 4096 characters"),
        (("a", "room=attic", "b"), "messages[1].content: must be the text of an answer of rooms"),
        (("a", "room=hall") * 40 + ("b",), "messages: must be a list of 1 to 64 messages"),
        (("a", "room=hall", "x" * 4097), "messages[2].content: must be a text of 1 to 4096"),
    ],
)
def test_a_dialogue_that_a_writer_cannot_learn_is_refused(
    tmp_path: Path, said: tuple[str, ...], problem: str
) -> None:
    given: dict[str, Any] = {"specialist": "rooms", "inputs": HOUSE, "answer": {"room": "r1"}}
    event, _ = written(tmp_path, *said, **given)
    assert event.rejected is not None
    assert event.rejected.message.startswith(problem)
