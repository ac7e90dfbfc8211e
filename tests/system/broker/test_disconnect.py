"""The end of a connection: what was acknowledged before DISCONNECT reaches the broker."""

import select
import socket
import threading

from edged.commands.local_broker import Broker
from edged.protocol.wire import Delivery
from tests.system.broker.wire_ends import WAIT_S, Peer, settings

CONNACK, SUBACK = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x01"
FIRST, SECOND = b"\x32\x06\x00\x01t\x00\x01x", b"\x32\x06\x00\x01t\x00\x02x"
PUBACK = b"\x40\x02\x00\x01"


class LateReader(threading.Thread):
    """A broker that sends more after the DISCONNECT and then reads, as long as it can be sent."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = Broker("late", self._listener.getsockname()[1], [], "3.1.1")
        self.received = b""

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with self._listener, connection:
            connection.recv(4096)
            connection.sendall(CONNACK)
            connection.recv(4096)
            connection.sendall(SUBACK + FIRST)
            is_ended = select.poll()
            is_ended.register(connection, select.POLLRDHUP)
            assert is_ended.poll(WAIT_S * 1000)
            for _ in range(2):  # a reset, which the first may meet, lets the next one fail
                connection.sendall(SECOND)
            while data := connection.recv(4096):
                self.received += data


def test_an_acknowledgement_before_the_disconnect_is_read_by_a_broker_that_still_sends() -> None:
    broker = LateReader()
    broker.start()
    peer = Peer(settings(broker.place, "leaving"), "t")
    peer.transport.acknowledge(peer.expect(Delivery))
    peer.stop()
    broker.join(WAIT_S)
    assert PUBACK in broker.received
