"""A storm on the real model: one reply for each request, and memory within the budget."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.bundle.folder import Bundle
from edged.commands.local_broker import Broker, running
from edged.commands.local_broker import mosquitto as configure_mosquitto
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.storm import Storm, weather


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    require_mosquitto()
    with running(configure_mosquitto(tmp_path)) as started:
        yield started


def test_one_hundred_and_fifty_mixed_requests_to_the_real_model_stay_within_the_budget(
    broker: Broker, real_bundle: Bundle, tmp_path: Path
) -> None:
    storm = Storm(num_waves=3, wave=50, timeouts_ms=(5_000, 10_000, 30_000), long_prompt=6_000)
    weather(storm, tmp_path, real_bundle.folder, broker)
