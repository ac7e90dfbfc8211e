"""``edged doctor`` with a real Mosquitto: it finds each problem, and none in a good broker."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.cli import main
from edged.commands.doctor.broker import check_broker
from edged.commands.doctor.finding import Finding, Level
from edged.commands.local_broker import Broker, mosquitto, running
from edged.config.keys import Config
from edged.config.load import load_config
from tests.system.broker.accounts import broker_with_accounts
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import daemon
from tests.tiny_model import write_tiny_bundle

ACCESS = [
    "user edged",
    "topic read edged/kitchen/client/+/request/+",
    "topic write edged/kitchen/client/+/response/#",
]


@pytest.fixture(autouse=True)
def _mosquitto() -> None:
    require_mosquitto()


def config_of(broker: Broker, *lines: str, is_required: bool = False) -> Config:
    keys = ", ".join([f"port: {broker.port}", *lines])
    text = f"node: kitchen\nmodel: {{path: none}}\nbroker: {{{keys}}}\n"
    identity = "required" if is_required else "optional"
    return load_config(f"{text}security: {{identity: {identity}}}\n", "edged.yaml")


def diagnose(config: Config) -> dict[str, Finding]:
    found = list(check_broker(config))
    assert all((finding.advice is None) == (finding.level is Level.OK) for finding in found)
    return {finding.check: finding for finding in found}


def test_a_good_broker_passes_all_checks(tmp_path: Path) -> None:
    with running(mosquitto(tmp_path)) as broker:
        found = diagnose(config_of(broker))
    delay = found.pop("delay")  # depends on this machine and its load
    assert delay.figures["echo_ms"] > 0
    assert {finding.level for finding in found.values()} == {Level.OK}


def test_a_broker_without_tcp_nodelay_is_detected(tmp_path: Path) -> None:
    broker = mosquitto(tmp_path)
    path = Path(broker.command[2])
    path.write_text(path.read_text().replace("set_tcp_nodelay true", "set_tcp_nodelay false"))
    with running(broker):
        # Linux acknowledges some packets at once whatever the broker does, and other load hides the
        # delay, so one measurement may miss it.
        looks = (diagnose(config_of(broker))["delay"] for _ in range(50))
        delay = next((look for look in looks if look.level is not Level.OK), None)
    assert delay is not None
    assert (delay.level, "set_tcp_nodelay true" in str(delay.advice)) == (Level.WARNING, True)
    assert delay.figures["worst_burst_ms"] >= 30


def test_a_wrong_password_is_reported_as_one(tmp_path: Path) -> None:
    with running(mosquitto(tmp_path, users={"edged": "right"})) as broker:
        found = diagnose(config_of(broker, "username: edged", "password: wrong"))
        assert "user name and" in found["broker"].said
        assert found.keys() == {"broker"}
        assert diagnose(config_of(broker, "username: edged", "password: right"))["delay"]


def test_topics_that_the_access_list_forbids_are_named(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("\n".join(ACCESS) + "\n", "utf-8")
    acl.chmod(0o600)
    extra = [f"acl_file {acl}"]
    with running(mosquitto(tmp_path, users={"edged": "p"}, extra=extra)) as broker:
        found = diagnose(config_of(broker, "username: edged", "password: p"))
        older = diagnose(config_of(broker, "username: edged", "password: p", "protocol: 3.1.1"))
    assert found["access response"].level is Level.OK
    assert found["access stream"].level is Level.FAILURE
    assert "edged/kitchen/client/doctor/stream/doctor" in found["access stream"].said
    assert found["access request"].level is Level.WARNING
    assert "edged/kitchen/client/edged/request/cancel: refused" in found["access request"].said
    assert older["access"].level is Level.WARNING
    assert "cancel: it does not arrive" in older["access request"].said


@pytest.mark.parametrize("protocol", ["auto", "3.1.1"])
def test_a_broker_that_keeps_its_accounts_apart_passes_all_checks(
    tmp_path: Path, protocol: str
) -> None:
    account = ["username: node-kitchen", "password: node-kitchen", f"protocol: {protocol}"]
    with broker_with_accounts(tmp_path) as broker:
        found = diagnose(config_of(broker, *account, is_required=True))
        lax = diagnose(config_of(broker, *account))
    assert found["identity"].said == "accounts only"
    assert found["access request"].level is Level.OK
    assert found["accounts"].level is Level.OK
    assert protocol != "auto" or found["access stream"].level is Level.OK
    assert lax["identity"].level is Level.WARNING
    assert "security.identity: required" in str(lax["identity"].advice)
    assert "topic write edged/kitchen/request/#" in str(lax["identity"].advice)


@pytest.mark.parametrize("protocol", ["auto", "3.1.1"])
def test_accounts_without_an_access_list_are_reported(tmp_path: Path, protocol: str) -> None:
    account = ["username: edged", "password: p", f"protocol: {protocol}"]
    with running(mosquitto(tmp_path, users={"edged": "p"})) as broker:
        found = diagnose(config_of(broker, *account, is_required=True))
        lax = diagnose(config_of(broker, *account))
    assert found["accounts"].level is Level.FAILURE
    assert "ask as another account" in found["accounts"].said
    assert lax["accounts"].level is Level.WARNING


def test_a_broker_without_accounts_does_not_suffice_where_they_are_required(
    tmp_path: Path,
) -> None:
    with running(mosquitto(tmp_path)) as broker:
        found = diagnose(config_of(broker, is_required=True))
    assert found["identity"].level is Level.WARNING
    assert "accepts clients without a password" in found["identity"].said


def test_an_account_whose_name_is_no_level_of_a_topic_is_reported(tmp_path: Path) -> None:
    with running(mosquitto(tmp_path, users={"a/b": "p"})) as broker:
        found = diagnose(config_of(broker, "username: a/b", "password: p", is_required=True))
    assert found["account"].level is Level.WARNING
    assert "'a/b' cannot be a level of a topic" in found["account"].said


def test_a_missing_broker_and_an_unreadable_password_are_reported(tmp_path: Path) -> None:
    broker = mosquitto(tmp_path)
    assert "nothing listens" in diagnose(config_of(broker))["broker"].said
    missing = config_of(broker, "username: u", f"password_file: {tmp_path}/gone")
    assert "broker.password_file" in diagnose(missing)["broker"].said


def test_a_broker_here_that_listens_for_others_needs_passwords(tmp_path: Path) -> None:
    broker, quiet = mosquitto(tmp_path), mosquitto(tmp_path)
    path = Path(broker.command[2])
    path.write_text(path.read_text().replace(f"{broker.port} 127.0.0.1", str(broker.port)))
    with running(broker), running(quiet):
        found = diagnose(config_of(broker))["authentication"]
        assert diagnose(config_of(quiet))["authentication"].level is Level.OK
    said = f"listens for others on 0.0.0.0:{broker.port}"
    assert (found.level, said in found.said) == (Level.WARNING, True)


def test_a_host_that_cannot_be_a_name_is_reported_with_tls_as_well(tmp_path: Path) -> None:
    config = config_of(mosquitto(tmp_path), "host: a..b", "tls: true")
    assert "the host name cannot be resolved" in diagnose(config)["broker"].said


@pytest.mark.parametrize("users", [None, {"u": "p"}])
def test_a_broker_elsewhere_needs_passwords_and_tls(
    users: dict[str, str] | None, tmp_path: Path
) -> None:
    # An address of this machine that edged cannot recognise as local.
    account = ["username: u", "password: p"] if users else []
    with running(mosquitto(tmp_path, users=users)) as broker:
        found = diagnose(config_of(broker, "host: '127.1'", *account))
    assert found["authentication"].level is Level.WARNING
    assert ("in clear text" in found["authentication"].said) is bool(users)


@pytest.fixture
def tls_broker(tmp_path: Path) -> Iterator[tuple[Broker, Path]]:
    """A broker with a self-signed certificate for ``localhost`` that expires in two days."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", *curve, *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    extra = [f"certfile {certificate}", f"keyfile {key}"]
    with running(mosquitto(tmp_path, extra=extra)) as broker:
        yield broker, certificate


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_certificate_that_expires_soon_is_reported(tls_broker: tuple[Broker, Path]) -> None:
    broker, certificate = tls_broker
    found = diagnose(config_of(broker, "tls: true", f"ca_file: {certificate}"))
    assert found["certificate"].level is Level.WARNING
    assert found["certificate"].figures["days_left"] in (1, 2)
    assert found["broker"].level is Level.OK
    refused = diagnose(config_of(broker, "tls: true"))
    assert "certificate" in refused["broker"].said


def test_a_running_daemon_is_healthy_and_connects_to_its_broker_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    with running(mosquitto(tmp_path)) as broker:
        config = tmp_path / "edged.yaml"
        config.write_text(
            f"node: kitchen\nmodel: {{path: {bundle}}}\nbroker: {{port: {broker.port}}}\n"
            f"state: {{file: {tmp_path}/state.json}}\n",
            "utf-8",
        )
        with daemon(tmp_path, "--config", str(config)) as process:
            process.until("STATUS=serving")
            words = ["doctor", "--config", str(config), "--pid", str(process.process.pid)]
            assert main([*words, "--json"]) == 0
            document = json.loads(capsys.readouterr().out)
            assert main([*words, "--offline"]) == 0
            said = capsys.readouterr().out
    found = {finding["check"]: finding for finding in document["findings"]}
    assert document["ok"] is True
    assert found["connections"]["said"] == f"to the broker only: 127.0.0.1:{broker.port}"
    assert {"cpu", "model", "attention", "memory", "broker", "state"} <= found.keys()
    assert [line[:4] for line in said.splitlines()] == ["ok  "] * 4
