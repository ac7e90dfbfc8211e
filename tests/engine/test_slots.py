"""Which slot a prompt takes, what it reuses, and what of that its user may be told."""

import numpy as np
import pytest

from edged.engine.slots import Claim, Slots, TokenIds

PROMPT = np.arange(100, 140)


def ask(slots: Slots, prompt: TokenIds, user: str | None, num_strict: int | None = None) -> Claim:
    """Run a prompt to its end."""
    claim = slots.claim(prompt, num_reusable=len(prompt) - 1, num_strict=num_strict, user=user)
    slots.extend(claim.slot, prompt[claim.num_cached :], is_prefill=True)
    slots.free(claim.slot)
    return claim


@pytest.mark.parametrize("num_guessed", [0, 1, 10, 30, 39])
def test_what_others_asked_is_reused_and_not_told(num_guessed: int) -> None:
    slots = Slots(4, 0)
    ask(slots, PROMPT, "ha")
    guess = np.concatenate([PROMPT[:num_guessed], np.arange(20)])
    claim = ask(slots, guess, "other")
    assert claim.num_cached == num_guessed
    assert claim.num_cached - claim.num_foreign == 0
    again = ask(slots, guess, "other")
    assert (again.num_cached, again.num_foreign) == (len(guess) - 1, 0)
    more = ask(slots, np.concatenate([PROMPT, [1]]), "other")
    assert more.num_cached - more.num_foreign == num_guessed


def test_a_prefix_that_is_kept_for_all_is_told_to_all() -> None:
    slots = Slots(2, 1)
    slots.pin(PROMPT[:20])
    ask(slots, PROMPT, "ha")
    claim = ask(slots, PROMPT, "other")
    assert (claim.num_cached, claim.num_foreign) == (39, 19)


def test_without_accounts_all_are_one_user() -> None:
    slots = Slots(2, 0)
    ask(slots, PROMPT, None)
    assert ask(slots, PROMPT, None).num_foreign == 0


@pytest.mark.parametrize("guess", [PROMPT, PROMPT[:25], np.arange(30)])
def test_what_others_asked_decides_nothing_about_what_is_overwritten(guess: TokenIds) -> None:
    """Else one could look whether one's own prompt is still there."""
    slots = Slots(2, 0)
    ask(slots, np.arange(50, 60), "other")
    ask(slots, PROMPT, "ha")
    ask(slots, guess, "other")
    own = ask(slots, np.arange(50, 60), "other")
    assert own.num_cached - own.num_foreign == 0


def test_what_another_adapter_computed_is_not_reused() -> None:
    """Neither by the plain model, nor from a prefix that is kept."""
    slots, prompt = Slots(2, 1), np.arange(8)
    pinned = slots.pin(prompt[:6], "one")
    for adapter, num_cached in ((None, 0), ("two", 0), ("one", 6)):
        claim = slots.claim(prompt, num_reusable=7, num_strict=8, adapter=adapter)
        assert claim.num_cached == num_cached
        slots.free(claim.slot)
    assert claim.source == pinned
    slots.extend(claim.slot, prompt[6:], is_prefill=True)
    slots.free(claim.slot)
    again = slots.claim(prompt, num_reusable=7, num_strict=8, adapter="one")
    assert (again.slot, again.num_cached) == (claim.slot, 7)
