"""How many examples a property test draws: a number of its own, under a profile that scales all."""

from hypothesis import settings


def num_examples(count: int) -> int:
    """Scale a number that is meant for ``make test`` by the loaded profile (tests/conftest.py).

    Under the profile ``quick`` that is a tenth of it.
    """
    return max(1, count * settings().max_examples // 100)
