"""Fair shares: who pays for a request, and what each client may be promised."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.protocol.request import Client
from edged.scheduling.fair_share import (
    ACTIVE_S,
    MAX_ACCOUNTS,
    MAX_CREDIT_S,
    MAX_KEPT,
    MAX_NAMES,
    FairShare,
)
from tests.examples import num_examples

HA, PANEL, FLOOD = Client("ha"), Client("panel"), Client("flood")
NEW_ACCOUNT, NEW_TOPIC = Client(""), Client(None)


def shares(*known: Client, **weights: float) -> FairShare:
    """Shares of clients that have all asked twice at 0."""
    made = FairShare(weights)
    for client in (*known, *known):
        made.ask(client, {}, 0.0)
    return made


def test_a_name_pays_for_itself_from_its_second_request_on() -> None:
    made = FairShare({"ha": 2.0})
    assert made.ask(HA, {}, 0.0) == HA  # it has a weight: it is no stranger
    assert [made.ask(PANEL, {}, 0.0) for _ in range(3)] == [NEW_ACCOUNT, PANEL, PANEL]
    topic = Client(None, "reply/x")
    assert [made.ask(topic, {}, 0.0) for _ in range(2)] == [NEW_TOPIC, topic]


def test_an_account_that_is_certain_pays_for_its_first_request_while_there_is_room() -> None:
    made = FairShare({}, is_identity_required=True)
    accounts = [Client(f"{number}") for number in range(MAX_ACCOUNTS)]
    assert [made.ask(client, {}, 0.0) for client in accounts] == accounts
    assert [made.ask(HA, {}, 1.0) for _ in range(2)] == [NEW_ACCOUNT] * 2
    topic = Client(None, "reply/x")
    assert [made.ask(topic, {}, 1.0) for _ in range(2)] == [NEW_TOPIC, topic]


def test_who_is_alone_may_have_everything() -> None:
    part = shares(HA).part(HA, {HA}, {}, 1.0)
    assert (part.own, part.kept, part.is_least, part.is_lowest) == (1.0, 0.0, True, True)
    assert shares(HA).part(HA, {HA}, {}, 1.0, is_last=True).is_lowest


def test_accounts_share_by_weight_and_all_reply_topics_are_one_client() -> None:
    topics = [Client(None, f"reply/{number}") for number in range(4)]
    made = shares(HA, PANEL, *topics, ha=3.0)
    assert [made.part(client, (), {}, 1.0).own for client in (HA, PANEL, topics[0])] == [
        pytest.approx(3 / 5),
        pytest.approx(1 / 5),
        pytest.approx(1 / 5 / 4),
    ]


def test_who_is_silent_counts_no_more_and_comes_back_without_credit() -> None:
    made = shares(HA, FLOOD)
    made.charge(FLOOD, 40.0, 0.0)
    made.ask(FLOOD, {}, ACTIVE_S)
    assert made.part(FLOOD, (), {}, ACTIVE_S).own == 1.0
    made.ask(HA, {}, ACTIVE_S)
    assert made.level_s(HA) == made.level_s(FLOOD) == 40.0
    # A newcomer begins at the lowest level, too, not at the bottom.
    made.ask(Client("new"), {}, ACTIVE_S)
    assert made.level_s(NEW_ACCOUNT) == 40.0


def test_who_is_never_promised_anything_holds_up_the_others_only_for_a_while() -> None:
    made = shares(HA, PANEL, FLOOD, ha=1.0, panel=1.0, flood=1.0)
    for client in (HA, PANEL):
        made.want(client, 5.0)
    made.charge(PANEL, 1.0, 0.0)
    assert not made.part(PANEL, (), {}, 1.0).is_least  # ha's request comes first
    made.charge(FLOOD, 3 * MAX_CREDIT_S, 0.0)
    made.ask(FLOOD, {}, 1.0)
    assert made.level_s(HA) == pytest.approx(1 / 3)
    made.charge(FLOOD, 3.0, 0.0)
    made.ask(HA, {}, 1.0)
    assert made.part(PANEL, (), {}, 1.0).is_lowest


def test_time_is_kept_for_who_was_promised_less_and_wants_it() -> None:
    made = shares(HA, FLOOD)
    made.charge(FLOOD, 4.0, 0.0)
    assert made.part(FLOOD, {FLOOD}, {}, 1.0).kept == 0.0  # nothing is wanted
    made.want(HA, 3.0)
    made.want(HA, 2.0)
    part = made.part(FLOOD, {FLOOD}, {}, 1.0)
    assert (part.kept, part.is_least) == (MAX_KEPT, False)
    assert part.longest_s == pytest.approx(1.25 * 0.9 * 3.0)  # the long one was a while ago
    assert made.part(FLOOD, (), {}, 1.0).is_least is False
    assert made.part(HA, (), {}, 1.0).is_least
    # Once it has been promised as much, nothing is kept for it.
    made.charge(HA, 4.0, 0.0)
    assert made.part(FLOOD, {FLOOD}, {}, 1.0).kept == 0.0
    assert made.part(FLOOD, (), {}, 1.0).is_least


def test_time_is_kept_for_a_promise_that_waits_though_its_client_was_served_less() -> None:
    made = shares(HA, FLOOD, PANEL)
    part = made.part(FLOOD, {HA, FLOOD}, {HA: 2.0, Client("forgotten"): 9.0}, 1.0)
    assert part.kept == pytest.approx(1 / 3)
    assert part.longest_s == 2.5


def test_an_idle_device_owes_nobody_anything() -> None:
    made = shares(HA, FLOOD)
    made.charge(FLOOD, 4.0, 0.0)
    made.want(HA, 1.0)
    made.restart()
    part = made.part(FLOOD, (), {}, 1.0)
    assert (made.level_s(FLOOD), part.kept, part.is_lowest) == (0.0, 0.0, True)


def test_who_ranks_last_leaves_room_for_all_even_on_an_idle_device() -> None:
    made = shares(HA, FLOOD)
    made.charge(HA, 4.0, 0.0)
    made.want(HA, 2.0)
    for _ in range(2):
        part = made.part(FLOOD, (), {}, 1.0, is_last=True)
        assert (part.kept, part.longest_s, part.is_lowest) == (MAX_KEPT, 2.5, False)
        made.restart()  # that leaves what they want


def test_a_client_that_was_forgotten_meanwhile_has_a_part() -> None:
    made = FairShare({})
    assert made.charge(HA, 2.0, 0.0) == 2.0
    made.want(HA, 2.0)
    assert (made.level_s(HA), made.part(HA, (), {}, 0.0).own) == (0.0, 1.0)


@pytest.mark.parametrize("user", [None, "u"])
def test_ten_thousand_names_push_out_no_client_that_asks(user: str | None) -> None:
    """And all of them together get the part of one client, of no account or of a new one."""
    known = Client(None, "reply/panel") if user is None else PANEL
    made = shares(HA, known)
    for number in range(10_000):
        now_s = number / 100
        name = f"{number}"
        stranger = Client(None, name) if user is None else Client(name)
        payer = made.ask(stranger, {}, now_s)
        assert payer == (NEW_TOPIC if user is None else NEW_ACCOUNT)
        made.charge(payer, 1.0, now_s)
        if number % 1000 == 0:
            assert made.ask(known, {}, now_s) == known
            assert made.ask(HA, {}, now_s) == HA
    part = made.part(HA, {payer}, {}, now_s)
    assert part.own == pytest.approx(1 / 2 if user is None else 1 / 3)
    strangers = made.part(payer, {payer}, {}, now_s)
    assert strangers.own == pytest.approx(1 / 4 if user is None else 1 / 3)


def test_names_that_ask_twice_take_only_places_of_silent_ones() -> None:
    made = shares(PANEL)
    for number in range(2 * MAX_NAMES):
        for _ in range(2):
            made.ask(Client(f"{number}"), {}, 1.0)
    late = Client("late")
    assert [made.ask(late, {}, 2.0) for _ in range(3)] == [NEW_ACCOUNT] * 3  # no room
    assert made.ask(PANEL, {}, 2.0) == PANEL
    # PANEL has asked since: the others make room one by one.
    now_s = 1.5 + ACTIVE_S
    assert [made.ask(late, {}, now_s) for _ in range(2)] == [late, late]
    assert made.ask(PANEL, {}, now_s) == PANEL


@settings(deadline=None, max_examples=num_examples(300))
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.booleans(), st.floats(0.0, 60.0), st.floats(0.1, 9.0)),
        max_size=40,
    ),
    st.floats(0.1, 10.0),
)
def test_the_parts_of_the_active_clients_are_the_whole(
    asks: list[tuple[int, bool, float, float]], weight: float
) -> None:
    made, now_s, payers = FairShare({"0": weight}), 0.0, {}
    for number, is_account, pause_s, work_s in asks:
        now_s += pause_s
        client = Client(f"{number}") if is_account else Client(None, f"{number}")
        payers[made.ask(client, {}, now_s)] = now_s
        made.charge(client, work_s, now_s)
    active = {payer for payer, at_s in payers.items() if now_s - at_s < ACTIVE_S}
    parts = [made.part(payer, active, {}, now_s) for payer in active]
    assert not parts or sum(part.own for part in parts) == pytest.approx(1.0)
    assert all(0.0 <= part.kept <= MAX_KEPT for part in parts)
