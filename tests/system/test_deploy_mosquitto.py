"""The broker configurations in deploy/mosquitto, read by a real Mosquitto."""

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edged.commands.doctor.broker import check_broker
from edged.commands.doctor.finding import Level
from edged.commands.local_broker import Broker, running
from edged.config.load import load_config
from tests.system.access_table import (
    CLIENTS,
    NODES,
    TOPICS,
    WITH_SLASHES,
    WITH_WILDCARDS,
    old_topics,
    outputs,
    readable,
    writable,
)
from tests.system.broker.peer import stop
from tests.system.broker.wire_ends import WAIT_S
from tests.system.shipped_broker import DEPLOY, Version, install_configuration, installed, newer

ADMINISTRATOR = "administrator"
"""Not in the shipped list: may publish everything."""
ACCOUNTS = (*CLIENTS, *WITH_WILDCARDS, *WITH_SLASHES, ADMINISTRATOR)
PASSWORDS = {name: f"word {number}" for number, name in enumerate(ACCOUNTS)}
EVERYTHING = f"\nuser {ADMINISTRATOR}\ntopic write #\n"
VERSIONS = {"2.0": installed, "2.1": newer}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Version:
    """Each version that there is a configuration for."""
    return VERSIONS[str(request.param)]()


def with_accounts(folder: Path, name: str, version: Version) -> Broker:
    """Install a file with the accounts, one of which may publish everything."""
    return install_configuration(folder, name, version, PASSWORDS, EVERYTHING)


@pytest.fixture
def lan_broker(version: Version, tmp_path: Path) -> Iterator[Broker]:
    """A broker with edged-lan.conf, the access list and the accounts."""
    with running(with_accounts(tmp_path, "edged-lan.conf", version)) as broker:
        yield broker


class Account:
    """One connected client that notes what arrives."""

    def __init__(self, broker: Broker, name: str | None, password: str | None = None) -> None:
        self.arrived: SimpleQueue[str] = SimpleQueue()
        self.reason: SimpleQueue[str] = SimpleQueue()
        self.subscribed: SimpleQueue[int] = SimpleQueue()
        self.granted: SimpleQueue[tuple[int, bool]] = SimpleQueue()
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        if name is not None:
            self.client.username_pw_set(name, password or PASSWORDS[name])
        self.client.on_message = self._on_message
        self.client.on_connect = self._on_connect
        self.client.on_publish = lambda *event: self.granted.put(
            (event[2], not event[3].is_failure)
        )
        self.client.on_subscribe = lambda *event: self.subscribed.put(event[2])
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self.arrived.put(message.topic)

    def _on_connect(self, *event: object) -> None:
        self.reason.put(str(event[3]))

    def _on_publish(self, *event: Any) -> None:  # noqa: ANN401 - paho's arguments
        self.granted.put((event[2], not event[3].is_failure))

    def subscribe(self) -> None:
        """Ask for everything, at QoS 0, and wait for the broker's word on it."""
        self.client.subscribe("#", 0)
        self.subscribed.get(timeout=WAIT_S)

    def read(self) -> set[str]:
        """Return the topics of what has arrived; nothing that was sent is on its way after it."""
        self.subscribe()
        topics = set()
        while not self.arrived.empty():
            topics.add(self.arrived.get())
        return topics

    def may_publish(self, topics: Sequence[str]) -> set[str]:
        """Publish at QoS 1; return which the broker takes and does not throw away."""
        handles = [self.client.publish(topic, b"x", qos=1).mid for topic in topics]
        granted = dict(self.granted.get(timeout=WAIT_S) for _ in topics)
        return {topic for handle, topic in zip(handles, topics, strict=True) if granted[handle]}

    def close(self) -> None:
        """Disconnect and end paho's thread."""
        stop(self.client)


@pytest.fixture
def accounts(lan_broker: Broker) -> Iterator[dict[str, Account]]:
    """The accounts, connected."""
    connected = {name: Account(lan_broker, name) for name in PASSWORDS}
    assert {account.reason.get(timeout=WAIT_S) for account in connected.values()} == {"Success"}
    yield connected
    for account in connected.values():
        account.close()


def read_by(accounts: dict[str, Account], topics: Sequence[str]) -> dict[str, set[str]]:
    """Publish to each of ``topics``; return what reaches each account that asks for everything."""
    readers = {name: account for name, account in accounts.items() if name != ADMINISTRATOR}
    for account in readers.values():
        account.subscribe()
    assert accounts[ADMINISTRATOR].may_publish(topics) == set(topics)
    return {name: account.read() for name, account in readers.items()}


