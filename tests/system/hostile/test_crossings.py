"""What one account tries on another neither reaches it nor changes its answers.

See ``crossings.py`` for the attacks. Both have the shipped access list.
"""

import subprocess
import sys

import pytest

from tests.system.hostile.accounts_site import AccountsSite
from tests.system.hostile.conftest import Sites
from tests.system.hostile.crossings import CROSSINGS, SECRET, Crossing


@pytest.mark.parametrize("crossing", CROSSINGS, ids=str)
def test_an_attack_changes_nothing_that_the_victim_is_sent_and_shows_nothing_of_it(
    crossing: Crossing, accounts_sites: Sites[AccountsSite]
) -> None:
    with accounts_sites.one() as site:
        _, alone = site.play(crossing, has_victim=False)
        attacked, seen = site.play(crossing)
        assert attacked == site.quiet
        assert seen == alone or crossing.is_load
        is_known = any(SECRET in repr(move) for move in crossing.moves)
        assert is_known or SECRET not in repr(seen)
        assert site.daemon.process.poll() is None
        assert "Traceback" not in site.daemon.log


def test_the_player_knows_nothing_of_the_package() -> None:
    code = (
        "import sys, tests.system.hostile.encounter;"
        "sys.exit(any(name.partition('.')[0] == 'edged' for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
