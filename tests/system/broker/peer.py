"""A client written from ``docs/protocol.md``: plain paho, MQTT 5 or 3.1.1."""

import json
import queue
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

WAIT_S = 60.0
"""For a machine that is busy with something else; what is right takes a fraction of it."""


def without_delay(_client: mqtt.Client, _userdata: object, sock: Any) -> None:  # noqa: ANN401 - paho's union of socket types
    """Send small packets at once, as the node does: else each exchange takes 40 ms longer."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def stop(client: mqtt.Client) -> None:
    """Disconnect, end paho's thread and let go of the callbacks.

    They mostly hold the client. The garbage collector may find the sockets of such a cycle before
    the client that would close them, and warn in whatever test is running then.
    """
    client.disconnect()
    client.loop_stop()
    client.on_connect = client.on_disconnect = None
    client.on_message = client.on_publish = client.on_subscribe = None


class Peer:
    """Publish requests and receive messages; every wait has a timeout."""

    def __init__(
        self, port: int, protocol: str, topics: tuple[str, ...], user: str | None = None
    ) -> None:
        self.is_v5 = protocol == "5"
        self._messages: queue.SimpleQueue[mqtt.MQTTMessage] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[int] = queue.SimpleQueue()
        version = mqtt.MQTTv5 if self.is_v5 else mqtt.MQTTv311
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=version)
        if user is not None:
            self._client.username_pw_set(user, user)
        self._client.on_socket_open = without_delay
        self._client.on_message = lambda _c, _u, message: self._messages.put(message)
        self._client.on_subscribe = lambda *_: self._ready.put(1)
        self._topics = [(topic, 1) for topic in topics]
        self._client.on_connect = self._subscribe
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._ready.get(timeout=WAIT_S)

    def _subscribe(self, *_: object) -> None:
        self._client.subscribe(self._topics)

    def close(self) -> None:
        stop(self._client)

    def publish(self, topic: str, payload: object, **properties: object) -> None:
        """Send bytes as they are, anything else as JSON; properties are MQTT 5's."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        wire = None
        if self.is_v5:
            wire = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            for name, value in properties.items():
                setattr(wire, name, value)
        self._client.publish(topic, data, qos=1, properties=wire).wait_for_publish(WAIT_S)

    def message(self, wait_s: float = WAIT_S) -> mqtt.MQTTMessage:
        """Return the next message; raise ``queue.Empty`` after the timeout."""
        return self._messages.get(timeout=wait_s)

    def reply(self) -> dict[str, Any]:
        """Return the next message as a JSON object."""
        return self.parsed(self.message())

    def reply_to(self, *request_ids: str | None) -> dict[str, Any]:
        """Return the next message about one of these requests; None stands for one without an id.

        QoS 1 delivers at least once, so where tests share a client, the next message may be a copy
        of one for an earlier test.
        """
        while (members := self.reply())["id"] not in request_ids:
            pass
        return members

    @staticmethod
    def parsed(message: mqtt.MQTTMessage) -> dict[str, Any]:
        """Return the payload of a message as a JSON object."""
        members = json.loads(message.payload)
        assert isinstance(members, dict)
        return members


def new_id() -> str:
    """Return an id that no other test uses."""
    return secrets.token_hex(4)


@contextmanager
def peer(port: int, protocol: str, *topics: str, user: str | None = None) -> Iterator[Peer]:
    """Connect, subscribe, and close at the end; an account's password is its name."""
    client = Peer(port, protocol, topics, user)
    try:
        yield client
    finally:
        client.close()
