"""The broker's side of edged: paho-mqtt, one network thread, at-least-once delivery.

Rule: nothing else imports paho. A request is acknowledged by its consumer only, and only on the
connection that brought it.
"""

from edged.transport.events import (
    BrokerSettings,
    Connected,
    ConnectFailed,
    Disconnected,
    Published,
    PublishHandle,
    TransportEvent,
    Will,
)
from edged.transport.network import Transport

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
