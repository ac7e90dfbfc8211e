"""``edged demo`` with the real model: it is taught, and decides."""

import re

from edged.bundle.folder import Bundle
from edged.commands.local_broker import MOSQUITTO
from tests.requirements import require
from tests.system.broker.test_demo import demo


def test_it_shows_a_decision_of_a_specialist_that_it_taught(real_bundle: Bundle) -> None:
    require(MOSQUITTO, "mosquitto is not installed (apt install mosquitto)")
    shown = demo("--bundle", str(real_bundle.folder))
    assert shown.returncode == 0, shown.stderr
    written, _, decided = shown.stdout.partition("[6/6] decide")
    assert '"status": "ok"' in written
    assert re.search(r"^leak: [\d.]+% probable, decided in \d+ ms$", decided, re.MULTILINE)
    assert "--specialist washing-machine" in decided
