"""The conformance kit against the real daemon, on each broker, with each version of MQTT."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from edged.cli import main
from edged.commands.local_broker import Broker, running
from edged.commands.local_broker import mosquitto as configure_mosquitto
from edged_conformance.errors import NodeUnavailableError
from edged_conformance.options import Address
from edged_conformance.peer import Broker as PeerBroker
from edged_conformance.peer import Peer
from edged_conformance.read_cases import case_folder, read_folder
from tests.system.broker.accounts import REQUIRED, broker_with_accounts, url_of
from tests.system.broker.configured import configured
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import daemon
from tests.system.broker.wrong_node import ACCOUNT_FAULTS, FAULTS, WrongNode
from tests.tiny_model import write_tiny_bundle


def is_alone(broker: Broker) -> bool:
    """Whether the node has one slot: once with each broker and version."""
    return (broker.name == "mosquitto") == (broker.protocol == "5")


@pytest.fixture(scope="module")
def served(module_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with a daemon: with one slot, or with the default number."""
    folder = tmp_path_factory.mktemp("served")
    bundle = write_tiny_bundle(folder / "bundle")
    model = {"path": str(bundle), **({"num_slots": 1} if is_alone(module_broker) else {})}
    with daemon(folder, *configured(folder, bundle, module_broker, model=model)) as process:
        process.until("STATUS=serving")
        yield module_broker


def play(broker: Broker, *options: str, node: str = "kitchen") -> int:
    place = ["--broker", broker.url, "--node", node, "--protocol", broker.protocol]
    return main(["conformance", *place, *options])


def test_the_daemon_conforms_to_the_protocol(
    served: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit = tmp_path / "junit.xml"
    status = play(served, "--junit", str(junit))
    out = capsys.readouterr().out
    assert status == 0, "\n".join(line for line in out.splitlines() if "passed " not in line)
    suite = ET.parse(junit).getroot().find("testsuite")  # noqa: S314 - written a line above
    assert suite is not None
    assert suite.get("name") == f"MQTT {served.protocol}"
    cases = read_folder(case_folder())
    assert int(suite.get("tests", 0)) == len(cases)
    assert suite.get("failures") == "0"
    skipped = len(suite.findall("testcase/skipped"))
    other_version = sum(served.protocol not in case.versions for case in cases)
    # With several slots, two cases about the order of answers do not apply.
    ordered = 0 if is_alone(served) else 2
    # Those that a specialist decides are played where there is one.
    decided = sum(any(key.startswith("specialists.") for key in case.needs) for case in cases)
    of_accounts = sum(
        case.has_account is True and served.protocol in case.versions for case in cases
    )
    rest = skipped - other_version - ordered - decided - of_accounts
    assert rest == 1, "but for a node without sessions, all must apply"
    assert f"{len(cases) - skipped} passed, 0 failed, {skipped} not applicable" in out


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_the_daemon_conforms_to_the_protocol_for_accounts(
    tmp_path: Path, bundle: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with broker_with_accounts(tmp_path, protocol=protocol) as broker:
        arguments = configured(tmp_path, bundle, broker, user="node-kitchen", security=REQUIRED)
        with daemon(tmp_path, *arguments) as process:
            process.until("STATUS=serving")
            both = ["--broker", url_of(broker, "me"), "--other", url_of(broker, "other")]
            status = play(broker, *both)
    out = capsys.readouterr().out
    assert status == 0, "\n".join(line for line in out.splitlines() if "passed " not in line)
    assert "only with a" not in out, "every case for accounts is played"
    assert "info: identity" not in out


@pytest.mark.parametrize(
    ("broker", "other", "said"),
    [
        ("mqtt://a%2Fb:p@localhost", None, "--broker: the user name must be"),
        (f"mqtt://{'u' * 65}:p@localhost", None, "--broker: the user name must be"),
        ("mqtt://a:p@localhost", "mqtt://b%2B:p@localhost", "--other: the user name must be"),
        ("mqtt://a:p@localhost", "mqtt://a:p@localhost", "--other: give another account"),
        ("mqtt://a:p@localhost", "mqtt://localhost", "--other: give another account"),
        ("mqtt://localhost", "mqtt://b:p@localhost", "--other: give another account"),
        ("mqtt://a:p@localhost", "localhost", "--other: write it like"),
    ],
)
def test_an_account_that_cannot_be_played_is_refused(
    broker: str, other: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    second = [] if other is None else ["--other", other]
    assert main(["conformance", "--node", "kitchen", "--broker", broker, *second]) == 64
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("fault", "case", "found"), FAULTS, ids=[fault for fault, *_ in FAULTS])
def test_each_fault_of_a_node_is_detected(
    mosquitto: Broker,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    case: str,
    found: str,
) -> None:
    with WrongNode(mosquitto.port, fault):
        status = play(mosquitto, "--case", case, "--timeout", "1", node="wrong")
    out = capsys.readouterr().out
    assert status == 1, out
    assert found in out


@pytest.mark.parametrize("case", sorted({case for _, case, _ in FAULTS}))
def test_a_correct_node_passes(mosquitto: Broker, case: str) -> None:
    with WrongNode(mosquitto.port, "none"):
        assert play(mosquitto, "--case", case, "--timeout", "2", node="wrong") == 0


@pytest.mark.parametrize(("fault", "case", "found"), ACCOUNT_FAULTS)
def test_each_fault_with_accounts_is_detected(
    mosquitto: Broker,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    case: str,
    found: str,
) -> None:
    both = ["--broker", url_of(mosquitto, "me"), "--other", url_of(mosquitto, "other")]
    with WrongNode(mosquitto.port, "none"):
        assert play(mosquitto, *both, "--case", case, "--timeout", "2", node="wrong") == 0
        capsys.readouterr()
    with WrongNode(mosquitto.port, fault):
        assert play(mosquitto, *both, "--case", case, "--timeout", "1", node="wrong") == 1
    assert found in capsys.readouterr().out


def test_a_missing_broker_or_node_is_named(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play(mosquitto, "--timeout", "0.3", node="nobody") == 69
    assert "no such node" in capsys.readouterr().err
    mosquitto.stop()
    assert play(mosquitto) == 69
    assert mosquitto.url in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "said"), [("offline", "the node is offline"), ("no info", "info: not a JSON object")]
)
def test_an_offline_or_broken_node_is_not_tested(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str], fault: str, said: str
) -> None:
    with WrongNode(mosquitto.port, fault):
        assert play(mosquitto, "--timeout", "1", node="wrong") == 69
    assert said in capsys.readouterr().err


