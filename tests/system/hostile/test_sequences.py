"""The short form of ``python -m tests.system.hostile.sequences``: the same sequences every time."""

import re

import pytest

from tests.paths import ROOT
from tests.system.broker.conftest import require_mosquitto
from tests.system.hostile.accounts_site import AccountsSite
from tests.system.hostile.conftest import Sites
from tests.system.hostile.sequences import main, run

NUM_STEPS = 2000
SEED = 1


def test_each_of_three_accounts_is_sent_the_same_as_alone(
    accounts_sites: Sites[AccountsSite],
) -> None:
    with accounts_sites.one() as site:
        counts = run(site, NUM_STEPS, SEED)
    assert counts.total() >= NUM_STEPS
    assert min(counts.values()) >= NUM_STEPS // 100


def test_the_command_of_the_page_says_its_seed_and_what_it_played(
    capsys: pytest.CaptureFixture[str],
) -> None:
    require_mosquitto()
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    (words,) = re.findall(r"`python -m tests\.system\.hostile\.sequences (.*)`", page)
    assert main([*words.split(), "--steps", "100", "--seed", str(SEED)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"seed {SEED}\n")
    assert re.search(r" \d+ steps in \d+ s, \d+ a second\n$", said)
