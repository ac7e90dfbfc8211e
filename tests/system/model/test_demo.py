"""``edged demo`` with the real model: it is taught, decides, and acts."""

import re

from edged.bundle.folder import Bundle
from edged.commands.local_broker import MOSQUITTO
from tests.requirements import require
from tests.system.broker.test_demo import demo


def test_it_shows_a_decision_of_what_it_taught_and_a_command_that_became_an_action(
    real_bundle: Bundle,
) -> None:
    require(MOSQUITTO, "mosquitto is not installed (apt install mosquitto)")
    shown = demo("--bundle", str(real_bundle.folder))
    assert shown.returncode == 0, shown.stderr
    written, _, rest = shown.stdout.partition("[6/7] decide")
    decided, _, acted = rest.partition("[7/7] act")
    assert '"status": "ok"' in written
    assert re.search(r"^leak: [\d.]+% probable, decided in \d+ ms$", decided, re.MULTILINE)
    assert '"service": "light.turn_off", "target": ["light.desk"]' in acted
    assert re.search(r"^ +[\d.]+% probable, in \d+ ms$", acted, re.MULTILINE)
    assert re.search(r"^the plain model says: \w", acted, re.MULTILINE)
    assert "--specialist washing-machine" in acted
    assert "--specialist home --inputs" in acted
