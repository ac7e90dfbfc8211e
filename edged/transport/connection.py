"""One MQTT connection on one socket, through a paho client of its own.

Rule: used by one thread only. paho's callbacks only record what happened, in ``inbox`` and
``failure``: an exception in a callback would end the thread while the client looks connected.
"""

import contextlib
import os
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edged.protocol.wire import Delivery
from edged.transport.events import Connected, Published
from edged.transport.explain import (
    Failure,
    explain_connack,
    explain_disconnect,
    explain_suback,
    explain_unanswered,
)
from edged.transport.outbox import Outgoing, UnsendableError
from edged.transport.paho_client import Client, subscription_list
from edged.transport.properties import publish_bytes, to_paho
from edged.transport.settings import BrokerSettings

# Free deliveries under the Receive Maximum that are needed to keep acknowledgements in order.
ROOM = 4
# Mosquitto's default ``max_inflight_messages``, an upper bound on every Receive Maximum.
STOCK_WINDOW = 20
# Unconfirmed messages to the broker at a time; stock Mosquitto takes no more.
MAX_IN_FLIGHT = 20
# Longest sleep of the network thread, between two looks at the keep-alive.
IDLE_S = 1.0
WAKE_BYTES = 64
_NO_SUBSCRIBERS = 0x10
# How long a broker may take to close a connection after DISCONNECT.
LINGER_S = 0.5


class Acknowledgements:
    """The unacknowledged deliveries of one connection, acknowledged in order of arrival."""

    def __init__(self, receive_maximum: int, send: Callable[[int], object]) -> None:
        self._limit = min(receive_maximum, STOCK_WINDOW) - ROOM
        self._send = send
        self._is_done: dict[int, bool] = {}  # by packet id, in order of arrival

    def note_delivery(self, packet_id: int) -> None:
        """Add a delivery that needs an acknowledgement."""
        self._is_done[packet_id] = False

    def flush(self) -> None:
        """Acknowledge all finished deliveries, in or out of order, before a disconnect."""
        # One left behind an unfinished delivery would be answered again by the next process.
        for packet_id, is_done in self._is_done.items():
            if is_done:
                self._send(packet_id)
        self._is_done.clear()

    def finish(self, packet_id: int) -> None:
        """Mark a delivery as finished; acknowledge it and later finished ones if it is the oldest.

        Close to the Receive Maximum the order is given up: otherwise a cancel could not get
        through behind the slow request that it is meant for.
        """
        self._is_done[packet_id] = True
        for pending, is_done in list(self._is_done.items()):
            if is_done:
                del self._is_done[pending]
                self._send(pending)
            elif len(self._is_done) <= self._limit:
                break


