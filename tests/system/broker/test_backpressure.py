"""Backpressure on a broker that delivers faster than requests are processed: nothing is lost."""

import queue
import threading

from edged.commands.local_broker import Broker
from edged.protocol.wire import Delivery, Encoded, WireProperties
from edged.transport.connection import MAX_IN_FLIGHT
from edged.transport.events import Connected, Published, TransportEvent
from edged.transport.network import MAX_BACKLOG, Transport
from tests.system.broker.wire_ends import WAIT_S, connected, settings

COUNT = 400


def test_the_socket_is_not_read_while_the_consumer_is_far_behind(mosquitto: Broker) -> None:
    events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
    has_looked = threading.Semaphore(0)

    def backlog() -> int:
        has_looked.release()
        return events.qsize()

    node = Transport(
        settings(mosquitto, "node", receive_maximum=COUNT),
        subscriptions=["edged/kitchen/request/+"],
        will=None,
        emit=events.put,
        backlog=backlog,
    )
    node.start()
    assert isinstance(events.get(timeout=WAIT_S), Connected)
    with connected(settings(mosquitto, "asker")) as asker:
        message = Encoded("edged/kitchen/request/generate", b"x", WireProperties())
        last = [asker.transport.publish(message) for _ in range(COUNT)][-1]
        asker.expect(Published, lambda event: event.handle == last)
        for _ in range(COUNT):  # it polls again and again without reading
            assert has_looked.acquire(timeout=WAIT_S)
        assert MAX_BACKLOG < events.qsize() <= MAX_BACKLOG + MAX_IN_FLIGHT
        assert all(isinstance(events.get(timeout=WAIT_S), Delivery) for _ in range(COUNT))
    node.stop()
