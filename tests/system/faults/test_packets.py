"""A broker that sends malformed packets: the transport reconnects and never hangs."""

import contextlib
import queue
import random
import socket
import threading
from typing import Self

import pytest

from edged.commands.local_broker import Broker
from edged.transport.events import Disconnected
from tests.system.broker.wire_ends import WAIT_S, Peer, settings

ACCEPTED = b"\x20\x03\x00\x00\x00"
KNOWN = [
    b"\x30\x00",  # PUBLISH without a topic
    b"\x32\x03\x00\x05a",  # its topic is cut off
    b"\x32\x06\x00\x01a\x00\x07\x05",  # so are its properties
    b"\x30\x07\x00\x01a\x03\x7f\x00\x00",  # an unknown property
    b"\x40\x01\x00",  # PUBACK with half a packet id
    b"\x90\x02\x00\x01",  # SUBACK without its properties
    b"\x30\xff\xff\xff\xff\xff",  # a length that never ends
    b"\xf0\x00\x00",  # AUTH without authentication
]
NUM_RANDOM = 10_000


class Babbler(threading.Thread):
    """Accepts MQTT connections, sends some bytes on each, and closes it."""

    def __init__(self, sayings: list[bytes]) -> None:
        super().__init__(daemon=True)
        self._sayings = sayings
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = Broker("babbler", self._listener.getsockname()[1], [], "5")

    def run(self) -> None:
        for saying in self._sayings:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):  # the other end may be gone
                connection.settimeout(WAIT_S)
                connection.recv(4096)
                connection.sendall(ACCEPTED + saying)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def random_sayings(count: int) -> list[bytes]:
    """Random bytes that usually begin like a known packet."""
    chance = random.Random(7)
    kinds = [0x20, 0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xD0, 0xE0, 0xF0]
    sayings = []
    for _ in range(count):
        body = chance.randbytes(chance.randrange(24))
        is_framed = chance.random() < 0.8
        start = bytes((chance.choice(kinds), len(body))) if is_framed else b""
        sayings.append(start + body)
    return sayings


@pytest.mark.parametrize("sayings", [KNOWN, random_sayings(NUM_RANDOM)], ids=["known", "at-random"])
def test_malformed_packets_end_the_connection_and_are_reported(
    sayings: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: queue.SimpleQueue[object] = queue.SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", lambda hook: raised.put(hook.exc_value))
    with Babbler(sayings) as babbler:
        peer = Peer(settings(babbler.place, "node", retry_min_s=0.0, retry_max_s=0.0))
        for _ in sayings:
            peer.expect(Disconnected)
        peer.stop()
    assert raised.empty()
