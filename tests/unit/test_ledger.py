"""The ledger: reserve first, use later, release always."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edged.node.ledger import Account, Ledger, Reservation, open_ledger
from edged.scheduling.memory_budget import MemoryBudget, MemoryPlan
from tests.examples import num_examples

LIMIT = 1000
PLAN = MemoryPlan(weights_bytes=300, kv_bytes=200, process_bytes=100, working_bytes=50)


def test_the_account_is_opened_with_what_is_held_for_good() -> None:
    ledger = open_ledger(MemoryBudget(LIMIT), PLAN, replay_bytes=20)
    assert ledger.accounts() == {
        "process": 100,
        "weights": 300,
        "working": 50,
        "kv": 200,
        "sessions": 0,
        "replay": 20,
        "requests": 0,
    }
    assert (ledger.planned_bytes, ledger.free_bytes) == (670, 330)


def test_without_a_plan_only_the_replies_are_planned() -> None:
    assert open_ledger(MemoryBudget(LIMIT), None, 20).planned_bytes == 20


def test_a_reservation_that_does_not_fit_is_none_and_costs_nothing() -> None:
    ledger = Ledger(LIMIT)
    assert ledger.reserve(Account.REQUESTS, LIMIT + 1) is None
    assert ledger.free_bytes == LIMIT
    held = ledger.reserve(Account.REQUESTS, LIMIT)
    assert held is not None
    assert ledger.reserve(Account.REQUESTS, 1) is None
    held.release()
    held.release()
    assert ledger.free_bytes == LIMIT


def test_nothing_negative_is_reserved() -> None:
    with pytest.raises(ValueError, match="-1"):
        Ledger(LIMIT).reserve(Account.KV, -1)


def test_what_is_measured_above_the_plan_is_told() -> None:
    ledger = open_ledger(MemoryBudget(LIMIT), PLAN, 0)
    assert ledger.drift_bytes(700) == 50
    assert ledger.drift_bytes(600) == -50


class Accounting(RuleBasedStateMachine):
    """Any order of reservations and releases."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(LIMIT)
        self.held: list[Reservation] = []

    @rule(account=st.sampled_from(Account), num_bytes=st.integers(0, 600))
    def reserve(self, account: Account, num_bytes: int) -> None:
        fits = num_bytes <= self.ledger.free_bytes
        held = self.ledger.reserve(account, num_bytes)
        assert (held is not None) == fits
        if held is not None:
            self.held.append(held)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            data.draw(st.sampled_from(self.held)).release()

    @invariant()
    def the_sum_is_right_and_inside_the_budget(self) -> None:
        assert self.ledger.planned_bytes == sum(held.num_bytes for held in self.held)
        assert 0 <= self.ledger.free_bytes <= LIMIT
        assert min(self.ledger.accounts().values()) >= 0

    def teardown(self) -> None:
        """Release everything: the account is empty."""
        for held in self.held:
            held.release()
        assert self.ledger.planned_bytes == 0


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(
    max_examples=num_examples(600), stateful_step_count=30, deadline=None
)
