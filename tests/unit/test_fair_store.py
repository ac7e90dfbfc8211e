"""The store for all clients: bounded, and fair to those that hold little."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from edged.node.fair_store import FairStore
from edged.protocol.request import Client

MAX_COUNT, MAX_BYTES = 5, 20
PUT = st.tuples(st.integers(0, 9), st.sampled_from("abc"), st.integers(0, 12))


def test_it_gives_back_what_was_put_and_not_removed() -> None:
    store: FairStore[str, int] = FairStore(2)
    store.put("x", 1, Client("a"))
    store.put("y", 2, Client("a"))
    store.put("x", 3, Client("a"))
    assert (store.get("x"), store.get("z"), len(store)) == (3, None, 2)
    assert list(store.items()) == [("y", 2), ("x", 3)]
    assert (store.pop("y"), store.pop("y"), len(store)) == (2, None, 1)
    store.clear()
    assert (store.get("x"), len(store)) == (None, 0)


def test_among_clients_that_hold_as_much_the_oldest_entry_goes() -> None:
    store: FairStore[str, int] = FairStore(2)
    for client in "abc":
        store.put(client, 0, Client(client))
    assert list(store.items()) == [("b", 0), ("c", 0)]


def test_what_is_larger_than_the_store_takes_no_other_clients_entry() -> None:
    store: FairStore[str, int] = FairStore(9, 10)
    store.put("small", 0, Client("a"), 3)
    store.put("own", 0, Client("b"), 4)
    store.put("large", 0, Client("b"), 11)
    assert list(store.items()) == [("small", 0)]


@given(st.lists(PUT, max_size=60))
def test_the_bounds_hold_and_nobody_takes_from_one_that_holds_less(
    puts: list[tuple[int, str, int]],
) -> None:
    store: FairStore[tuple[str, int], int] = FairStore(MAX_COUNT, MAX_BYTES)
    for key, client, num_bytes in puts:
        before = dict(store.items())
        store.put((client, key), num_bytes, Client(client), num_bytes)
        after = dict(store.items())
        assert len(after) <= MAX_COUNT
        assert sum(after.values()) <= MAX_BYTES
        offered = before | {(client, key): num_bytes}
        for owner, _ in offered.keys() - after.keys():
            held = amounts(offered, owner)
            assert any(all(held[i] >= amounts(after, other)[i] for other in "abc") for i in (0, 1))


def amounts(entries: Mapping[tuple[str, int], int], client: str) -> tuple[int, int]:
    """Return the entries of a client, and their bytes."""
    sizes = [size for (owner, _), size in entries.items() if owner == client]
    return len(sizes), sum(sizes)
