"""What accounts try on each other beside the table of ``crossings.py``, and what is not stopped."""

import json
import time
from collections.abc import Sequence

from tests.system.hostile.account import Account, Arrived
from tests.system.hostile.accounts_site import AccountsSite
from tests.system.hostile.conftest import Sites
from tests.system.hostile.crossings import (
    CORRECTION,
    GROUP,
    INTRUDER,
    NODE,
    OTHER,
    TOLD,
    VICTIM,
    Send,
    ask,
    subtree,
)
from tests.system.hostile.encounter import ADVICE

NUM_ASKED = 10
BROKERS_QUEUE = 1000
"""Messages that Mosquitto keeps for a client, as the shipped files say."""


def reply_to(site: AccountsSite, name: str, prompt: str, root: str = NODE) -> Arrived:
    """Have an account ask something, and return the reply."""
    party = site.party(name)
    party.publish(Send(ask(prompt=prompt), topic=f"{subtree(name, root)}/request/generate"), "it")
    party.settle()
    (reply,) = [one for one in party.account.take() if one.topic.endswith("/response/generate")]
    return reply


def cached_tokens(site: AccountsSite, name: str, prompt: str) -> int:
    """Return how much of a prompt its account is told was computed before."""
    return int(reply_to(site, name, prompt).members["usage"]["cached_tokens"])


def num_dropped(arrived: Sequence[Arrived]) -> int:
    """Return how many messages the node has dropped, by its latest `state`; 0 without one."""
    states = [one.members for one in arrived if one.topic == f"{NODE}/state"]
    return int(states[-1]["dropped"]) if states else 0


def test_what_is_reused_of_another_accounts_prompt_is_not_told(
    accounts_sites: Sites[AccountsSite],
) -> None:
    """Else a prompt could be guessed token by token, by what of each guess was computed before."""
    beginning, code = "The code of the alarm is ", "4711"
    with accounts_sites.one() as site:
        cached_tokens(site, VICTIM, beginning + code)
        cached_tokens(site, INTRUDER, beginning)
        told = [cached_tokens(site, INTRUDER, beginning + digit) for digit in "0123456789"]
        whole = [cached_tokens(site, INTRUDER, beginning + code) for _ in range(2)]
    assert set(told) == {told[0]}
    assert whole[1] > whole[0], "of its own it is told"


def test_on_the_topics_of_an_earlier_version_all_are_told_the_same_once_a_second_at_most(
    accounts_sites: Sites[AccountsSite],
) -> None:
    asked = Send(
        ask(id="mine", response_topic=f"{subtree(VICTIM)}/response/generate"),
        TOLD,
        f"{NODE}/request/generate",
        f"{subtree(VICTIM)}/response/generate",
        b"mine",
    )
    nobodys = Send(b"nobodys", topic=f"{subtree(INTRUDER)}/request/cancel")
    with accounts_sites.one() as site:
        victim, intruder = site.party(VICTIM), site.party(INTRUDER)
        begun_s = time.monotonic()

        def advice(party_account: Account) -> list[Arrived]:
            return [one for one in party_account.arrived if one.topic.startswith(ADVICE)]

        while len(advice(intruder.account)) < 3:
            for _ in range(20):
                intruder.publish(asked, "it")
            # No faster than the node: the broker keeps 1,000 messages for it.
            intruder.publish(nobodys, "each time")
            intruder.settle()
        took_s = time.monotonic() - begun_s
        victim.finish()
        told = advice(intruder.account)
        assert victim.advice
    assert len(told) <= took_s + 2
    (only,) = {(each.topic, each.correlation, each.payload) for each in told}
    assert {(each.topic, each.correlation, each.payload) for each in victim.advice} == {only}
    topic, correlation, payload = only
    assert (topic, correlation) == (f"{NODE}/response/generate", None)
    members = json.loads(payload)
    assert (members["id"], members["error"]["code"]) == (None, "identity_required")
    assert f"{NODE}/client/" in members["error"]["message"]
    assert not {VICTIM, INTRUDER, "mine"} & set(members["error"]["message"].split("/"))


