"""Each attack gets the expected reply, and the daemon keeps serving: T1 to T4, T9, T10, and more.

See ``attacks.py`` for the messages. Two more tests check the table itself.
"""

from collections import Counter

import pytest

from tests.system.hostile.attacks import ATTACKS, Attack
from tests.system.hostile.conftest import Site, Sites

NUM_DROPPED = 40


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.row}: {attack.name}")
def test_an_attack_gets_the_expected_reply_and_the_next_request_is_answered(
    attack: Attack, sites: Sites[Site]
) -> None:
    with sites.one() as site:
        attacker, process = site.attacker, site.daemon.process
        names = [attacker.send(message) for message in attack.messages]
        awaited = [name for name in names if attacker.sent[name].is_due]
        assert attacker.settle(*awaited), attacker.problems
        honest = attacker.ask_honestly()
        assert [reply.code for reply in honest.replies] == ["ok"]
        assert not attacker.problems
        assert not attacker.unexpected
        assert process.poll() is None
        assert "Traceback" not in site.daemon.log


def test_each_drop_is_counted_with_its_reason(sites: Sites[Site]) -> None:
    dropped = [
        message
        for attack in ATTACKS
        for message in attack.messages
        if attack.row == "T1" and not message.codes and not message.may_be_broken_off
    ][-NUM_DROPPED:]
    with sites.one() as site:
        attacker = site.attacker
        attacker.ask_honestly()
        before = attacker.next_state()["dropped"]
        for message in dropped:
            attacker.send(message)
        attacker.ask_honestly()
        attacker.wait_for_state("dropped", before + NUM_DROPPED)


def test_there_are_at_least_300_messages_of_every_class() -> None:
    rows = Counter(attack.row for attack in ATTACKS for _ in attack.messages)
    assert rows.total() >= 300
    assert rows.keys() >= {
        "T1",
        "T2",
        "T3",
        "T4",
        "T9",
        "T10",
        "properties",
        "payloads",
        "values",
        "inputs",
    }
