"""The inbox: an event that ends an answer is handled before a new request."""

import queue

import pytest

from edged.daemon.inbox import FromGroup, Inbox
from edged.node.events import Synced
from edged.protocol.wire import Delivery
from edged.transport.events import Published


def test_deliveries_wait_for_everything_else_and_keep_their_order() -> None:
    inbox = Inbox()
    first, second = Delivery("a", b"1"), FromGroup(Delivery("b", b"2"))
    for event in (first, Synced(1), second, FromGroup(Published(2))):
        inbox.put(event)
    assert inbox.qsize() == 4
    taken = [inbox.get(0.0) for _ in range(3)]
    inbox.put(Synced(3))
    assert inbox.qsize() == 2
    taken += [inbox.get(0.0) for _ in range(2)]
    assert taken == [Synced(1), FromGroup(Published(2)), first, Synced(3), second]


def test_an_empty_inbox_says_so() -> None:
    with pytest.raises(queue.Empty):
        Inbox().get(0.0)
