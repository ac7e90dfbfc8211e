"""How many known tokens a pass runs: as many as save time, and none at others' expense."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engine.ahead import take_ahead
from edged.engine.decoding import Decoding
from edged.engine.sampling import Sampler
from edged.protocol.request import SamplingParams

PROMPT = np.arange(5, dtype=np.int64)
COST = 0.1


class Known:
    """A format that leaves one way to go on for so many tokens."""

    is_complete = is_ending = False

    def __init__(self, num_forced: int) -> None:
        self.forced: Sequence[int] = range(num_forced)

    def allowed(self, logits: object) -> None: ...

    def advance(self, token_id: int) -> None: ...


def answers(*num_forced: int) -> list[Decoding]:
    found = []
    for slot, count in enumerate(num_forced):
        sampler = Sampler(SamplingParams(), PROMPT, 0)
        found.append(Decoding(PROMPT, sampler, slot, 0, 100, Known(count)))
    return found


def taken(*num_forced: int, max_tokens: int = 64, max_length: int = 64) -> list[int]:
    known = take_ahead(answers(*num_forced), COST, max_tokens, max_length)
    return [len(token_ids) for token_ids in known]


@pytest.mark.parametrize(
    ("num_forced", "expected"),
    [
        ((0,), (0,)),
        ((7,), (7,)),
        ((40,), (15,)),
        ((4, 4, 4, 4), (4, 4, 4, 4)),
        ((4, 3, 1, 4), (3, 3, 1, 3)),  # one more would make the third later
        ((15, 0), (0, 0)),  # the second would wait for the first
        ((15, 15, 15, 0), (0, 0, 0, 0)),
    ],
)
def test_as_many_are_run_as_save_time(num_forced: Sequence[int], expected: Sequence[int]) -> None:
    assert tuple(taken(*num_forced)) == tuple(expected)


def test_a_pass_is_not_larger_than_memory_and_context_allow() -> None:
    assert taken(9, 9, 9, 9, max_tokens=32) == [7, 7, 7, 7]
    assert taken(9, 9, 9, 9, max_length=3) == [2, 2, 2, 2]
    assert taken(9, 9, max_length=1) == [0, 0]
    # Of eight answers logits are computed at two ends, at most.
    assert len({*taken(*range(1, 9))}) <= 2


@given(st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), max_size=30))
def test_nobody_is_later_than_with_one_token_a_pass(passes: list[list[int]]) -> None:
    running, spent, saved = answers(0, 0, 0, 0), 0.0, np.zeros(4)
    for num_forced in passes:
        for decoding, count in zip(running, num_forced, strict=True):
            decoding.constraint = Known(count)
        known = [len(token_ids) for token_ids in take_ahead(running, COST, 64, 64)]
        spent += 1 + COST * (4 * (1 + max(known)) - 1)
        saved += [(1 + count) * (1 + COST * 3) for count in known]
        assert min(saved) >= spent - 1e-6
