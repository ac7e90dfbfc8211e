"""Malicious schemas, sent to a daemon on a real broker."""

from collections.abc import Iterator

import pytest

from edged.commands.local_broker import Broker
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import Peer, new_id, peer
from tests.system.hostile.schemas import EXPENSIVE
from tests.tiny_model import write_tiny_bundle

REQUEST = "edged/kitchen/request/generate"
REPLIES = "edged/kitchen/response/#"


@pytest.fixture(scope="module")
def client(module_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """A client of a daemon that must survive all tests of this file without a restart."""
    folder = tmp_path_factory.mktemp("served")
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    with daemon(folder, *serve_arguments(bundle, module_broker.url)) as process:
        process.until("STATUS=serving")
        with peer(module_broker.port, module_broker.protocol, REPLIES) as connected:
            yield connected
        assert process.stop() == 0


def test_each_expensive_schema_is_a_bad_request_and_the_next_request_is_answered(
    client: Peer,
) -> None:
    for schema in EXPENSIVE:
        name = new_id()
        wanted = {"type": "json_schema", "schema": schema}
        client.publish(REQUEST, {"id": name, "prompt": "x", "format": wanted})
        error = client.reply_to(name)["error"]
        assert (error["code"], error["retryable"]) == ("bad_request", False), schema
        assert error["message"].startswith("format.schema"), schema
    name = new_id()
    client.publish(REQUEST, {"id": name, "prompt": "x", "max_tokens": 1})
    assert client.reply_to(name)["status"] == "ok"
