"""The connection to the MQTT broker: paho-mqtt, one network thread, at-least-once delivery.

Rule: no other room imports paho. Only the consumer acknowledges a request, and only on the
connection that delivered it.
"""

from edged.transport.events import (
    Connected,
    ConnectFailed,
    Disconnected,
    Published,
    PublishHandle,
    TransportEvent,
)
from edged.transport.network import Transport
from edged.transport.settings import BrokerSettings, Will

__all__ = [
    "BrokerSettings",
    "ConnectFailed",
    "Connected",
    "Disconnected",
    "PublishHandle",
    "Published",
    "Transport",
    "TransportEvent",
    "Will",
]
