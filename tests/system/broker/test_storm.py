"""A storm of mixed requests: each gets exactly one reply, and memory stays within the budget."""

from pathlib import Path

from edged.commands.local_broker import Broker
from tests.system.broker.storm import Storm, weather
from tests.tiny_model import write_tiny_bundle


def test_three_thousand_mixed_requests_get_one_reply_each_within_the_budget(
    mosquitto: Broker, tmp_path: Path
) -> None:
    storm = Storm(num_waves=30, wave=100, timeouts_ms=(5_000, 20_000), long_prompt=400)
    weather(storm, tmp_path, write_tiny_bundle(tmp_path / "bundle"), mosquitto)
    figures = (tmp_path / "edged.prom").read_text()
    assert "edged_budget_bytes" in figures
    assert 'edged_refused_total{code="prompt_too_long"}' in figures
