"""Dialogues: what is held, whose it is, and what an answer changes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.node.sessions import MAX_SESSION_BYTES, PendingTurn, SessionLimits, Sessions, Turn
from edged.protocol.request import ChatMessage, Request
from tests.make_request import make_request

MINE, YOURS = "edged/n/response/generate/me", "edged/n/response/generate/you"


def ask(prompt: str, *, topic: str = MINE, system: str | None = None, name: str = "s") -> Request:
    said = [] if system is None else [ChatMessage("system", system)]
    return make_request(
        topic=topic,
        session=name,
        is_system_given=system is not None,
        messages=(*said, ChatMessage("user", prompt)),
    )


def told(turn: PendingTurn | None, num_forgotten: int = 0) -> list[str]:
    assert turn is not None
    return [message.content for message in turn.prompt(num_forgotten)]


class Talk:
    """Sessions, a clock, and a number for each request."""

    def __init__(self, **limits: float) -> None:
        self.sessions = Sessions(SessionLimits(**limits))  # type: ignore[arg-type]
        self.now_s = 0.0
        self.num_asked = 0

    def open(self, request: Request, key: str = "", *, is_repeat: bool = False) -> PendingTurn:
        self.num_asked += 1
        key = key or f"k{self.num_asked}"
        turn = self.sessions.open(request, key, may_be_a_repeat=is_repeat, now_s=self.now_s)
        assert turn is not None
        return turn

    def answer(self, turn: PendingTurn, text: str = "ok") -> tuple[int, int]:
        state = self.sessions.close(turn, text, self.now_s)
        return state.num_turns, state.num_forgotten

    def say(self, prompt: str, **more: str) -> list[str]:
        turn = self.open(ask(prompt, **more))
        self.answer(turn, f"re {prompt}")
        return told(turn)


def test_a_request_without_a_session_is_no_turn() -> None:
    request = make_request()
    assert Sessions(SessionLimits()).open(request, "k", may_be_a_repeat=False, now_s=0) is None


def test_a_turn_is_told_with_all_before_it() -> None:
    talk = Talk()
    assert talk.say("a") == ["a"]
    assert talk.say("b") == ["a", "re a", "b"]
    assert talk.say("c") == ["a", "re a", "b", "re b", "c"]


def test_dialogues_are_told_apart_by_session_and_by_reply_topic() -> None:
    talk = Talk()
    talk.say("a")
    assert talk.say("b", topic=YOURS) == ["b"]
    assert talk.say("c", name="t") == ["c"]
    assert talk.sessions.count(talk.now_s) == 3


def test_the_system_text_stays_until_a_request_brings_another() -> None:
    talk = Talk()
    assert talk.say("a", system="brief") == ["brief", "a"]
    assert talk.say("b")[0] == "brief"
    assert talk.say("c", system="kind")[0] == "kind"
    assert talk.say("d")[:2] == ["kind", "a"]


def test_the_nodes_own_system_text_is_not_remembered_as_the_requests() -> None:
    talk = Talk()
    messages = (ChatMessage("system", "the node's"), ChatMessage("user", "a"))
    turn = talk.open(make_request(topic=MINE, session="s", messages=messages))
    talk.answer(turn)
    assert told(turn) == ["the node's", "a"]
    assert talk.say("b") == ["a", "ok", "b"]


def test_nothing_is_held_before_the_answer() -> None:
    talk = Talk()
    talk.open(ask("a"))
    assert talk.sessions.count(talk.now_s) == 0
    assert talk.say("b") == ["b"]


def test_a_repeated_request_stands_where_it_stood_and_is_one_turn() -> None:
    talk = Talk()
    for key in ("k-a", "k-b"):
        talk.answer(talk.open(ask(key), key))
    again = talk.open(ask("k-a"), "k-a", is_repeat=True)
    assert told(again) == ["k-a"]
    assert talk.answer(again, "anew") == (2, 0)
    assert talk.say("c") == ["k-a", "anew", "k-b", "ok", "c"]


def test_the_same_words_again_are_another_turn() -> None:
    talk = Talk()
    for expected in (1, 2):
        assert talk.answer(talk.open(ask("yes"), "k"))[0] == expected


def test_two_requests_at_once_are_two_turns_in_the_order_of_their_answers() -> None:
    talk = Talk()
    talk.say("a")
    first, second = talk.open(ask("b")), talk.open(ask("c"))
    assert talk.answer(second, "2") == (2, 0)
    assert talk.answer(first, "1") == (3, 0)
    assert talk.say("d") == ["a", "re a", "c", "2", "b", "1", "d"]


def test_forgotten_turns_are_gone_once_it_is_answered() -> None:
    talk = Talk()
    for prompt in ("a", "b", "c"):
        talk.say(prompt)
    turn = talk.open(ask("d"))
    assert told(turn, 2) == ["c", "re c", "d"]
    assert talk.answer(replace(turn, num_forgotten=2)) == (2, 2)
    assert talk.say("e") == ["c", "re c", "d", "ok", "e"]


def test_an_idle_dialogue_is_forgotten_and_a_used_one_is_not() -> None:
    talk = Talk(idle_s=10)
    talk.say("a")
    talk.now_s = 6
    talk.say("b", name="t")
    talk.now_s = 9
    talk.say("c")
    talk.now_s = 16
    assert talk.sessions.count(talk.now_s) == 1
    assert talk.say("d") == ["a", "re a", "c", "re c", "d"]


def test_the_one_that_was_idle_longest_makes_room() -> None:
    talk = Talk(count=2)
    for name in ("s", "t", "s", "u"):
        talk.say("a", name=name)
    assert talk.sessions.count(talk.now_s) == 2
    assert talk.say("b", name="s") == ["a", "re a", "a", "re a", "b"]
    assert talk.say("b", name="t") == ["b"]


def test_a_client_with_many_dialogues_pushes_out_its_own_only() -> None:
    talk = Talk(count=4)
    talk.say("a")
    for number in range(12):
        talk.say("a", topic=YOURS, name=f"s{number}")
    assert talk.sessions.count(talk.now_s) == 4
    assert talk.say("b") == ["a", "re a", "b"]
    assert talk.say("b", topic=YOURS, name="s8") == ["b"]
    assert talk.say("b", topic=YOURS, name="s11") == ["a", "re a", "b"]


def test_a_dialogue_that_was_forgotten_during_an_answer_goes_on_from_what_was_told() -> None:
    talk = Talk(idle_s=10)
    talk.say("a")
    turn = talk.open(ask("b"))
    talk.now_s = 60
    assert talk.sessions.count(talk.now_s) == 0
    assert talk.answer(turn) == (2, 0)


def test_the_text_of_a_dialogue_is_bounded_and_the_oldest_goes_first() -> None:
    talk = Talk()
    talk.say("a")
    long = "ü" * (MAX_SESSION_BYTES // 8)
    talk.say(long)
    assert talk.answer(talk.open(ask("b")), "x" * (MAX_SESSION_BYTES // 2 - 4)) == (2, 0)
    turn = talk.open(ask("c"))
    assert told(turn)[0] == long
    assert talk.answer(turn) == (2, 1), "the first one was dropped after the answer before"
    turn = talk.open(ask("d"))
    assert talk.answer(replace(turn, num_forgotten=1), "x" * MAX_SESSION_BYTES) == (0, 2)
    turn = talk.open(ask("e"))
    assert told(turn) == ["e"]
    assert talk.answer(turn) == (1, 2)
    assert talk.answer(talk.open(ask("f"))) == (2, 0)


def test_a_turn_that_two_requests_leave_out_is_told_to_be_forgotten_once() -> None:
    talk = Talk()
    talk.say("a")
    first, second = (replace(talk.open(ask(text)), num_forgotten=1) for text in ("b", "c"))
    assert talk.answer(first) == (1, 1)
    assert talk.answer(second) == (2, 0)


def test_each_turn_is_measured_once_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk()
    measured: list[Turn] = []

    def num_bytes(turn: Turn) -> int:
        measured.append(turn)
        return MAX_SESSION_BYTES // 8

    monkeypatch.setattr(Turn, "num_bytes", property(num_bytes))
    for number in range(8):
        talk.say(str(number))
    measured.clear()
    assert talk.answer(talk.open(ask("8"))) == (8, 0)
    assert len(measured) == 9


@given(
    st.lists(st.tuples(st.sampled_from("stu"), st.integers(0, 4), st.integers(0, 3)), max_size=40)
)
def test_however_requests_come_again_each_is_one_turn_and_the_bounds_hold(
    steps: list[tuple[str, int, int]],
) -> None:
    talk = Talk(count=2)
    for name, number, num_forgotten in steps:
        turn = talk.open(ask(f"q{number}", name=name), f"{name}{number}", is_repeat=True)
        said = told(turn)
        questions = [text for text in said if text.startswith("q")]
        assert questions[-1] == f"q{number}"
        assert len(set(questions)) == len(questions)
        assert said[1::2] == [f"re {question}" for question in questions[:-1]]
        forgotten = min(num_forgotten, len(turn.history))
        talk.sessions.close(replace(turn, num_forgotten=forgotten), f"re q{number}", talk.now_s)
        assert talk.sessions.count(talk.now_s) <= 2
