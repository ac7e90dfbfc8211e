"""The short form of ``python -m tests.system.hostile.sequences``: the same sequences every time."""

from tests.system.hostile.accounts_site import AccountsSite
from tests.system.hostile.conftest import Sites
from tests.system.hostile.sequences import run

NUM_STEPS = 2000
SEED = 1


def test_each_of_three_accounts_is_sent_the_same_as_alone(
    accounts_sites: Sites[AccountsSite],
) -> None:
    with accounts_sites.one() as site:
        counts = run(site, NUM_STEPS, SEED)
    assert counts.total() >= NUM_STEPS
    assert min(counts.values()) >= NUM_STEPS // 100
