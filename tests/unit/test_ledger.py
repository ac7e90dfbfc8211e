"""The ledger: reserve first, use later, release always."""

from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edged.node.ledger import REPLAY_BYTES, Account, Ledger, deliveries_bytes
from edged.node.node import Node
from edged.node.sessions import MAX_SESSION_BYTES
from edged.scheduling.latency_model import LatencyModel
from edged.scheduling.memory_budget import MemoryBudget
from tests.examples import num_examples
from tests.fakes import COST, LIMITS, MIB

LIMIT = 1000
DELIVERIES_BYTES = deliveries_bytes(LIMITS.defaults.max_payload_bytes, LIMITS.max_waiting + 1)


def test_the_account_is_opened_with_what_is_held_for_good() -> None:
    ledger = Node(LIMITS, LatencyModel(COST)).guard.ledger
    assert ledger.accounts() == {
        "process": 30 * MIB,
        "weights": 20 * MIB,
        "working": 20 * MIB,
        "kv": 30 * MIB,
        "specialists": 0,
        "sessions": LIMITS.sessions.count * MAX_SESSION_BYTES,
        "replay": REPLAY_BYTES,
        "requests": 0,
        "deliveries": DELIVERIES_BYTES,
    }
    assert ledger.planned_bytes == sum(ledger.accounts().values())
    assert ledger.free_bytes == LIMITS.budget.limit_bytes - ledger.planned_bytes


def test_without_a_plan_only_replies_deliveries_and_sessions_are_planned() -> None:
    ledger = Node(replace(LIMITS, plan=None), LatencyModel(COST)).guard.ledger
    sessions_bytes = LIMITS.sessions.count * MAX_SESSION_BYTES
    assert ledger.planned_bytes == REPLAY_BYTES + DELIVERIES_BYTES + sessions_bytes


def test_no_more_is_held_for_good_than_the_budget_has() -> None:
    small = replace(LIMITS, budget=MemoryBudget(35 * MIB))
    accounts = Node(small, LatencyModel(COST)).guard.ledger.accounts()
    assert (accounts["process"], accounts["sessions"]) == (30 * MIB, 0)
    assert sum(accounts.values()) == 35 * MIB


def test_a_reservation_that_does_not_fit_is_refused_and_costs_nothing() -> None:
    ledger = Ledger(LIMIT, {})
    assert not ledger.reserve(Account.REQUESTS, LIMIT + 1)
    assert ledger.free_bytes == LIMIT
    assert ledger.reserve(Account.REQUESTS, LIMIT)
    assert not ledger.reserve(Account.REQUESTS, 1)
    ledger.release(Account.REQUESTS, LIMIT)
    assert ledger.free_bytes == LIMIT


def test_what_is_measured_above_the_plan_is_told() -> None:
    ledger = Ledger(LIMIT, {Account.WEIGHTS: 650})
    assert ledger.drift_bytes(700) == 50
    assert ledger.drift_bytes(600) == -50


class Accounting(RuleBasedStateMachine):
    """Any order of reservations and releases."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(LIMIT, {})
        self.held: list[tuple[Account, int]] = []

    @rule(account=st.sampled_from(Account), num_bytes=st.integers(0, 600))
    def reserve(self, account: Account, num_bytes: int) -> None:
        fits = num_bytes <= self.ledger.free_bytes
        assert self.ledger.reserve(account, num_bytes) == fits
        if fits:
            self.held.append((account, num_bytes))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            index = data.draw(st.integers(0, len(self.held) - 1))
            self.ledger.release(*self.held.pop(index))

    @invariant()
    def each_sum_is_right_and_all_are_inside_the_budget(self) -> None:
        held: Counter[str] = Counter()
        for account, num_bytes in self.held:
            held[account.value] += num_bytes
        assert self.ledger.accounts() == {account.value: held[account.value] for account in Account}
        assert self.ledger.planned_bytes == held.total()
        assert 0 <= self.ledger.free_bytes <= LIMIT

    def teardown(self) -> None:
        """Release everything: the account is empty."""
        for account, num_bytes in self.held:
            self.ledger.release(account, num_bytes)
        assert self.ledger.planned_bytes == 0


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(
    max_examples=num_examples(600), stateful_step_count=30, deadline=None
)


def test_what_is_held_for_good_is_exchanged_only_where_there_is_room() -> None:
    ledger = Ledger(LIMIT, {Account.SPECIALISTS: 100, Account.PROCESS: 600})
    assert ledger.exchange(Account.SPECIALISTS, 400)
    assert ledger.free_bytes == 0
    assert not ledger.exchange(Account.SPECIALISTS, 401)
    assert ledger.accounts()["specialists"] == 400
    assert ledger.exchange(Account.SPECIALISTS, 0)
    assert ledger.free_bytes == 400
