"""Decode a delivery to what it asks, a ``Refusal`` or ``Dropped``.

Rule: every delivery becomes one of ``DecodedMessage``, never an exception. A refusal names the
key, and is sent with the reply topic, id and Correlation Data as far as they could be read.
"""

from dataclasses import replace

from edged.errors import ErrorCode
from edged.protocol.content import read_content
from edged.protocol.fields import Fields, MessageError
from edged.protocol.generate import read_generate, read_inputs, read_messages
from edged.protocol.keys import ID, SPECIALIST, TRANSACTION, is_id
from edged.protocol.request import (
    CancelRequest,
    Correction,
    Rejected,
    ReplyAddress,
    Request,
    spoken,
)
from edged.protocol.topic import own_reply_topic, refuse_reply_topic, refuse_topic
from edged.protocol.wire import (
    OPERATIONS,
    Delivery,
    Dropped,
    DropReason,
    Refusal,
    RequestDefaults,
    RequestTopic,
)

_UNKNOWN_TOPIC = Dropped(DropReason.UNKNOWN_TOPIC, "not a request topic of this node")

DecodedMessage = Request | CancelRequest | Correction | Refusal | Dropped


def decode(delivery: Delivery, defaults: RequestDefaults, now_s: float) -> DecodedMessage:
    """Decode one delivery; ``now_s`` is on the clock of the request's deadline."""
    asked_on = defaults.topics.read_request(delivery.topic)
    if asked_on is None:
        return _UNKNOWN_TOPIC
    turned_away = _turn_away(delivery, defaults, asked_on)
    if turned_away is not None:
        return turned_away
    content = read_content(delivery, defaults)
    fields = Fields(content.members)
    address, problem = _read_address(delivery, fields, defaults, asked_on)
    if isinstance(address, Dropped):
        return address
    # The most general error first; the address is known by now, so that any of them can be sent.
    problem = content.problem or problem
    try:
        if problem is not None:
            raise problem
        match asked_on.operation:
            case "cancel":
                asked: DecodedMessage = _read_cancel(content.text, address)
            case "correct":
                asked = _read_correction(fields, defaults, address)
            case _:
                expiry_s = delivery.properties.message_expiry_s
                asked = read_generate(fields, defaults, address, now_s, expiry_s)
    except MessageError as error:
        return Refusal(address, Rejected(error.code, str(error)))
    return asked


def _turn_away(
    delivery: Delivery, defaults: RequestDefaults, asked_on: RequestTopic
) -> Dropped | Refusal | None:
    """Return why nothing of a delivery is read; None where it is."""
    if delivery.retain:
        return Dropped(DropReason.RETAINED, "requests must be published without the retain flag")
    if delivery.properties.message_expiry_s == 0:
        return Dropped(DropReason.EXPIRED, "the message expiry interval has passed")
    if asked_on.user is not None or not defaults.is_identity_required:
        return None
    if asked_on.operation not in OPERATIONS:
        return _UNKNOWN_TOPIC
    # To everybody: nothing says who has asked.
    address = ReplyAddress(defaults.topics.response(asked_on.operation))
    own = f"{asked_on.root}/client/USER/request/{asked_on.operation}"
    message = f"topic: this node answers accounts only; publish to {own} with your user name"
    return Refusal(address, Rejected(ErrorCode.IDENTITY_REQUIRED, message))


def reply_address(delivery: Delivery, defaults: RequestDefaults) -> ReplyAddress | Dropped:
    """Return the reply's address from topic and properties alone, without reading the payload."""
    asked_on = defaults.topics.read_request(delivery.topic)
    if asked_on is None:
        return _UNKNOWN_TOPIC
    return _read_address(delivery, Fields({}), defaults, asked_on)[0]


def _read_address(
    delivery: Delivery, fields: Fields, defaults: RequestDefaults, asked_on: RequestTopic
) -> tuple[ReplyAddress | Dropped, MessageError | None]:
    """Return where the reply goes, and the error in the keys that say so, if any."""
    request_id, problem = _read_id(fields)
    if asked_on.operation not in OPERATIONS:
        offered = f"{', '.join(OPERATIONS[:-1])} and {OPERATIONS[-1]}"
        problem = MessageError(f"topic: the operations of this node are {offered}")
    # MQTT 3.1.1 has no properties, so the key is for its clients.
    asked = fields.value("response_topic")
    if delivery.properties.response_topic is not None:
        asked = delivery.properties.response_topic
    elif not isinstance(asked, str | None):
        asked, problem = None, fields.wrong("response_topic", "a topic", asked)
    topics = defaults.topics
    topic = default = topics.client(asked_on.user).response(asked_on.operation)
    if asked is not None and asked_on.user is None:
        topic = asked
    elif asked is not None:
        topic = own_reply_topic(asked, asked_on, topics) or default
        if topic is default:
            own = f"{asked_on.root}/response/"
            problem = MessageError(f"response_topic: must be below {own}, as all replies to you")
    refused = _refuse_reply(topic, asked_on.user, defaults)
    if refused is not None:
        return Dropped(DropReason.FORBIDDEN_TOPIC, f"no reply to that topic: {refused}"), None
    data = delivery.properties.returned_data
    return ReplyAddress(topic, request_id, data, asked_on.user), problem


def _refuse_reply(topic: str, user: str | None, defaults: RequestDefaults) -> str | None:
    if user is not None:  # the topic is its own
        return refuse_topic(topic)
    prefixes, discovery = defaults.reply_prefixes, defaults.discovery_prefix
    return refuse_reply_topic(topic, defaults.topics, prefixes, discovery)


def _read_id(fields: Fields) -> tuple[str | None, MessageError | None]:
    # ``transaction`` is an alias. An error in one of them must not hide the other one.
    found, problem = None, None
    for key in (TRANSACTION, ID):
        try:
            found = key.read(fields) or found
        except MessageError as error:
            problem = error
    return found, problem


def _read_cancel(text: str | None, address: ReplyAddress) -> CancelRequest:
    # A payload that is no JSON is the id itself.
    if text:
        if not is_id(text):
            raise MessageError("payload: must be the id of the request to cancel")
        address = replace(address, request_id=text)
    if address.request_id is None and address.correlation_data is None:
        raise MessageError("id: must name the request to cancel, or send its Correlation Data")
    return CancelRequest(address)


def _read_correction(
    fields: Fields, defaults: RequestDefaults, address: ReplyAddress
) -> Correction:
    if not defaults.keeps_corrections:
        raise MessageError("topic: this node keeps no corrections; its state.corrections is 0")
    specialist = SPECIALIST.read(fields)
    if specialist is None:
        raise MessageError("specialist: must name the one that is corrected")
    # A mistyped key must not be taken for "none of the labels".
    if not fields.has("answer"):
        raise MessageError("answer: is missing; null means none of the labels")
    messages, _ = read_messages(fields, defaults, [])
    said = tuple(message for message in messages if message.role != "system")
    inputs = read_inputs(fields, specialist)
    return Correction(address, specialist, spoken(messages), fields.value("answer"), said, inputs)
