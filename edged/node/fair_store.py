"""A bounded store for all clients: where one makes it full, that one's oldest entries go.

Rule: no clock. What a client adds never takes another's entry while it holds more itself.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from edged.protocol.request import Client

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    client: Client
    num_bytes: int


class FairStore(Generic[K, V]):
    """Entries of several clients, the least recently put first.

    Beyond a bound, the client that holds the most loses its oldest entry; among several, the one
    whose entry is the oldest.

    Args:
        max_count: Most entries; looking for one to drop takes as many steps.
        max_bytes: Of all entries together.
    """

    def __init__(self, max_count: int, max_bytes: int = 0) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def items(self) -> Iterator[tuple[K, V]]:
        """Yield keys and values, the least recently put first."""
        return ((key, entry.value) for key, entry in self._entries.items())

    def get(self, key: K) -> V | None:
        """Return a value; None if there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def put(self, key: K, value: V, client: Client, num_bytes: int = 0) -> None:
        """Add a value, or replace it, and drop what is then too much; that may be itself."""
        self.pop(key)
        self._entries[key] = _Entry(value, client, num_bytes)
        self._num_bytes += num_bytes
        while len(self._entries) > self._max_count:
            self._drop(lambda _entry: 1)
        while self._num_bytes > self._max_bytes:
            self._drop(lambda entry: entry.num_bytes)

    def pop(self, key: K) -> V | None:
        """Remove and return a value; None if there is none."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._num_bytes -= entry.num_bytes
        return entry.value

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self._num_bytes = 0

    def _drop(self, weight: Callable[[_Entry[V]], int]) -> None:
        held: Counter[Client] = Counter()
        for entry in self._entries.values():
            held[entry.client] += weight(entry)
        most = max(held.values())
        self.pop(next(key for key, entry in self._entries.items() if held[entry.client] == most))
