"""Bad properties of a packet cost their client a refusal and affect nobody else."""

from collections.abc import Iterator

import pytest

from edged.commands.local_broker import Broker, running
from edged.commands.local_broker import mosquitto as configure_mosquitto
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import Peer, peer
from tests.tiny_model import write_tiny_bundle

REQUEST = "edged/kitchen/request/generate"
ATTACKER, HONEST = "edged/kitchen/response/generate/a", "edged/kitchen/response/generate/h"
QUESTION = {"prompt": "hello", "max_tokens": 1}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    require_mosquitto()
    folder = tmp_path_factory.mktemp("served")
    bundle = write_tiny_bundle(folder / "bundle")
    with (
        running(configure_mosquitto(folder, is_persistent=True)) as broker,
        daemon(folder, *serve_arguments(bundle, broker.url)) as process,
    ):
        process.until("STATUS=serving")
        yield broker


@pytest.fixture
def client(served: Broker) -> Iterator[Peer]:
    with peer(served.port, "5", ATTACKER, HONEST) as connected:
        yield connected


@pytest.mark.parametrize("num", [65, 12_000])
def test_a_request_with_too_many_user_properties_is_refused_once_and_the_next_is_answered(
    client: Peer, num: int
) -> None:
    many = [("", "")] * num
    data = {"CorrelationData": b"\x00\xff", "ResponseTopic": ATTACKER}
    client.publish(REQUEST, {"id": f"many-{num}"} | QUESTION, UserProperty=many, **data)
    client.publish(REQUEST, {"id": f"next-{num}"} | QUESTION, ResponseTopic=HONEST)
    refusal, answer = client.message(), client.message()
    assert (refusal.topic, answer.topic) == (ATTACKER, HONEST)
    error = client.parsed(refusal)["error"]
    assert (error["code"], error["message"]) == (
        "bad_request",
        "user properties: at most 64 are accepted",
    )
    assert client.parsed(refusal)["id"] == f"many-{num}"
    assert getattr(refusal.properties, "CorrelationData", None) == b"\x00\xff"
    assert client.parsed(answer)["status"] == "ok"


def test_characters_that_only_paho_refuses_do_not_break_the_connection(
    client: Peer,
) -> None:
    """paho treats U+FEFF as malformed: such a message would break every connection again."""
    pairs = [("\ufeff", "\ufeff")]
    client.publish(REQUEST, {"id": "odd"} | QUESTION, UserProperty=pairs, ResponseTopic=ATTACKER)
    assert client.reply_to("odd")["status"] == "ok"
    client.publish(REQUEST, QUESTION, ContentType="\ufeff", ResponseTopic=HONEST)
    assert client.reply_to(None)["error"]["code"] == "unsupported_content_type"
