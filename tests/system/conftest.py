"""What the tests of the system share: a tiny model, and a broker of a test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.commands.local_broker import Broker, running
from edged.commands.local_broker import mosquitto as configure_mosquitto
from tests.system.broker.conftest import require_mosquitto
from tests.system.slow_model import SLOW
from tests.tiny_model import write_tiny_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model; not to be written into."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that needs seconds for its longest answer; not to be written into."""
    return write_tiny_bundle(tmp_path_factory.mktemp("slow"), config=SLOW)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    """A running Mosquitto, MQTT 5, whose queued messages survive ``restart()``."""
    require_mosquitto()
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    with running(configure_mosquitto(folder, is_persistent=True)) as broker:
        yield broker