def test_a_node_that_answers_accounts_only_is_not_tested_without_one(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with WrongNode(mosquitto.port, "accounts only"):
        assert play(mosquitto, node="wrong") == 64
    assert "the node answers accounts only; give a user name" in capsys.readouterr().err


def test_a_feature_that_a_node_does_not_offer_is_not_applicable(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with WrongNode(mosquitto.port, "no cancel"):
        assert play(mosquitto, "--case", "cancels: an unknown id is no error", node="wrong") == 0
        assert "info: operations lacks cancel" in capsys.readouterr().out
        assert play(mosquitto, "--case", "formats: an enum", node="wrong") == 0
        assert "info: formats lacks json_schema" in capsys.readouterr().out
        assert play(mosquitto, "--case", "limits: without max_tokens*", node="wrong") == 0
        assert "the node's info has no limits.max_tokens" in capsys.readouterr().out


def test_custom_cases_can_require_an_order_and_a_number_of_outcomes(
    mosquitto: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(
        "section: Payload\n"
        "cases:\n"
        "  right: {steps: [{as: a, ask: {}}, {as: b, ask: {}}], order: [a, b], at_least: {ok: 2}}\n"
        "  not in order: {steps: [{as: a, ask: {}}, {as: b, ask: {}}], order: [b, a]}\n"
        "  too few: {ask: {}, at_least: {queue_full: 1}}\n"
        "  another text: {ask: {}, refused: prompt}\n"
    )
    with WrongNode(mosquitto.port, "none"):
        assert play(mosquitto, "--cases", str(tmp_path), node="wrong") == 1
    out = capsys.readouterr().out
    assert "order of the replies: expected b, a; got a, b" in out
    assert "expected queue_full at least 1 times, got {'ok': 1}" in out
    assert "error.message: expected to begin with prompt" not in out
    assert "expected bad_request, got ok" in out
    assert "1 passed, 3 failed" in out


def test_the_credentials_in_the_url_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_mosquitto()
    with running(configure_mosquitto(tmp_path, users={"tester": "secret"})) as broker:
        place = f"127.0.0.1:{broker.port}"
        options = ["--node", "kitchen", "--protocol", "5", "--timeout", "0.5"]
        assert main(["conformance", "--broker", f"mqtt://tester:wrong@{place}", *options]) == 69
        assert "refuses MQTT 5: Not authorized" in capsys.readouterr().err
        assert main(["conformance", "--broker", f"mqtt://tester:secret@{place}", *options]) == 69
        assert "no such node" in capsys.readouterr().err


def test_a_server_that_does_not_speak_mqtt_times_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        options = ["--broker", url, "--node", "kitchen", "--timeout", "0.3"]
        assert main(["conformance", *options]) == 69
    assert f"{url}: not connected in 0.3 s" in capsys.readouterr().err


def test_a_lost_broker_ends_the_run(mosquitto: Broker) -> None:
    address = Address(mosquitto.host, mosquitto.port)
    peer = Peer(PeerBroker(address, None, 5.0), "5")
    mosquitto.stop()
    with pytest.raises(NodeUnavailableError, match="the broker closed the connection"):
        peer.receive(time.monotonic() + 5.0)
    peer.close()
