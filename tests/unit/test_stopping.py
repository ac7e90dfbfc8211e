"""Stop strings: found across chunks, never emitted, not even in part."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.stopping import StopMatcher

TEXT = st.text("ab\n", max_size=20)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def emitted(stop: list[str], chunks: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stop)
    text = "".join(matcher.push(chunk) for chunk in chunks)
    return text + matcher.flush(), matcher.is_stopped


def test_text_ends_before_the_stop_string() -> None:
    assert emitted(["\n\n"], ["one\n", "\ntwo"]) == ("one", True)


def test_what_may_begin_a_stop_string_is_held_back_and_then_released() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("the E") == "the "
    assert matcher.push("N") == ""
    assert matcher.push("Q") == "ENQ"
    assert matcher.push("E") == ""
    assert matcher.flush() == "E"
    assert matcher.flush() == ""
    assert not matcher.is_stopped


def test_nothing_follows_a_stop_string() -> None:
    matcher = StopMatcher(["x"])
    assert matcher.push("axb") == "a"
    assert matcher.is_stopped
    assert matcher.push("more") == ""
    assert matcher.flush() == ""


def test_the_stop_string_that_ends_first_counts() -> None:
    assert emitted(["abcd", "bc"], ["abcd"]) == ("a", True)


def test_of_two_that_end_together_the_longer_counts() -> None:
    assert emitted(["bc", "abc"], ["xabc"]) == ("x", True)


def test_without_stop_strings_all_text_passes_at_once() -> None:
    assert StopMatcher([]).push("text") == "text"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""])


@given(stop=STOPS, text=TEXT, cuts=st.lists(st.integers(0, 20)))
def test_chunk_boundaries_change_nothing(stop: list[str], text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    chunks = [text[start:end] for start, end in pairwise(edges)]
    assert emitted(stop, chunks) == emitted(stop, list(text))


@given(stop=STOPS, text=TEXT)
def test_what_is_emitted_is_the_text_up_to_the_first_stop_string(
    stop: list[str], text: str
) -> None:
    out, is_stopped = emitted(stop, list(text))
    assert text.startswith(out)
    assert is_stopped == any(s in text for s in stop)
    assert is_stopped or out == text
    assert not any(s in out for s in stop)