class Connection:
    """One connection to a broker, from CONNECT until the socket is closed.

    The client is made for this connection, so that paho never resends a message by itself: that is
    up to the outbox. ``epochs`` numbers the connections that a broker accepts.
    """

    def __init__(
        self,
        client: Client,
        settings: BrokerSettings,
        version: str,
        subscriptions: Sequence[str],
        epochs: Iterator[int],
    ) -> None:
        self.was_ready = False
        self.failure: Failure | None = None
        self.inbox: deque[Connected | Delivery | Published] = deque()
        self._in_flight: dict[int, int] = {}  # packet id → handle
        self._window = MAX_IN_FLIGHT
        self._max_packet_bytes: int | None = None
        self._settings = settings
        self._version = version
        self._subscriptions = subscriptions
        self._epochs = epochs
        self._client = client
        # MQTT 3.1.1 has no Receive Maximum, so the broker's own limit applies.
        window = settings.receive_maximum if version == "5" else STOCK_WINDOW
        self._acknowledgements = Acknowledgements(window, lambda number: client.ack(number, qos=1))
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect

    @property
    def is_open(self) -> bool:
        """Whether there is a socket, before or after the handshake."""
        return self._client.socket() is not None

    @property
    def is_ready(self) -> bool:
        """Whether the broker has accepted the connection and the subscriptions."""
        return self.was_ready and self.is_open

    @property
    def is_idle(self) -> bool:
        """Whether every message is sent and confirmed."""
        return not self._in_flight and not self._client.want_write()

    @property
    def window(self) -> int:
        """Messages that may be unconfirmed at a time; 0 until the connection is ready."""
        return self._window if self.is_ready else 0

    def open(self) -> None:
        """Open the socket and send CONNECT; blocks until the socket is open.

        Raises:
            OSError: The broker cannot be reached, or its certificate is not accepted.
            UnicodeError: The host is not a possible name.
        """
        self._client.reconnect()

    def step(self, wake: socket.socket, wait_s: float, *, may_read: bool) -> None:
        """Wait up to ``wait_s`` for the socket or ``wake``, then read, write, keep alive."""
        sock: Any = self._client.socket()
        # TLS may hold decrypted bytes that select does not see.
        has_bytes = may_read and isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        reading: list[Any] = [wake, sock] if may_read else [wake]
        writing: list[Any] = [sock] if self._client.want_write() else []
        readable, _, _ = select.select(reading, writing, [], 0.0 if has_bytes else wait_s)
        if wake in readable:
            wake.recv(WAKE_BYTES)
        if has_bytes or sock in readable:
            self._client.loop_read()
        if self._client.want_write():
            self._client.loop_write()
        self._client.loop_misc()

    def send(self, outgoing: Outgoing) -> bool:
        """Hand a message to paho; False when it has to be tried again later.

        Raises:
            UnsendableError: It is larger than the broker accepts, or not a valid MQTT message.
        """
        message, limit = outgoing.message, self._max_packet_bytes
        try:
            properties = to_paho(message.properties) if self._version == "5" else None
            is_too_large = limit is not None and publish_bytes(message, properties) > limit
            values = message.topic, message.payload, outgoing.qos, outgoing.retain, properties
            info = None if is_too_large else self._client.publish(*values)
        except (ValueError, OverflowError) as error:  # wildcards, invalid UTF-8, too long
            raise UnsendableError(f"not a valid MQTT message: {type(error).__name__}") from error
        if info is None:
            raise UnsendableError("larger than the broker accepts")
        if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
            return False  # packet ids have wrapped around to one that is still in flight
        if outgoing.qos > 0:
            self._in_flight[info.mid] = outgoing.handle
        return True

    def acknowledge(self, delivery: Delivery) -> bool:
        """Acknowledge a QoS 1 delivery in its turn; False when its connection has ended."""
        # On a later connection the packet id belongs to another message, which would be lost.
        if not self.is_open or delivery.connection_epoch != self._client.epoch:
            return False
        self._acknowledgements.finish(delivery.packet_id)
        return True

    def close(self) -> None:
        """Send DISCONNECT, which suppresses the will, and close the socket."""
        sock: Any = self._client.socket()
        if sock is None:
            return
        # paho closes its socket as soon as the DISCONNECT is written: this one is ours.
        with socket.socket(fileno=os.dup(sock.fileno())) as rest:
            self._acknowledgements.flush()
            self._client.disconnect()
            while self.is_open and self._client.want_write():
                if not select.select([], [sock], [], IDLE_S)[1]:
                    break
                self._client.loop_write()
            _read_to_end(rest)
        self.abort()

    def abort(self) -> None:
        """Close the socket without DISCONNECT."""
        sock: Any = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        while self.is_open:  # paho closes when it reads the end of the stream
            self._client.loop_read()

    def _on_connect(
        self,
        client: mqtt.Client,
        _userdata: object,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.failure = explain_connack(reason, properties)
            return
        self._client.epoch = next(self._epochs)
        self._window = min(MAX_IN_FLIGHT, getattr(properties, "ReceiveMaximum", MAX_IN_FLIGHT))
        self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        if self._settings.unwanted_filters:
            client.unsubscribe(list(self._settings.unwanted_filters))
        if self._subscriptions:
            client.subscribe(subscription_list(self._settings, self._version, self._subscriptions))
        # A broker that kept the session has the subscriptions, and delivers before the SUBACK.
        if flags.session_present or not self._subscriptions:
            self._become_ready(is_session_present=flags.session_present)

    def _on_subscribe(
        self, client: mqtt.Client, _userdata: object, _id: int, reasons: list[ReasonCode], _: object
    ) -> None:
        self.failure = explain_suback(self._subscriptions, reasons, self._settings.optional_filters)
        if self.failure is not None:
            client.disconnect()
        elif not self.was_ready:
            self._become_ready(is_session_present=False)

    def _become_ready(self, *, is_session_present: bool) -> None:
        self.was_ready = True
        self.inbox.append(Connected(self._client.epoch, is_session_present, self._version))

    def _on_message(self, _client: object, _userdata: object, delivery: Any) -> None:  # noqa: ANN401 - to paho it is another type
        if delivery.qos > 0:
            self._acknowledgements.note_delivery(delivery.packet_id)
        if delivery.topic:
            self.inbox.append(delivery)
        elif delivery.qos > 0:  # MQTT forbids such a topic; unacknowledged, it would come back
            self._acknowledgements.finish(delivery.packet_id)

    def _on_publish(
        self, _client: object, _userdata: object, packet_id: int, reason: ReasonCode, *_: object
    ) -> None:
        handle = self._in_flight.pop(packet_id, None)
        if handle is not None:
            failure = f"refused by the broker: {reason}" if reason.is_failure else None
            has_subscribers = reason.value != _NO_SUBSCRIBERS
            self.inbox.append(Published(handle, failure, has_subscribers))

    def _on_disconnect(
        self,
        _client: object,
        _userdata: object,
        flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if self.failure is not None:
            return
        if self._client.epoch == 0:
            self.failure = explain_unanswered(reason, self._settings.address, self._version)
        else:
            is_from_broker = flags.is_disconnect_packet_from_server
            self.failure = explain_disconnect(
                reason,
                properties,
                is_from_broker=is_from_broker,
                was_closed=self._client.was_closed,
            )


def _read_to_end(sock: socket.socket) -> None:
    """End the sending half of a connection, and discard what comes, for ``LINGER_S`` at most."""
    # An acknowledgement makes room for the next message. One that meets a closed socket is answered
    # with a reset; a broker whose next write fails leaves the rest unread.
    limit_s = time.monotonic() + LINGER_S
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while (left_s := limit_s - time.monotonic()) > 0:
            if not select.select([sock], [], [], left_s)[0] or not sock.recv(65536):
                break
