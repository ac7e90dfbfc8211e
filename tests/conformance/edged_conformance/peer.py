"""An independent MQTT client: plain paho, one connection, a timeout for every wait.

Rule: callbacks only put messages into a queue; the reader of the queue decides.
"""

import queue
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edged_conformance.errors import NodeUnavailableError
from edged_conformance.options import Address

_NAMES = {
    "response_topic": "ResponseTopic",
    "correlation_data": "CorrelationData",
    "content_type": "ContentType",
    "payload_format": "PayloadFormatIndicator",
    "message_expiry": "MessageExpiryInterval",
    "user": "UserProperty",
}


@dataclass(frozen=True, slots=True)
class Received:
    """One received message, with its sequence number."""

    number: int
    topic: str
    payload: bytes
    qos: int
    is_retained: bool
    properties: Mapping[str, Any] = field(default_factory=dict)
    """By their names in the case files; empty over MQTT 3.1.1."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker: address and timeout."""

    address: Address
    ca_file: Path | None = None
    timeout_s: float = 30.0


class Peer:
    """A connection to a broker.

    Args:
        broker: Its address, and whose connection it is.
        version: Of MQTT.
        reader: Another connection, which receives what arrives on this one.

    Raises:
        NodeUnavailableError: The connection failed.
    """

    def __init__(self, broker: Broker, version: str, reader: "Peer | None" = None) -> None:
        self.is_v5 = version == "5"
        self._broker = broker
        self._arrivals: queue.SimpleQueue[mqtt.MQTTMessage | str] = (
            queue.SimpleQueue() if reader is None else reader._arrivals
        )
        self._answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._number = 0
        self._client = self._make_client()
        address = broker.address
        try:
            self._client.connect(address.host, address.port, keepalive=30, **self._clean_start())
        except OSError as error:
            raise NodeUnavailableError(f"{address.url}: {error.strerror or error}") from error
        self._client.loop_start()
        refusal = self._answer("connected")
        if refusal.is_failure:
            self.close()
            raise NodeUnavailableError(f"{address.url} refuses MQTT {version}: {refusal}")

    def _make_client(self) -> mqtt.Client:
        version = mqtt.MQTTv5 if self.is_v5 else mqtt.MQTTv311
        address = self._broker.address
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"edged-conformance-{secrets.token_hex(4)}",
            protocol=version,
            reconnect_on_failure=False,
        )
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.is_tls:
            client.tls_set(str(self._broker.ca_file) if self._broker.ca_file else None)
        client.on_socket_open = _set_no_delay
        client.on_connect = lambda _c, _u, _f, code, _p: self._answers.put(("connected", code))
        client.on_subscribe = lambda _c, _u, _m, codes, _p: self._answers.put(("granted", codes))
        client.on_disconnect = lambda _c, _u, _f, code, _p: self._arrivals.put(str(code))
        client.on_publish = lambda *_: _acknowledge_at_once(client)
        client.on_message = self._take
        return client

    def _take(self, client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        _acknowledge_at_once(client)
        self._arrivals.put(message)

    def _clean_start(self) -> dict[str, Any]:
        return {"clean_start": True} if self.is_v5 else {}

    def _answer(self, kind: str) -> Any:  # noqa: ANN401 - paho's reason code, or a list of them
        try:
            came, value = self._answers.get(timeout=self._broker.timeout_s)
        except queue.Empty:
            problem = f"{self._broker.address.url}: not {kind} in {self._broker.timeout_s:g} s"
            raise NodeUnavailableError(problem) from None
        return value if came == kind else self._answer(kind)

    def subscribe(self, *topic_filters: str) -> None:
        """Subscribe with QoS 1 and wait until the broker has granted it.

        With MQTT 5, messages keep the retain flag of the publisher.

        Raises:
            NodeUnavailableError: It was not granted.
        """
        options: Any = SubscribeOptions(qos=1, retainAsPublished=True) if self.is_v5 else 1
        self._client.subscribe([(topic_filter, options) for topic_filter in topic_filters])
        codes = self._answer("granted")
        refused = [f for f, code in zip(topic_filters, codes, strict=True) if code.is_failure]
        if refused:
            raise NodeUnavailableError(f"the broker refused the subscription to {refused[0]}")

    def publish(
        self,
        topic: str,
        payload: bytes,
        properties: Mapping[str, Any],
        *,
        qos: int = 1,
        is_retained: bool = False,
    ) -> None:
        """Send a message without waiting; properties are dropped over MQTT 3.1.1."""
        wire = None
        if self.is_v5:
            wire = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho has no types here
            for name, value in properties.items():
                setattr(wire, _NAMES[name], value)
        self._client.publish(topic, payload, qos, is_retained, wire)

    def receive(self, until_s: float) -> Received | None:
        """Return the next message; None if none arrives before this monotonic time.

        Raises:
            NodeUnavailableError: The broker has closed the connection.
        """
        try:
            message = self._arrivals.get(timeout=max(until_s - time.monotonic(), 0.001))
        except queue.Empty:
            return None
        if isinstance(message, str):
            raise NodeUnavailableError(f"the broker closed the connection: {message}")
        self._number += 1
        found = {
            name: getattr(message.properties, paho_name)
            for name, paho_name in _NAMES.items()
            if hasattr(message.properties, paho_name)
        }
        return Received(
            self._number,
            message.topic,
            bytes(message.payload),
            message.qos,
            bool(message.retain),
            found,
        )

    def close(self) -> None:
        """Disconnect, end paho's thread and let go of the callbacks.

        Else they hold the client, and nothing closes its sockets until the garbage collector runs.
        """
        client = self._client
        client.disconnect()
        client.loop_stop()
        client.on_connect = client.on_disconnect = None
        client.on_message = client.on_publish = client.on_subscribe = None


def _set_no_delay(_client: mqtt.Client, _userdata: object, sock: Any) -> None:  # noqa: ANN401 - paho's union of socket types
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _acknowledge_at_once(client: mqtt.Client) -> None:
    # A broker without TCP_NODELAY sends its next message when the last one is acknowledged, which
    # Linux does up to 40 ms later. The option lasts for one acknowledgement.
    sock: Any = client.socket()  # paho's union of socket types
    if sock is not None and hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
