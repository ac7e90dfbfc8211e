"""Decode a delivery to a ``Request``, a ``CancelRequest``, a ``Refusal`` or ``Dropped``.

Rule: every delivery becomes one of the four, never an exception. A refusal names the key, and is
sent with the reply topic, id and Correlation Data as far as they could be read.
"""

import re
from dataclasses import replace

from edged.protocol.content import Content, read_content, too_large
from edged.protocol.fields import Fields, MessageError
from edged.protocol.generate import read_generate
from edged.protocol.keys import ID_PATTERN, MAX_ID_BYTES, TIMEOUT_MS
from edged.protocol.request import CancelRequest, Rejected, ReplyAddress, Request
from edged.protocol.topic import refuse_reply_topic
from edged.protocol.wire import (
    MAX_USER_PROPERTIES,
    OPERATIONS,
    Delivery,
    Dropped,
    DropReason,
    Refusal,
    RequestDefaults,
)

_ID = re.compile(ID_PATTERN)
_ID_RULE = f"1 to {MAX_ID_BYTES} characters of A-Z a-z 0-9 . _ : -"
_UNKNOWN_TOPIC = Dropped(DropReason.UNKNOWN_TOPIC, "not a request topic of this node")

Decoded = Request | CancelRequest | Refusal | Dropped


def decode(delivery: Delivery, defaults: RequestDefaults, now_s: float) -> Decoded:
    """Decode one delivery.

    Args:
        delivery: The message as the broker delivered it.
        defaults: Limits and defaults of this node.
        now_s: Current time, on the clock of the request's deadline.
    """
    operation = defaults.topics.operation_of(delivery.topic)
    if operation is None:
        return _UNKNOWN_TOPIC
    dropped = _drop(delivery)
    if dropped is not None:
        return dropped
    max_bytes = max(defaults.max_payload_bytes, defaults.max_readable_bytes)
    content = read_content(delivery, max_bytes)
    address, problem = _read_address(delivery, content, defaults, operation)
    if isinstance(address, Dropped):
        return address
    # The most general error first; the address is known by now, so that any of them can be sent.
    problem = _over_a_limit(delivery, defaults) or content.problem or problem
    try:
        if problem is not None:
            raise problem
        if operation == "cancel":
            return _read_cancel(content, address)
        return _read_request(delivery, content, defaults, (address, now_s))
    except MessageError as error:
        return Refusal(address, Rejected(error.code, str(error)))


def reply_address(delivery: Delivery, defaults: RequestDefaults) -> ReplyAddress | Dropped:
    """Return the reply's address from topic and properties alone, without reading the payload."""
    operation = defaults.topics.operation_of(delivery.topic)
    if operation is None:
        return _UNKNOWN_TOPIC
    return _read_address(delivery, Content(), defaults, operation)[0]


def _drop(delivery: Delivery) -> Dropped | None:
    if delivery.retain:
        return Dropped(DropReason.RETAINED, "requests must be published without the retain flag")
    if delivery.properties.message_expiry_s == 0:
        return Dropped(DropReason.EXPIRED, "the message expiry interval has passed")
    return None


def _over_a_limit(delivery: Delivery, defaults: RequestDefaults) -> MessageError | None:
    size, limit = len(delivery.payload), defaults.max_payload_bytes
    if size > limit:
        return too_large(size, limit)
    if len(delivery.properties.user_properties) > MAX_USER_PROPERTIES:
        return MessageError(f"user properties: at most {MAX_USER_PROPERTIES} are accepted")
    return None


def _read_address(
    delivery: Delivery, content: Content, defaults: RequestDefaults, operation: str
) -> tuple[ReplyAddress | Dropped, MessageError | None]:
    """Return where the reply goes, and the error in the keys that say so, if any."""
    fields = Fields(content.members)
    request_id, problem = _read_id(fields)
    if operation not in OPERATIONS:
        offered = " and ".join(OPERATIONS)
        problem = MessageError(f"topic: the operations of this node are {offered}")
    topics = defaults.topics
    topic = topics.response(operation)
    asked = fields.value("response_topic")
    if delivery.properties.response_topic is not None:
        topic = delivery.properties.response_topic
    elif isinstance(asked, str):
        topic = asked
    elif asked is not None:
        problem = fields.wrong("response_topic", "a topic", asked)
    refused = refuse_reply_topic(topic, topics, defaults.reply_prefixes, defaults.discovery_prefix)
    if refused is not None:
        return Dropped(DropReason.FORBIDDEN_TOPIC, f"no reply to that topic: {refused}"), None
    return ReplyAddress(topic, request_id, delivery.properties.correlation_data), problem


def _read_id(fields: Fields) -> tuple[str | None, MessageError | None]:
    """Return ``id``, or its alias ``transaction``, and the error in either, if any."""
    found, problem = None, None
    for key in ("transaction", "id"):
        value = fields.value(key)
        if isinstance(value, str) and _ID.fullmatch(value):
            found = value
        elif value is not None:
            problem = fields.wrong(key, _ID_RULE, value)
    return found, problem


def _read_cancel(content: Content, address: ReplyAddress) -> CancelRequest:
    target = address.request_id
    if content.text:
        if not _ID.fullmatch(content.text):
            raise MessageError("payload: must be the id of the request to cancel")
        target = content.text
        address = ReplyAddress(address.topic, target, address.correlation_data)
    if target is None and address.correlation_data is None:
        raise MessageError("id: must name the request to cancel, or send its Correlation Data")
    return CancelRequest(address, target, address.correlation_data)


def _read_request(
    delivery: Delivery,
    content: Content,
    defaults: RequestDefaults,
    arrival: tuple[ReplyAddress, float],
) -> Request:
    address, now_s = arrival
    fields = Fields({"prompt": content.text} if content.text is not None else content.members)
    for key in ("id", "transaction", "response_topic"):  # read with the address
        fields.value(key)
    expiry_s = delivery.properties.message_expiry_s
    timeout_ms = TIMEOUT_MS.read(fields)
    given = [float(expiry_s)] if expiry_s is not None else []
    if timeout_ms is not None:
        given.append(timeout_ms / 1000)
    timeout_s = min(min(given, default=defaults.timeout_s), defaults.max_timeout_s)
    session = _read_session(fields, defaults)
    request = read_generate(fields, defaults, address, (now_s, now_s + timeout_s))
    return request if session is None else replace(request, session=session)


def _read_session(fields: Fields, defaults: RequestDefaults) -> str | None:
    value = fields.value("session")
    if value is None:
        return None
    if not defaults.has_sessions:
        raise MessageError("session: this node holds no sessions; send all `messages`")
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise fields.wrong("session", _ID_RULE, value)
    return value
