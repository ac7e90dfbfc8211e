"""A paho client without edged's own layers, to measure the cost of the wire itself.

Rule: each call works on the caller's own thread, so that no handover between threads is measured.
"""

import contextlib
import select
from collections import deque
from typing import Any

from edged.protocol.wire import Delivery, WireProperties
from edged.transport.paho_client import make_client
from edged.transport.properties import to_paho
from edged.transport.settings import BrokerSettings, tls_context


class BareClient:
    """One MQTT 5 connection with TCP_NODELAY; blocks until the filters are subscribed.

    Args:
        settings: Where to connect; with a clean session.
        filters: Topic filters, QoS 1.

    Raises:
        OSError: The broker cannot be reached, refuses, or does not answer in time.
    """

    def __init__(self, settings: BrokerSettings, *filters: str) -> None:
        self._messages: deque[Delivery] = deque()
        self._filters = filters
        self._is_subscribed = False
        self._limit_s = settings.handshake_timeout_s
        tls = tls_context(settings.ca_file) if settings.address.is_tls else None
        self._client = make_client(settings, "5", None, tls)
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._client.on_connect = self._on_connect
        self._client.reconnect()
        while not self._is_subscribed:
            self._step()

    def publish(self, topic: str, payload: bytes, properties: WireProperties) -> None:
        """Send with QoS 1."""
        self._client.publish(topic, payload, 1, properties=to_paho(properties))

    def receive(self) -> Delivery:
        """Return the next message; blocks.

        Raises:
            OSError: The connection broke, or nothing came within the handshake timeout.
        """
        while not self._messages:
            self._step()
        return self._messages.popleft()

    def echo(self) -> None:
        """Send each message back to its Response Topic, from paho's callback; blocks.

        Raises:
            OSError: The connection broke.
        """
        self._client.on_message = self._send_back
        while True:
            with contextlib.suppress(TimeoutError):
                self._step()

    def close(self) -> None:
        """Send DISCONNECT and close."""
        self._client.disconnect()
        while self._client.socket() is not None and self._client.want_write():
            self._client.loop_write()

    def _step(self) -> None:
        sock = self._client.socket()
        if sock is None:
            raise ConnectionError("the broker closed the connection")
        writing = [sock] if self._client.want_write() else []
        readable, writable, _ = select.select([sock], writing, [], self._limit_s)
        if not readable and not writable:
            raise TimeoutError("nothing came from the broker in time")
        if readable:
            self._client.loop_read()
        if self._client.want_write():
            self._client.loop_write()

    def _on_connect(self, *_: object) -> None:
        self._client.subscribe([(name, 1) for name in self._filters])

    def _on_subscribe(self, *_: object) -> None:
        self._is_subscribed = True

    def _on_message(self, _client: object, _userdata: object, delivery: Any) -> None:  # noqa: ANN401 - paho's type
        self._messages.append(delivery)
        self._client.ack(delivery.packet_id, delivery.qos)

    def _send_back(self, _client: object, _userdata: object, delivery: Any) -> None:  # noqa: ANN401 - paho's type
        topic = delivery.properties.response_topic or ""
        self.publish(topic, delivery.payload, delivery.properties)
        self._client.ack(delivery.packet_id, delivery.qos)