def test_a_correction_takes_the_place_of_none_of_another_account(
    accounts_sites: Sites[AccountsSite],
) -> None:
    with accounts_sites.one() as site:
        for name, answer in ((VICTIM, "label 1"), (INTRUDER, "label 2"), (VICTIM, "label 1")):
            party = site.party(name)
            correction = CORRECTION | {"prompt": "Of both", "answer": answer}
            party.publish(Send(correction, topic=f"{subtree(name)}/request/correct"), "it")
            party.settle()
            party.account.take()
        text = (site.folder / "state" / "corrections.jsonl").read_text("utf-8")
    rows = [row for row in map(json.loads, text.splitlines()) if row["prompt"] == "Of both"]
    assert [(row["user"], row["answer"]) for row in rows] == [
        (VICTIM, "label 1"),
        (INTRUDER, "label 2"),
    ]


def test_who_takes_the_client_id_of_another_account_reads_nothing_of_its_session(
    accounts_sites: Sites[AccountsSite],
) -> None:
    """It goes on with the subscriptions, and the broker looks at each message again."""
    own = subtree(OTHER)
    payload = json.dumps(ask(prompt="Tell me more", max_tokens=16)).encode()
    with accounts_sites.one() as site:
        other = site.party(OTHER).account
        filters = (f"{own}/response/#", f"{own}/stream/+")
        phone = site.connect(OTHER, filters, client_id="phone", session_s=60)
        with site.paused():
            for _ in range(2):
                phone.publish(f"{own}/request/generate", payload, correlation=b"of the phone")
            phone.break_off()
            with site.connect(INTRUDER, client_id="phone", session_s=60) as taken:
                assert taken.is_connected
        with site.connect(INTRUDER, client_id="phone", session_s=60) as taken:
            reply_to(site, VICTIM, "Is it over?")
            taken.subscribe("nothing")
            assert taken.arrived == []
        # Without a session, so that nothing of it stays.
        site.connect(INTRUDER, client_id="phone").close()
        assert other.wait_for(
            lambda arrived: sum(one.correlation == b"of the phone" for one in arrived) == 2
        )


def test_who_takes_part_in_a_groups_subscription_reads_nothing_and_requests_are_lost(
    accounts_sites: Sites[AccountsSite],
) -> None:
    """As docs/security.md says: no access list of Mosquitto 2.0 is about subscriptions."""
    topic, payload = f"{subtree(VICTIM, GROUP)}/request/generate", json.dumps(ask()).encode()
    with accounts_sites.one() as site:
        victim = site.party(VICTIM).account

        def count(correlation: bytes) -> int:
            return sum(one.correlation == correlation for one in victim.arrived)

        with site.connect(INTRUDER, [f"$share/edged-lab/{GROUP}/client/+/request/+"]) as thief:
            for _ in range(NUM_ASKED):
                victim.publish(topic, payload, correlation=b"beside it")
            thief.subscribe("nothing")
            assert thief.arrived == []
        for number in (b"1", b"2"):  # a node has two of a group's requests at a time
            victim.publish(topic, payload, correlation=number)
            assert victim.wait_for(
                lambda arrived, number=number: any(one.correlation == number for one in arrived)  # type: ignore[misc]
            )
        assert 0 < count(b"beside it") < NUM_ASKED
        victim.take()


def test_who_fills_the_brokers_queue_for_a_node_has_others_requests_lost(
    accounts_sites: Sites[AccountsSite],
) -> None:
    """As docs/security.md says; a node that is not stopped takes messages as fast as they come."""
    payload = json.dumps(ask()).encode()
    with accounts_sites.one() as site:
        victim, intruder = site.party(VICTIM).account, site.party(INTRUDER).account
        assert victim.wait_for(lambda arrived: any(one.topic == f"{NODE}/state" for one in arrived))
        before = num_dropped(victim.arrived)
        with site.paused():
            for _ in range(BROKERS_QUEUE + 100):
                assert intruder.publish(f"{NODE}/request/generate", b"x")
            assert victim.publish(f"{subtree(VICTIM)}/request/generate", payload, correlation=b"1")
        assert victim.wait_for(lambda arrived: num_dropped(arrived) >= before + BROKERS_QUEUE)
        victim.publish(f"{subtree(VICTIM)}/request/generate", payload, correlation=b"2")
        assert victim.wait_for(lambda arrived: any(one.correlation == b"2" for one in arrived))
        assert not any(one.correlation == b"1" for one in victim.take())
