"""Brokers for the tests: each test gets its own process on its own port."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.commands.local_broker import MOSQUITTO, Broker, iotcore, running
from edged.commands.local_broker import mosquitto as configure_mosquitto
from tests.requirements import require

BROKERS = ["mosquitto-5", "mosquitto-3.1.1", "iotcore-5", "iotcore-3.1.1"]


def require_mosquitto() -> None:
    require(MOSQUITTO, "mosquitto is not installed (apt install mosquitto)")


def require_iotcore() -> None:
    require(importlib.util.find_spec("iotcore"), "iotcore is not installed (the extra `broker`)")


@pytest.fixture
def iotcore_broker(tmp_path: Path) -> Iterator[Broker]:
    """A running broker of the ``iotcore`` wheel with its defaults: MQTT 3.1.1 only."""
    require_iotcore()
    with running(iotcore(tmp_path)) as broker:
        yield broker


def start_broker(name_and_version: str, folder: Path) -> Iterator[Broker]:
    """Run one of ``BROKERS``."""
    name, _, protocol = name_and_version.partition("-")
    if name == "mosquitto":
        require_mosquitto()
        configured = configure_mosquitto(folder, protocol=protocol, is_persistent=True)
    else:
        require_iotcore()
        configured = iotcore(folder, protocol=protocol)
    with running(configured) as started:
        yield started


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Each broker with each version of MQTT, running."""
    yield from start_broker(str(request.param), tmp_path)


@pytest.fixture(scope="module", params=BROKERS)
def module_broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """Like ``broker``, but one process for all tests of a module; they leave it unchanged."""
    yield from start_broker(str(request.param), tmp_path_factory.mktemp("broker"))
