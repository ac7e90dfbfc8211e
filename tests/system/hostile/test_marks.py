"""A request that crashes the process during decoding is tried twice, then refused alone (T2).

The process crashes at a text as at a bug in a library (``dying.py``); the broker redelivers
unacknowledged requests to the next process.
"""

import signal
from pathlib import Path
from typing import Any

import pytest

from edged.commands.local_broker import Broker
from tests.system.broker.configured import configured
from tests.system.broker.daemons import daemon
from tests.system.hostile.attacker import Attacker, attacker
from tests.system.hostile.attacks import BAD, GENERATE, OK, Message
from tests.system.hostile.dying import ABORT, DECODING, GRAMMAR, PANIC, TEMPLATE

TEXT = "unbearable"
SCHEMA = {"type": "object", "properties": {TEXT: {"type": "boolean"}}}
CRASHED = frozenset({"crashed_before"})
LONG = {"prompt": "Tell a story", "max_tokens": 200, "timeout_ms": 300_000, "seed": 1}
CULPRITS: dict[str, dict[str, Any]] = {
    DECODING: {"prompt": TEXT},
    TEMPLATE: {"prompt": TEXT},
    GRAMMAR: {"prompt": "x", "format": {"type": "json_schema", "schema": SCHEMA}},
}


def culprit(where: str, **changes: Any) -> Message:  # noqa: ANN401 - fields of a message
    """Return a request that crashes a library, with a long deadline: it is redelivered."""
    members = {"max_tokens": 4, "timeout_ms": 300_000, "seed": 1} | CULPRITS[where]
    return Message(members, codes=CRASHED, **changes)


@pytest.mark.parametrize("where", CULPRITS)
@pytest.mark.parametrize("is_addressed", [True, False], ids=["own topic", "default topic"])
def test_a_request_that_crashes_the_process_during_decoding_is_refused_at_the_third_delivery(
    where: str, is_addressed: bool, mosquitto: Broker, slow_bundle: Path, tmp_path: Path
) -> None:
    program = ("-m", "tests.system.hostile.dying", where, ABORT, TEXT)
    arguments = configured(tmp_path, slow_bundle, mosquitto, state={"folder": str(tmp_path)})
    with attacker(mosquitto.port) as client:
        with daemon(tmp_path, *arguments, program=program) as process:
            process.until("STATUS=serving")
            # All at once: the long one is running when the other is decoded.
            process.process.send_signal(signal.SIGSTOP)
            bystander = client.send(Message(LONG, OK))
            guilty = client.send(culprit(where, is_addressed=is_addressed))
            process.process.send_signal(signal.SIGCONT)
            assert process.wait() == -signal.SIGABRT
        with daemon(tmp_path, *arguments, program=program) as process:
            assert process.wait() == -signal.SIGABRT
        with daemon(tmp_path, *arguments, program=program) as process:
            process.until("STATUS=serving")
            assert client.settle(guilty, bystander), process.log
            _assert_refused_alone(client, guilty, bystander)
            topic = client.sent[guilty].replies[0].topic
            assert topic.startswith("reply/hostile/") == is_addressed
            assert client.ask_honestly().problem is None
            assert TEXT not in process.log
            assert process.stop() == 0


def _assert_refused_alone(client: Attacker, guilty: str, bystander: str) -> None:
    assert client.sent[guilty].problem is None
    # Two answers from two processes are fine: the first may have been sent before the crash.
    assert {reply.code for reply in client.sent[bystander].replies} == {"ok"}


def test_a_request_that_crashed_a_process_once_is_tried_again(
    mosquitto: Broker, slow_bundle: Path, tmp_path: Path
) -> None:
    program = ("-m", "tests.system.hostile.dying", TEMPLATE, ABORT, TEXT)
    arguments = configured(tmp_path, slow_bundle, mosquitto, state={"folder": str(tmp_path)})
    with attacker(mosquitto.port) as client:
        with daemon(tmp_path, *arguments, program=program) as process:
            process.until("STATUS=serving")
            once = client.send(Message(CULPRITS[TEMPLATE] | {"timeout_ms": 300_000}, OK))
            assert process.wait() == -signal.SIGABRT
        with daemon(tmp_path, *arguments) as process:
            assert client.settle(once), process.log
            assert client.sent[once].problem is None
            assert process.stop() == 0


def test_a_panic_in_a_library_is_a_bad_request_and_the_next_is_answered(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    program = ("-m", "tests.system.hostile.dying", GRAMMAR, PANIC, TEXT)
    arguments = configured(tmp_path, bundle, mosquitto)
    with daemon(tmp_path, *arguments, program=program) as process:
        process.until("STATUS=serving")
        with attacker(mosquitto.port) as client:
            panicking = client.send(Message(CULPRITS[GRAMMAR], BAD, topic=GENERATE))
            assert client.settle(panicking), process.log
            assert client.sent[panicking].problem is None
            assert client.ask_honestly().problem is None
            assert TEXT not in process.log
            assert process.stop() == 0
