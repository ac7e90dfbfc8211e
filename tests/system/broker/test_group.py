"""Several nodes behind the broker's shared subscriptions."""

from pathlib import Path

from edged.commands.local_broker import Broker, mosquitto, running
from tests.system.broker.configured import configured
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import daemon
from tests.system.broker.peer import Peer, peer

REQUEST = "edged/group/lab/request/generate"
NODES = ("attic", "cellar")
NUM_REQUESTS = 12


def wait_for_members(operator: Peer, *nodes: str) -> None:
    joined: set[str] = set()
    while joined != set(nodes):
        event = operator.reply()
        if event["event"] == "group_joined":
            assert event["group"] == "lab"
            joined.add(event["node"])


def test_two_nodes_share_the_requests_and_each_is_answered_once(
    broker: Broker, bundle: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / node for node in NODES]
    for folder in folders:
        folder.mkdir()
    arguments = [
        configured(folder, bundle, broker, node=node, group={"name": "lab"})
        for folder, node in zip(folders, NODES, strict=True)
    ]
    replies = [f"edged/{node}/response/generate" for node in NODES]
    with (
        peer(broker.port, broker.protocol, "edged/+/event") as operator,
        peer(broker.port, broker.protocol, *replies) as client,
        daemon(folders[0], *arguments[0]) as attic,
        daemon(folders[1], *arguments[1]) as cellar,
    ):
        wait_for_members(operator, *NODES)
        for i in range(NUM_REQUESTS):
            client.publish(REQUEST, {"id": f"g{i}", "prompt": "x", "max_tokens": 4})
        answers = [client.reply() for _ in range(NUM_REQUESTS)]
        asked = {f"g{i}" for i in range(NUM_REQUESTS)}
        assert {answer["status"] for answer in answers} == {"ok"}
        assert {answer["id"] for answer in answers} == asked
        assert {answer["node"] for answer in answers} == set(NODES)
        for node, topic in zip(NODES, replies, strict=True):
            own = {"id": f"own-{node}", "prompt": "x", "max_tokens": 1}
            client.publish(topic.replace("response", "request"), own)
            assert client.reply()["id"] == own["id"]  # and not a second answer to the group's
        assert (attic.stop(), cellar.stop()) == (0, 0)


def test_the_only_member_gets_all_requests_and_reports_joined(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    arguments = configured(tmp_path, bundle, mosquitto, node="attic", group={"name": "lab"})
    with (
        peer(mosquitto.port, "5", "edged/attic/event") as operator,
        peer(mosquitto.port, "5", "edged/attic/state", "reply/me") as client,
        daemon(tmp_path, *arguments),
    ):
        wait_for_members(operator, "attic")
        for i in range(4):
            request = {"id": f"g{i}", "prompt": "x", "max_tokens": 2}
            client.publish(REQUEST, request, ResponseTopic="reply/me", CorrelationData=b"%d" % i)
        answered: set[str] = set()
        membership = ""
        while len(answered) < 4 or membership != "joined":
            message = client.message()
            members = client.parsed(message)
            if message.topic == "reply/me":
                answered.add(members["id"])
            else:
                membership = members["group"]


def test_a_broker_that_delivers_no_shared_messages_is_reported_and_the_node_serves_its_own_topic(
    bundle: Path, tmp_path: Path
) -> None:
    """Mosquitto grants every subscription, but never delivers what its access list forbids."""
    require_mosquitto()
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite edged/kitchen/#\n")
    with (
        running(mosquitto(tmp_path, extra=[f"acl_file {rules}"])) as broker,
        peer(broker.port, "5", "edged/kitchen/event", "edged/kitchen/response/#") as client,
        daemon(tmp_path, *configured(tmp_path, bundle, broker, group={"name": "lab"})) as process,
    ):
        told = client.reply()
        while told["event"] != "group_refused":
            told = client.reply()
        assert told["group"] == "lab"
        assert "edged/group/lab/probe/kitchen did not come back" in told["detail"]
        client.publish("edged/kitchen/request/generate", {"prompt": "x", "max_tokens": 1})
        assert client.reply()["status"] == "ok"
        assert process.stop() == 0
