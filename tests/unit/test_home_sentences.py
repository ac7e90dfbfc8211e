"""Whole sentences that the home specialist learns from, and what each says."""

import re
from pathlib import Path

import pytest

from models.specialists.home.generator import by_hand
from models.specialists.home.sentences import COPIED, Line, lessons

_WORDS_FOR_UNLOCKING = re.compile(r"unl|unb|disarm|lock off|alarm.* off|off.* alarm")


@pytest.fixture(scope="module")
def made() -> list[Line]:
    """Each sentence twice."""
    return list(lessons(2))


def test_what_is_said_stands_in_the_sentence(made: list[Line]) -> None:
    assert len(made) > 14_000
    for line in made:
        assert line["prompt"].isascii()
        for command in line["answer"]["commands"]:
            said = [command[name] for name in COPIED if name in command]
            assert all(words in line["prompt"] for words in said), line


def test_the_second_time_a_sentence_is_heard_or_has_a_capital(made: list[Line]) -> None:
    pairs = [
        (one["prompt"], other["prompt"]) for one, other in zip(made[::2], made[1::2], strict=True)
    ]
    marks = re.compile(r"[,.!?;:]")
    assert all(marks.sub("", a.lower()) == marks.sub("", b.lower()) for a, b in pairs)
    assert sum(a == b for a, b in pairs) < 0.02 * len(pairs)
    assert [line["group"] for line in made[::2]] == [line["group"] for line in made[1::2]]


def test_nothing_is_unlocked_without_a_word_for_it(made: list[Line]) -> None:
    for line in made:
        if {"unlock", "alarm_disarm"} & {one["do"] for one in line["answer"]["commands"]}:
            assert _WORDS_FOR_UNLOCKING.search(line["prompt"].lower()), line["prompt"]


_JUDGED = [by_hand.READ, by_hand.FRESH, by_hand.HARDER]


@pytest.mark.parametrize("file", _JUDGED, ids=lambda file: file.stem)
def test_none_of_them_is_judged_by(made: list[Line], file: Path) -> None:
    judged = {re.sub(r"\W+", " ", line["prompt"].lower()).strip() for line in by_hand.read(file)}
    learned = {re.sub(r"\W+", " ", line["prompt"].lower()).strip() for line in made}
    assert not judged & learned
