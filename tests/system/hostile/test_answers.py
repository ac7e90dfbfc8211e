"""An answer has the requested format, whoever else asks and wherever it is cut (T7, T8)."""

import signal
from pathlib import Path

import pytest

from edged.commands.local_broker import Broker
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.hostile.attacker import attacker
from tests.system.hostile.attacks import CANCEL, OK, Message
from tests.system.hostile.conftest import Site, Sites

CHOICES = ["open", "open only if nobody is home"]
CHOICE = {"type": "choice", "choices": CHOICES}
LONG = {"prompt": "Tell a story", "max_tokens": 200, "priority": "interactive"}
SHARED = {"prompt": "Is it on?", "format": CHOICE, "priority": "background", "max_tokens": 64}
ENDED = OK | {"cancelled"}


def test_a_request_equal_to_a_cancelled_one_gets_its_own_format(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    with (
        daemon(tmp_path, *serve_arguments(bundle, mosquitto.url)) as process,
        attacker(mosquitto.port) as client,
    ):
        process.until("STATUS=serving")
        # All at once: both queue behind others, and the first is cancelled before it is answered.
        process.process.send_signal(signal.SIGSTOP)
        for _ in range(4):
            client.send(Message(LONG, ENDED))
        first = client.send(Message(SHARED | {"id": "first"}, ENDED))
        second = client.send(Message(SHARED, OK))
        client.send(Message({"id": "first"}, OK, topic=CANCEL))
        process.process.send_signal(signal.SIGCONT)
        assert client.settle(first, second)
        assert client.sent[second].problem is None
        assert client.sent[second].replies[0].members["data"]["text"] in CHOICES
        assert process.stop() == 0


@pytest.mark.parametrize("num_tokens", range(1, 13))
def test_a_choice_that_was_cut_is_no_choice(num_tokens: int, sites: Sites[Site]) -> None:
    with sites.one() as site:
        for seed in range(4):
            members = {"max_tokens": num_tokens, "temperature": 2, "seed": seed, "format": CHOICE}
            data = site.attacker.ask_honestly(**members).replies[0].members["data"]
            if data["choice"] is None:
                assert data["text"] == ""
                assert data["finish_reason"] == "length"
            else:
                assert data["text"] == CHOICES[data["choice"]]
            # A cut "open" may be the beginning of the longer option.
            assert data["finish_reason"] == "stop" or data["choice"] != 0
            if num_tokens == 1:
                assert data["choice"] is None
