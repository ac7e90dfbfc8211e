"""Fair shares: a client alone may have everything, two have half each."""

from edged.protocol.request import Client
from edged.scheduling.fair_share import ACTIVE_S, BURST_S, MAX_CLIENTS, FairShare


def test_a_client_alone_is_never_over_its_share() -> None:
    shares = FairShare()
    for at_s in range(100):
        shares.charge(Client("one"), 5.0, float(at_s))
    assert shares.wait_s(Client("one"), 100.0) == 0
    assert shares.wait_s(Client("stranger"), 100.0) == 0


def test_who_takes_more_than_its_part_is_over_once_somebody_else_asks() -> None:
    shares = FairShare()
    for _ in range(4):
        shares.charge(Client("flood"), 4.0, 0.0)
    shares.charge(Client("other"), 1.0, 0.0)
    assert shares.wait_s(Client("flood"), 0.0) > 0
    assert shares.wait_s(Client("other"), 0.0) == 0
    # 6 s too much, and half a second a second comes back.
    assert shares.wait_s(Client("flood"), 0.0) == 12.0
    assert shares.wait_s(Client("flood"), 11.9) > 0
    assert shares.wait_s(Client("flood"), 12.1) == 0


def test_a_burst_is_free() -> None:
    shares = FairShare()
    shares.charge(Client("other"), 1.0, 0.0)
    shares.charge(Client("one"), BURST_S - 0.1, 0.0)
    assert shares.wait_s(Client("one"), 0.0) == 0
    shares.charge(Client("one"), 0.2, 0.0)
    assert shares.wait_s(Client("one"), 0.0) > 0


def test_who_is_silent_does_not_count_any_more() -> None:
    shares = FairShare()
    shares.charge(Client("other"), 1.0, 0.0)
    for _ in range(8):
        shares.charge(Client("one"), 10.0, ACTIVE_S - 1)
    assert shares.wait_s(Client("one"), ACTIVE_S - 1) > 0
    assert shares.wait_s(Client("one"), ACTIVE_S + 1) == 0


def test_debt_and_memory_are_bounded() -> None:
    shares = FairShare()
    shares.charge(Client("flood"), 1e9, 0.0)
    for number in range(MAX_CLIENTS - 1):
        shares.charge(Client(f"client {number}"), 1.0, 0.0)
    assert shares.wait_s(Client("flood"), 0.0) == 2 * BURST_S * MAX_CLIENTS
    shares.charge(Client("one more"), 1.0, 0.0)
    assert shares.wait_s(Client("flood"), 0.0) == 0  # forgotten: it was silent longest
