"""A test broker that disconnects at messages chosen by the test, with or without a DISCONNECT.

It implements the part of MQTT 5 and 3.1.1 that a node needs, for one client at a time."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

from edged.commands.local_broker import Broker
from tests.system.broker.wire_ends import WAIT_S

Closes = Callable[[str, bytes], bool]
"""Whether the connection is to end at a message, by topic and payload."""
_CONNECT, _PUBLISH, _SUBSCRIBE, _PINGREQ = 1, 3, 8, 12


class ClosingBroker(threading.Thread):
    def __init__(self, protocol: str, closes: Closes, reason: int | None = None) -> None:
        super().__init__(daemon=True)
        self.taken: list[bytes] = []
        self.num_connections = 0
        self.num_closed = 0
        self._closes = closes
        self._reason = reason
        self._is_5 = protocol == "5"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = Broker("closing", self._listener.getsockname()[1], [], protocol)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join(WAIT_S)

    def run(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed at the end
            while True:
                connection, _ = self._listener.accept()
                with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while first := stream.read(1):
                        body = stream.read(_read_length(stream.read))
                        answer = self._answer(first[0] >> 4, first[0] & 15, body)
                        if answer is None:
                            break
                        connection.sendall(answer)
                    else:
                        continue
                    self.num_closed += 1
                    if self._reason is not None:
                        connection.sendall(bytes((0xE0, 2, self._reason, 0)))
                    connection.shutdown(socket.SHUT_WR)
                    while stream.read(1):  # else a reset would discard the last packet
                        pass

    def _answer(self, kind: int, flags: int, body: bytes) -> bytes | None:
        """Return the response; None closes the connection."""
        none = b"\0" if self._is_5 else b""
        if kind == _CONNECT:
            self.num_connections += 1
            accepted = bytes((self.num_connections > 1, 0)) + none
            return bytes((0x20, len(accepted))) + accepted
        if kind == _SUBSCRIBE:
            granted = body[:2] + none + b"\1"
            return bytes((0x90, len(granted))) + granted
        if kind == _PINGREQ:
            return b"\xd0\0"
        if kind == _PUBLISH:
            return self._take(flags, body)
        return b""

    def _take(self, flags: int, body: bytes) -> bytes | None:
        end = 2 + int.from_bytes(body[:2], "big")
        topic, rest = body[2:end].decode(), body[end:]
        has_id = bool(flags & 6)
        packet_id, rest = (rest[:2], rest[2:]) if has_id else (b"", rest)
        if self._is_5:
            reader = iter(rest)
            length = _read_length(lambda _: bytes((next(reader),)))
            rest = bytes(reader)[length:]
        if self._closes(topic, rest):
            return None
        self.taken.append(rest)
        return b"\x40\2" + packet_id if has_id else b""


def _read_length(read: Callable[[int], bytes]) -> int:
    length, shift = 0, 0
    while True:
        digit = read(1)[0]
        length |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return length
