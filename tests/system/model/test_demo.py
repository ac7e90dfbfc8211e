"""``edged demo`` with the real model: decisions, and a command for a home."""

import json
import re

from edged.bundle.folder import Bundle
from edged.commands.local_broker import MOSQUITTO
from tests.requirements import require
from tests.system.broker.test_demo import demo


def test_it_shows_a_decision_and_the_action_of_a_command(
    real_bundle: Bundle,
) -> None:
    require(MOSQUITTO, "mosquitto is not installed (apt install mosquitto)")
    shown = demo("--bundle", str(real_bundle.folder))
    assert shown.returncode == 0, shown.stderr
    written, _, decided = shown.stdout.partition("[6/7] decide")
    assert '"status": "ok"' in written
    assert re.search(r"^leak: [\d.]+% probable, decided in \d+ ms$", decided, re.MULTILINE)
    assert "--specialist washing-machine" in decided
    _, _, commanded = decided.partition("[7/7] home")
    action = {"service": "light.turn_off", "target": ["light.desk"], "data": {}}
    assert json.dumps({"actions": [action]}) in commanded
    assert re.search(r"^[\d.]+% probable, written in \d+ ms$", commanded, re.MULTILINE)
    assert "the plain model, told the same: " in commanded
