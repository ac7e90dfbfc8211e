"""The short version of ``scripts/hostile``: bounds that hold on a machine of any speed."""

from pathlib import Path

from tests.system.broker.conftest import require_mosquitto
from tests.system.hostile.load import MB, Load, play

SECONDS = 20.0
PER_S = 20.0


def test_hostile_messages_affect_neither_the_honest_client_nor_the_node(
    bundle: Path, tmp_path: Path
) -> None:
    """Four hundred messages: every row of the table, and generated ones."""
    require_mosquitto()
    outcome = play(Load(bundle, PER_S, SECONDS, warm_up_s=SECONDS / 4), tmp_path)
    assert outcome.num_hostile == SECONDS * PER_S
    assert outcome.num_restarts == 0
    assert outcome.num_late == 0
    assert outcome.problems == {}
    assert outcome.num_honest_wrong == 0
    assert outcome.num_honest_ok > 0
    assert outcome.ping_late_s < 40  # systemd waits 60 s; a ping is due every 20 s
    assert outcome.rss_growth_bytes <= 60 * MB
    # Ten events of each kind are logged at once, then one in 6 s: a short run has the ten.
    assert outcome.log_lines_per_s <= PER_S / 3
    assert outcome.exit_status == 0
    log = (tmp_path / "daemon.log").read_text(errors="replace")
    assert "Traceback" not in log
