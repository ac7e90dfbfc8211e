"""``edged top`` on a real broker."""

import json
from collections.abc import Iterator

import pytest

from edged import cli
from edged.commands import top
from edged.commands.local_broker import Broker
from tests.system.broker.peer import Peer, peer

TOPIC = "edged/kitchen/state"


@pytest.fixture
def client(mosquitto: Broker) -> Iterator[Peer]:
    with peer(mosquitto.port, "5", TOPIC) as connected:
        yield connected


def look(broker: Broker, *more: str) -> int:
    return cli.main(["top", "--broker", broker.url, "--node", "kitchen", *more])


def retain(client: Peer, payload: bytes) -> None:
    client._client.publish(TOPIC, payload, qos=1, retain=True).wait_for_publish(10)


def test_once_prints_the_retained_state(
    mosquitto: Broker, client: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    retain(client, json.dumps({"state": "ready", "served": 3}).encode())
    assert look(mosquitto, "--once") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("kitchen: ready")
    assert "\x1b" not in printed
    assert look(mosquitto, "--once", "--json") == 0
    assert json.loads(capsys.readouterr().out)["served"] == 3


@pytest.mark.parametrize("payload", [b"", b"{", b"[1]"])
def test_a_missing_state_is_reported_with_an_exit_status(
    mosquitto: Broker,
    client: Peer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    payload: bytes,
) -> None:
    monkeypatch.setattr(top, "WAIT_S", 0.5)
    retain(client, payload)
    assert look(mosquitto, "--once") == 69
    assert "no state of kitchen" in capsys.readouterr().err


def test_each_state_is_printed_until_interrupted(
    mosquitto: Broker,
    client: Peer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = iter([{"state": "ready"}, None, {"state": "degraded"}])

    def following(*_: object) -> tuple[object, None]:
        try:
            return next(states), None
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(top, "_next_state", following)
    assert look(mosquitto) == 130
    printed = capsys.readouterr().out
    assert printed.count("\x1b[H\x1b[J") == 2
    assert "kitchen: degraded" in printed
