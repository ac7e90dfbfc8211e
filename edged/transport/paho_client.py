"""Build a paho client: manual acknowledgement, persistent session, no Nagle delay."""

import socket
import ssl
from collections.abc import Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edged.transport.properties import read_publish
from edged.transport.settings import BrokerSettings, Will

_SHORT_SESSION_S = 60


class Client(mqtt.Client):
    """paho's client with a PUBLISH parser of its own: ``on_message`` gets a ``Delivery``."""

    epoch = 0
    """Number of the connection; until CONNACK it has none."""
    identifier = ""
    was_closed = False
    """Whether the broker closed the connection between two packets, rather than it broke."""

    def _sock_recv(self, bufsize: int) -> bytes:
        data = super()._sock_recv(bufsize)
        self.was_closed = not data and not self._in_packet["command"]
        return data

    def _handle_publish(self) -> MQTTErrorCode:
        # paho's parser copies the rest of the packet for each property, and calls U+FEFF malformed,
        # so that one message would end each connection that delivers it.
        command, packet = self._in_packet["command"], bytes(self._in_packet["packet"])
        is_5 = self.protocol == mqtt.MQTTv5
        delivery: Any = read_publish(
            command, packet, self.epoch, self.identifier, has_properties=is_5
        )
        self._handle_on_message(delivery)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def make_client(
    settings: BrokerSettings, version: str, will: Will | None, tls: ssl.SSLContext | None
) -> Client:
    """Return a client that knows where to connect, but has not connected yet."""
    is_5 = version == "5"
    # MQTT 3.1.1 has no session expiry: a session is kept for ever or not at all.
    is_clean = settings.session_expiry_s < (1 if is_5 else _SHORT_SESSION_S)
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=settings.client_id,
        clean_session=None if is_5 else is_clean,
        protocol=mqtt.MQTTv5 if is_5 else mqtt.MQTTv311,
        reconnect_on_failure=False,  # also keeps paho from trying MQTT 3.1 by itself
        manual_ack=True,
    )
    client.identifier = settings.client_id
    client.connect_timeout = settings.handshake_timeout_s
    if settings.address.username is not None:
        client.username_pw_set(settings.address.username, settings.address.password)
    if tls is not None:
        client.tls_set_context(tls)
    if will is not None:
        client.will_set(will.topic, will.payload, will.qos, will.retain)
    client.on_socket_open = _set_no_delay
    client.connect_async(
        settings.address.host,
        settings.address.port,
        settings.keepalive_s,
        clean_start=is_clean,
        properties=_connect_properties(settings) if is_5 else None,
    )
    return client


def subscription_list(
    settings: BrokerSettings, version: str, topic_filters: Sequence[str]
) -> list[Any]:
    """Return the argument of ``subscribe``: each filter with QoS 1 and its retain handling."""
    if version != "5":
        return [(topic_filter, 1) for topic_filter in topic_filters]
    options = SubscribeOptions(qos=1)
    # A retained request would be answered again at every reconnect, so a node asks for none.
    if not settings.wants_retained:
        options.retainHandling = SubscribeOptions.RETAIN_DO_NOT_SEND
    return [(topic_filter, options) for topic_filter in topic_filters]


def _connect_properties(settings: BrokerSettings) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho has no types here
    properties.SessionExpiryInterval = settings.session_expiry_s
    properties.ReceiveMaximum = settings.receive_maximum
    properties.MaximumPacketSize = settings.max_packet_bytes
    return properties


def _set_no_delay(_client: mqtt.Client, _userdata: object, sock: Any) -> None:  # noqa: ANN401 - paho's union of socket types
    # Nagle's algorithm would wait for a delayed TCP ACK: 40 ms for each round trip.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
