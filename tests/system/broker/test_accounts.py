"""Accounts of a real broker, each on topics of its own, and the daemon that answers only them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.commands.local_broker import Broker
from tests.system.broker.accounts import REQUIRED, broker_with_accounts, url_of
from tests.system.broker.configured import configured
from tests.system.broker.daemons import daemon
from tests.system.broker.peer import Peer, new_id, peer

OWN, OTHER = "edged/kitchen/client/me", "edged/kitchen/client/other"
REQUEST = f"{OWN}/request/generate"
NODES = ("attic", "kitchen")
OPEN = "edged/kitchen/request/generate"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Broker]:
    """A broker with accounts and two daemons of a group, which answer only accounts."""
    folder = tmp_path_factory.mktemp("accounts")
    for node in NODES:
        (folder / node).mkdir()
    with broker_with_accounts(folder, NODES) as broker:
        arguments = [
            configured(
                folder / node,
                bundle,
                broker,
                node=node,
                user=f"node-{node}",
                security=REQUIRED,
                group={"name": "lab"},
            )
            for node in NODES
        ]
        with (
            peer(broker.port, "5", "edged/+/event", user="me") as operator,
            daemon(folder / NODES[0], *arguments[0]),
            daemon(folder / NODES[1], *arguments[1]),
        ):
            joined: set[str] = set()
            while joined != set(NODES):
                event = operator.reply()
                if event["event"] == "group_joined":
                    joined.add(event["node"])
            yield broker


@pytest.fixture(params=["5", "3.1.1"])
def me(served: Broker, request: pytest.FixtureRequest) -> Iterator[Peer]:
    """An account with the one subscription that catches all its replies, and its streams."""
    topics = ("edged/+/client/me/response/#", "edged/+/client/me/stream/+")
    with peer(served.port, str(request.param), *topics, user="me") as client:
        yield client


def test_an_account_is_answered_and_streamed_to_on_its_own_topics(me: Peer) -> None:
    name = new_id()
    me.publish(REQUEST, {"id": name, "prompt": "hello", "max_tokens": 4, "stream": True})
    topics, reply = set(), {}
    while "status" not in reply:
        message = me.message()
        topics.add(message.topic)
        reply = me.parsed(message)
    assert (reply["id"], reply["status"], reply["node"]) == (name, "ok", "kitchen")
    assert topics == {f"{OWN}/stream/{name}", f"{OWN}/response/generate"}


def test_a_session_goes_on_under_another_reply_topic_and_for_nobody_else(
    served: Broker, me: Peer
) -> None:
    asked = {"session": new_id(), "prompt": "hello", "max_tokens": 2}
    for number in (1, 2):
        me.publish(REQUEST, asked | {"response_topic": f"{OWN}/response/generate/{number}"})
        message = me.message()
        assert message.topic == f"{OWN}/response/generate/{number}"
        assert me.parsed(message)["session"]["turns"] == number
    with peer(served.port, "5", f"{OTHER}/response/#", user="other") as other:
        other.publish(f"{OTHER}/request/generate", asked)
        assert other.reply()["session"]["turns"] == 1


def test_the_broker_lets_nobody_ask_or_read_as_another(served: Broker, me: Peer) -> None:
    with peer(served.port, "5", "edged/+/client/#", user="other") as other:
        name = new_id()
        other.publish(REQUEST, {"id": "stolen", "prompt": "hello", "max_tokens": 1})
        me.publish(REQUEST, {"id": name, "prompt": "hello", "max_tokens": 1})
        assert me.reply()["id"] == name
        other.publish(f"{OTHER}/request/cancel", {"id": name})
        message = other.message()
        assert message.topic == f"{OTHER}/response/cancel"
        assert other.parsed(message)["data"] == {"found": False}


def test_a_request_to_the_group_is_answered_on_the_topics_of_whichever_node_took_it(
    me: Peer,
) -> None:
    group = "edged/group/lab/client/me"
    answered: set[str] = set()
    while answered != set(NODES):
        wish = f"{group}/response/generate/panel"
        asked = {"id": new_id(), "prompt": "hello", "max_tokens": 1, "response_topic": wish}
        me.publish(f"{group}/request/generate", asked)
        message = me.message()
        reply = me.parsed(message)
        assert (reply["id"], reply["status"]) == (asked["id"], "ok")
        assert message.topic == f"edged/{reply['node']}/client/me/response/generate/panel"
        answered.add(reply["node"])


def test_who_has_no_topics_of_an_account_is_told_which_to_use(served: Broker) -> None:
    with peer(served.port, "5", "edged/kitchen/response/#", user="me") as client:
        asked = {"id": "a1", "prompt": "hello"}
        client.publish(OPEN, asked, ResponseTopic=f"{OTHER}/response/generate")
        message = client.message()
    error = client.parsed(message)["error"]
    assert message.topic == "edged/kitchen/response/generate"
    assert (error["code"], error["status"]) == ("identity_required", 403)
    assert "edged/kitchen/client/USER/request/generate" in error["message"]


@pytest.mark.parametrize("options", [(), ("--stream",), ("--json",)])
def test_ask_uses_the_topics_of_the_account_in_the_url(
    served: Broker, options: tuple[str, ...]
) -> None:
    words = ["ask", "--broker", url_of(served, "me"), "--node", "kitchen", "--max-tokens", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "edged", *words, *options, "hello"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_node_with_an_account_that_answers_anyone_says_what_to_set(
    tmp_path: Path, bundle: Path
) -> None:
    with broker_with_accounts(tmp_path) as broker:
        arguments = configured(tmp_path, bundle, broker, user="node-kitchen")
        topics = ("edged/kitchen/info", "edged/kitchen/client/me/response/#")
        with (
            daemon(tmp_path, *arguments) as process,
            peer(broker.port, "5", *topics, user="me") as client,
        ):
            assert client.reply()["identity"] == "optional"
            assert "are answered: set security.identity: required" in process.log
            client.publish(REQUEST, {"prompt": "hello", "max_tokens": 1})
            assert client.reply()["status"] == "ok"
