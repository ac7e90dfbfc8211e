"""The wire contract: requests from bytes and MQTT properties, replies and events to bytes.

Rule: pure; no clock, no broker. ``docs/protocol.md`` is the specification for clients.
"""

from edged.protocol.decode import Decoded, decode, reply_address
from edged.protocol.encode import (
    encode_event,
    encode_fragment,
    encode_info,
    encode_reply,
    encode_state,
)
from edged.protocol.wire import (
    MAX_USER_PROPERTIES,
    OPERATIONS,
    PROTOCOL_VERSION,
    Delivery,
    Dropped,
    DropReason,
    Encoded,
    Publisher,
    Refusal,
    RequestDefaults,
    Topics,
    WireProperties,
)

__all__ = [
    "MAX_USER_PROPERTIES",
    "OPERATIONS",
    "PROTOCOL_VERSION",
    "Decoded",
    "Delivery",
    "DropReason",
    "Dropped",
    "Encoded",
    "Publisher",
    "Refusal",
    "RequestDefaults",
    "Topics",
    "WireProperties",
    "decode",
    "encode_event",
    "encode_fragment",
    "encode_info",
    "encode_reply",
    "encode_state",
    "reply_address",
]
