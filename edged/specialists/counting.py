"""How often the examples of a field did something, and which fields always do."""

from collections.abc import Mapping
from dataclasses import dataclass

# So often a field must have been seen, and in so large a share of the cases it must be so.
FEWEST, SHARE = 10, 0.98


@dataclass(slots=True)
class Count:
    """How often a field was seen, and how often it was so."""

    num: int = 0
    num_so: int = 0

    def add(self, *, is_so: bool) -> None:
        """Count one more."""
        self.num += 1
        self.num_so += is_so

    def merge(self, other: "Count") -> None:
        """Count another's as well."""
        self.num += other.num
        self.num_so += other.num_so

    @property
    def is_enough(self) -> bool:
        """Whether it was seen often enough to tell."""
        return self.num >= FEWEST

    @property
    def is_sure(self) -> bool:
        """Whether it was seen often enough, and is always so."""
        return self.is_enough and self.num_so >= SHARE * self.num


def sure_keys(counts: Mapping[str, Count]) -> list[str]:
    """Return the keys of the fields of which it is always so.

    Of a field that is seldom seen, the fields of other objects that have its name tell.

    Args:
        counts: By the key of a field, of all fields that could be returned.
    """
    named: dict[str, Count] = {}
    for key, count in counts.items():
        named.setdefault(name_of(key), Count()).merge(count)
    return sorted(
        key
        for key, count in counts.items()
        if count.is_sure
        or (not count.is_enough and count.num == count.num_so and named[name_of(key)].is_sure)
    )


def name_of(key: str) -> str:
    """Return the name of the field that a key is of."""
    return key.rpartition(".")[2]
