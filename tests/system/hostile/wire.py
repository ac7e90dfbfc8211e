"""One PUBLISH from raw bytes: a client library refuses to send much of what an attacker sends."""

import contextlib
import secrets
import socket
from collections.abc import Iterable, Sequence

WAIT_S = 60.0
"""For a machine that is busy with something else; a broker on loopback takes a millisecond."""
_PUBACK = 0x40


def text(value: str | bytes) -> bytes:
    """Return an MQTT string with its length prefix; as bytes it may be invalid UTF-8."""
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2, "big") + data


def response_topic(topic: str | bytes) -> bytes:
    """Return the property Response Topic."""
    return b"\x08" + text(topic)


def correlation_data(data: bytes) -> bytes:
    """Return the property Correlation Data."""
    return b"\x09" + text(data)


def content_type(value: str | bytes) -> bytes:
    """Return the property Content Type."""
    return b"\x03" + text(value)


def expiry(seconds: int) -> bytes:
    """Return the property Message Expiry Interval."""
    return b"\x02" + seconds.to_bytes(4, "big")


def user_properties(pairs: Iterable[tuple[str | bytes, str | bytes]]) -> bytes:
    """Return user properties."""
    return b"".join(b"\x26" + text(name) + text(value) for name, value in pairs)


class Publisher:
    """A connection that publishes with QoS 1, one message at a time.

    Args:
        port: Of the broker, on loopback.
        version: ``5`` or ``3.1.1``, which knows no properties.
        account: Name and password.
    """

    def __init__(
        self, port: int, version: str = "5", account: tuple[str, str] | None = None
    ) -> None:
        self._is_5 = version == "5"
        self._socket = socket.create_connection(("127.0.0.1", port), WAIT_S)
        name = text(f"attacker-{secrets.token_hex(6)}")
        # The longest keep-alive: other tests may run for minutes between two messages.
        flags = b"\x02\xff\xff" if account is None else b"\xc2\xff\xff"
        level = b"\x05" + flags + b"\x00" if self._is_5 else b"\x04" + flags
        secret = b"".join(map(text, account or ()))
        self._socket.sendall(_packet(0x10, text("MQTT") + level + name + secret))
        self._read_packet()

    def close(self) -> None:
        """Close the connection without a DISCONNECT."""
        self._socket.close()

    def publish(
        self, topic: str, payload: bytes, properties: Sequence[bytes] = (), *, retain: bool = False
    ) -> bool:
        """Send one message; return True if the broker accepted it, False if it disconnected."""
        packed = b"".join(properties)
        head = text(topic) + b"\x00\x01"
        if self._is_5:
            head += _length(len(packed)) + packed
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(_packet(0x32 | retain, head + payload))
            return self._read_packet() == _PUBACK
        return False

    def _read_packet(self) -> int:
        """Return the first byte of the next packet; skip its content."""
        kind, size, shift = self._read(1)[0], 0, 0
        while True:
            byte = self._read(1)[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        self._read(size)
        return kind

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError("the broker has closed the connection")
            data += more
        return data


def _packet(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + _length(len(body)) + body


def _length(size: int) -> bytes:
    """Return a Variable Byte Integer."""
    data = bytearray()
    while True:
        size, low = divmod(size, 128)
        data.append(low | (0x80 if size else 0))
        if not size:
            return bytes(data)
