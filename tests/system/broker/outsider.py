"""An independent client, written from ``docs/protocol.md`` alone.

It speaks MQTT 3.1.1 on a plain socket and imports neither edged nor an MQTT library, so it shares
nothing with the node but the bytes on the wire.
"""

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data


class Outsider:
    """One connection, subscribed with QoS 1 to some topics."""

    def __init__(self, host: str, port: int, *topics: str) -> None:
        self._socket = socket.create_connection((host, port), timeout=30)
        self._file = self._socket.makefile("rb")
        self._last_id = 0
        self._send(CONNECT, text("MQTT") + bytes((4, 2)) + struct.pack(">H", 60) + text("outsider"))
        assert self._read() == (CONNACK, b"\x00\x00")
        self._send(SUBSCRIBE, self._next_id() + b"".join(text(topic) + b"\x01" for topic in topics))
        assert self._read()[0] == SUBACK

    def ask(self, node: str, operation: str, payload: str) -> None:
        """Publish a request, QoS 1."""
        topic = text(f"edged/{node}/request/{operation}")
        self._send(PUBLISH | 2, topic + self._next_id() + payload.encode())

    def messages(self) -> Iterator[tuple[str, str]]:
        """Yield topic and payload of each message, acknowledged."""
        while True:
            kind, body = self._read()
            if kind & 0xF0 != PUBLISH:
                continue
            size = struct.unpack(">H", body[:2])[0]
            topic, rest = body[2 : 2 + size].decode(), body[2 + size :]
            if kind & 6:
                self._send(PUBACK, rest[:2])
                rest = rest[2:]
            yield topic, rest.decode()

    def next_on(self, topic: str) -> Any:  # noqa: ANN401 - JSON
        """Wait for a message on a topic and return its JSON."""
        return next(json.loads(payload) for found, payload in self.messages() if found == topic)

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _next_id(self) -> bytes:
        self._last_id += 1
        return struct.pack(">H", self._last_id)

    def _send(self, kind: int, body: bytes) -> None:
        assert len(body) < 128 * 128
        low, high = len(body) % 128, len(body) // 128
        length = bytes((low | 128, high)) if high else bytes((low,))
        self._socket.sendall(bytes((kind,)) + length + body)

    def _read(self) -> tuple[int, bytes]:
        kind, shift, size = self._file.read(1)[0], 0, 0
        while True:
            byte = self._file.read(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return kind, self._file.read(size)
