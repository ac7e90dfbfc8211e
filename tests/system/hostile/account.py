"""An account of the broker: what it publishes, what the broker says to that, and all it is sent.

Rule: knows nothing of edged, and connects to loopback only.
"""

import json
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.system.broker.peer import stop, without_delay

WAIT_S = 60.0
"""For a machine that is busy with something else; what is right takes a fraction of it."""
PASSWORD = "the word of every account"  # noqa: S105 - of a broker on loopback


class Arrived(NamedTuple):
    """A message that an account was sent."""

    topic: str
    payload: bytes
    correlation: bytes | None
    is_retained: bool = False
    """Whether the broker had it before the subscription."""

    @property
    def members(self) -> dict[str, Any]:
        """The payload as a JSON object."""
        found = json.loads(self.payload)
        assert isinstance(found, dict)
        return found


@dataclass(frozen=True)
class Will:
    """What the broker publishes when a connection breaks."""

    topic: str
    payload: bytes
    retain: bool = False


class Account:
    """One connection of an account over MQTT 5.

    Args:
        port: Of the broker.
        name: Of the account.
        filters: What it subscribes to; the broker grants all, and sends what the account may read.
        client_id: Another client of this id is disconnected; the broker chooses one by default.
        will: Published when the connection breaks.
        session_s: How long the broker keeps its session; then it goes on with one of its client id.
    """

    def __init__(
        self,
        port: int,
        name: str,
        filters: Sequence[str] = (),
        *,
        client_id: str = "",
        will: Will | None = None,
        session_s: int = 0,
    ) -> None:
        self.name, self.filters, self.arrived = name, filters, list[Arrived]()
        self.refusal: str | None = None
        """Why the broker does not let it in."""
        self._changed = threading.Condition()
        self._published: dict[int, bool] = {}
        self._num_subscribed = 0
        self._is_in = False
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5, reconnect_on_failure=False
        )
        self._client.username_pw_set(name, PASSWORD)
        self._client.max_inflight_messages_set(1000)
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        self._client.on_socket_open = without_delay
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = session_s
        self._client.connect("127.0.0.1", port, clean_start=not session_s, properties=properties)
        self._client.loop_start()
        self._wait(lambda: self._is_in or self.refusal is not None)
        if self._is_in and filters:
            self.subscribe(*filters)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_connected(self) -> bool:
        """Whether the broker holds the connection."""
        return self._is_in

    def subscribe(self, *filters: str) -> None:
        """Subscribe, and wait until the broker has granted it."""
        self._num_subscribed = 0
        self._client.subscribe([(each, 1) for each in filters])
        assert self._wait(lambda: self._num_subscribed), f"no SUBACK for {filters}"

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        response_topic: str | None = None,
        correlation: bytes | None = None,
        retain: bool = False,
    ) -> bool:
        """Publish at QoS 1; return whether the broker took it, or says that it may not."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if response_topic is not None:
            properties.ResponseTopic = response_topic
        if correlation is not None:
            properties.CorrelationData = correlation
        handle = self._client.publish(topic, payload, 1, retain, properties).mid
        assert self._wait(lambda: handle in self._published), f"no PUBACK for {topic}"
        return self._published[handle]

    def wait_for(self, holds: Callable[[Sequence[Arrived]], bool]) -> bool:
        """Wait until what arrived satisfies a condition; return whether it does."""
        return self._wait(lambda: holds(self.arrived))

    def take(self) -> list[Arrived]:
        """Return what has arrived, and forget it."""
        with self._changed:
            taken, self.arrived = self.arrived, []
            return taken

    def go_on_from(self, former: "Account") -> None:
        """Take over what arrived on a connection before this one."""
        with self._changed:
            self.arrived[:0] = former.arrived

    def break_off(self) -> None:
        """End the connection without a DISCONNECT: the broker publishes the will."""
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            connection.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()

    def close(self) -> None:
        """Disconnect."""
        stop(self._client)

    def _wait(self, holds: Callable[[], object]) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(holds, WAIT_S))

    def _on_connect(self, *event: Any) -> None:  # noqa: ANN401 - paho's arguments
        with self._changed:
            self._is_in = not event[3].is_failure
            self.refusal = str(event[3]) if event[3].is_failure else None
            self._changed.notify_all()

    def _on_disconnect(self, *event: Any) -> None:  # noqa: ANN401 - paho's arguments
        with self._changed:
            self._is_in = False
            self.refusal = self.refusal or str(event[3])
            self._changed.notify_all()

    def _on_publish(self, *event: Any) -> None:  # noqa: ANN401 - paho's arguments
        with self._changed:
            self._published[event[2]] = not event[3].is_failure
            self._changed.notify_all()

    def _on_subscribe(self, *event: Any) -> None:  # noqa: ANN401 - paho's arguments
        assert not any(code.is_failure for code in event[3])
        with self._changed:
            self._num_subscribed += 1
            self._changed.notify_all()

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        data = getattr(message.properties, "CorrelationData", None)
        with self._changed:
            self.arrived.append(
                Arrived(message.topic, bytes(message.payload), data, message.retain)
            )
            self._changed.notify_all()
