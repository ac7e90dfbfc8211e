"""The inbox: what ends an answer comes out before what may begin one."""

import queue

import pytest

from edged.daemon.inbox import Inbox


def words() -> Inbox[str]:
    return Inbox(lambda word: word.startswith("delivery"))


def test_deliveries_wait_for_everything_else_and_keep_their_order() -> None:
    inbox = words()
    for word in ("delivery 1", "finished 1", "delivery 2", "finished 2"):
        inbox.put(word)
    assert inbox.qsize() == 4
    taken = [inbox.get(0.0) for _ in range(3)]
    inbox.put("finished 3")
    assert inbox.qsize() == 2
    taken += [inbox.get(0.0) for _ in range(2)]
    assert taken == ["finished 1", "finished 2", "delivery 1", "finished 3", "delivery 2"]


def test_an_empty_inbox_says_so() -> None:
    with pytest.raises(queue.Empty):
        words().get(0.0)