def test_mosquitto_accepts_the_loopback_configuration_without_warnings(
    version: Version, tmp_path: Path
) -> None:
    with running(install_configuration(tmp_path, "edged.conf", version)) as broker:
        account = Account(broker, None)
        assert account.reason.get(timeout=WAIT_S) == "Success"
        account.close()
    log = (tmp_path / "mosquitto.log").read_text("utf-8")
    assert not re.findall(r"(?i).*(?:error|warning|deprecated).*", log)


def test_it_warns_of_nothing_but_what_the_access_list_says(
    lan_broker: Broker, tmp_path: Path
) -> None:
    del lan_broker  # it has read its files
    log = (tmp_path / "mosquitto.log").read_text("utf-8")
    warnings = re.findall(r"(?i).*(?:error|warning|deprecated).*", log)
    lines = (DEPLOY / "edged.acl").read_text("utf-8").splitlines()
    for_all = {line.split()[2] for line in lines if line.startswith("pattern") and "%u" not in line}
    said = {topic for topic in for_all if any(f"'{topic}' does not" in it for it in warnings)}
    assert (len(warnings), said) == (len(for_all), for_all)


def test_the_lan_configuration_refuses_clients_without_a_password(lan_broker: Broker) -> None:
    nobody = Account(lan_broker, None)
    assert nobody.reason.get(timeout=WAIT_S) == "Not authorized"
    nobody.close()


def test_each_account_publishes_exactly_to_its_topics(accounts: dict[str, Account]) -> None:
    for name in CLIENTS:
        assert accounts[name].may_publish(TOPICS) ^ writable(name) == set(), name


def test_each_account_reads_exactly_its_topics(accounts: dict[str, Account]) -> None:
    read = read_by(accounts, TOPICS)
    for name in CLIENTS:
        assert read[name] ^ readable(name) == set(), name


def test_an_account_named_like_a_filter_reaches_no_other(accounts: dict[str, Account]) -> None:
    read = read_by(accounts, TOPICS)
    for name in WITH_WILDCARDS:
        assert accounts[name].may_publish(TOPICS) | read[name] == set(), name


def test_a_slash_in_a_name_reaches_what_the_page_says(
    version: Version, accounts: dict[str, Account]
) -> None:
    """Mosquitto 2.0 takes it as it is: why docs/install.md wants names of one level."""
    is_old = version.plugins is None
    public = old_topics("response") | outputs("availability", "info", nodes=NODES)
    reached = {f"edged/{node}/client/other/response/response/x" for node in NODES}
    read = read_by(accounts, TOPICS)
    for name in WITH_SLASHES:
        more = reached if is_old and name == "other/response" else set()
        assert read[name] == public | more, name
        assert accounts[name].may_publish(TOPICS) == old_topics("request"), name
    # Another's replies come from below such a topic, if that client asks for it.
    forged = "edged/kitchen/client/other/response/request/x"
    assert accounts["other/response"].may_publish([forged]) == ({forged} if is_old else set())


@pytest.mark.parametrize("name", ["", "#", "#other"])
def test_no_account_has_an_empty_name_or_one_that_begins_a_comment(
    version: Version, tmp_path: Path, name: str
) -> None:
    broker = with_accounts(tmp_path, "edged-lan.conf", version)
    secrets = tmp_path / "edged.passwd"
    (hashed,) = re.findall(r"(?m)^other(:.*\n)", secrets.read_text("utf-8"))
    secrets.write_text(name + hashed, "utf-8")
    if name == "" and version.plugins is not None:
        with pytest.raises(RuntimeError, match="did not listen"):
            broker.start()
        return
    with running(broker):
        nobody = Account(broker, name, PASSWORDS["other"])
        assert nobody.reason.get(timeout=WAIT_S) == "Not authorized"
        nobody.close()


def test_remote_clients_need_tls_and_the_node_verifies_the_ca(
    version: Version, tmp_path: Path
) -> None:
    broker = with_accounts(tmp_path, "edged-tls.conf", version)
    certificates = tmp_path / "certs"
    certificates.mkdir()
    certificate = certificates / "server.crt"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(certificates / "server.key"), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-nodes", "-days", "30", *curve, *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "word").write_text(PASSWORDS["edged"], "utf-8")
    port = (tmp_path / "tls-port").read_text("utf-8")
    with running(broker):
        text = (
            f"node: kitchen\nmodel: {{path: none}}\nbroker: {{port: {port}, username: edged,"
            f" password_file: {tmp_path}/word, tls: true, ca_file: {certificate}}}\n"
            "security: {identity: required}\n"
        )
        found = {item.check: item for item in check_broker(load_config(text, "edged.yaml"))}
        assert {item.level for item in found.values()} == {Level.OK}
        assert "TLSv1.3" in found["certificate"].said
        # Unencrypted only from this machine, and there with a password, too.
        nobody = Account(broker, None)
        assert nobody.reason.get(timeout=WAIT_S) == "Not authorized"
        nobody.close()
