"""The AsyncAPI 3 document: topics, who sends what, and with which properties."""

from typing import Any

import edged
from edged.protocol.encode import CONTENT_TYPE
from edged.protocol.keys import ID_PATTERN
from edged.protocol.wire import MAX_CORRELATION_BYTES, MAX_USER_BYTES, OPERATIONS, Topics
from scripts.specification.parts import Schema

_BINDING_VERSION = "0.2.0"
_SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"
_TOPICS = Topics("edged", "{node}")
_GROUP = Topics("edged", "group/{group}")
# Of a broker's accounts, each on topics of its own, and of everybody else.
_CLIENTS = {"account": _TOPICS.client("{user}"), "anyone": _TOPICS.client(None)}
_GROUP_CLIENTS = {"account": _GROUP.client("{user}"), "anyone": _GROUP.client(None)}
_PARAMETERS: dict[str, Schema] = {
    "node": {"description": "Name of the node: 1 to 32 of a-z, 0-9 and -."},
    "group": {"description": "Name of the group: 1 to 32 of a-z, 0-9 and -."},
    "user": {
        "description": (
            f"User name of the account: 1 to {MAX_USER_BYTES} bytes without /, + and #. The broker"
            " lets nobody else publish or read there."
        )
    },
    "id": {"description": f"id of the request: {ID_PATTERN}"},
}
_REPLY_HINT = "Response Topic, else `response_topic`, else this topic."
_OWN_REPLY_HINT = f"{_REPLY_HINT} Below the account's own `response/` only."
_GROUP_REPLY_HINT = (
    "Response Topic, else `response_topic`: below the account's `response/` at the group; the reply"
    " comes to the same end at the node that answers. Else this topic of that node."
)


def asyncapi_document() -> dict[str, Any]:
    """Return the whole document, from the point of view of a node."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:edged:v1",
        "info": {
            "title": "edged",
            "version": edged.__version__,
            "description": (
                "A small language model asked over MQTT. protocol.md explains it for people; a node"
                " can have another prefix than `edged`."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "broker": {
                "host": "localhost:1883",
                "protocol": "mqtt",
                "protocolVersion": "5",
                "description": "Any MQTT 5 or 3.1.1 broker; over 3.1.1 there are no properties.",
            }
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages()},
    }


def _channels() -> dict[str, Any]:
    channels = {}
    for who, topics in _CLIENTS.items():
        for operation in OPERATIONS:
            name = f"{who}{operation.title()}"
            channels[f"{name}Request"] = _channel(topics.request(operation), f"{operation}Request")
            channels[f"{name}Reply"] = _channel(topics.response(operation), "reply")
        channels[f"{who}Stream"] = _channel(topics.stream("{id}"), "fragment")
    for who, topics in _GROUP_CLIENTS.items():
        channels[f"{who}GroupRequest"] = _channel(topics.request("generate"), "generateRequest")
    for name in ("availability", "info", "state", "event"):
        channels[name] = _channel(str(getattr(_TOPICS, name)), name)
    return channels


def _channel(address: str, message: str) -> dict[str, Any]:
    return {
        "address": address,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "parameters": {
            name: dict(text) for name, text in _PARAMETERS.items() if f"{{{name}}}" in address
        },
    }


def _operations() -> dict[str, Any]:
    summaries = {
        "generate": "Answer a prompt.",
        "cancel": "Cancel a request.",
        "correct": "Keep what a specialist should have said.",
    }
    operations = {}
    for who, hint in (("account", _OWN_REPLY_HINT), ("anyone", _REPLY_HINT)):
        for operation, summary in summaries.items():
            name = f"{who}{operation.title()}"
            operations[name] = _request(f"{name}Request", f"{name}Reply", summary, hint)
        operations[f"{who}Stream"] = _operation(
            f"{who}Stream", "send", "Send a fragment of an answer.", qos=0
        )
    for who, hint in (("account", _GROUP_REPLY_HINT), ("anyone", _REPLY_HINT)):
        summary = "Answer a prompt as one node of a group."
        operations[f"{who}Group"] = _request(
            f"{who}GroupRequest", f"{who}GenerateReply", summary, hint
        )
    sent = {
        "availability": ("Whether the node is online; also the will.", 1, True),
        "info": ("Describe the node.", 1, True),
        "state": ("Load, memory and counters, every 30 s and on change.", 0, True),
        "event": ("Report what happened to operators.", 1, False),
    }
    for channel, (summary, qos, is_retained) in sent.items():
        operations[channel] = _operation(channel, "send", summary, qos=qos, retain=is_retained)
    return operations


def _request(channel: str, reply_channel: str, summary: str, hint: str) -> dict[str, Any]:
    reply = {
        "address": {"description": hint, "location": "$message.payload#/response_topic"},
        "channel": {"$ref": f"#/channels/{reply_channel}"},
        "messages": [{"$ref": f"#/channels/{reply_channel}/messages/reply"}],
    }
    return _operation(channel, "receive", summary, qos=1) | {"reply": reply}


def _operation(
    channel: str, action: str, summary: str, *, qos: int, retain: bool = False
) -> dict[str, Any]:
    binding = {"qos": qos, "retain": retain, "bindingVersion": _BINDING_VERSION}
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "bindings": {"mqtt": binding},
    }


def _messages() -> dict[str, Any]:
    sent = f"Correlation Data: any bytes, at most {MAX_CORRELATION_BYTES}"
    correlation: Schema = {"type": "string", "description": sent}
    asked = {
        "correlationData": correlation,
        "responseTopic": {"type": "string", "description": "where the reply goes"},
        "bindingVersion": _BINDING_VERSION,
    }
    replied = {
        "payloadFormatIndicator": 1,
        "correlationData": correlation | {"description": "Correlation Data of the request"},
        "contentType": CONTENT_TYPE,
        "bindingVersion": _BINDING_VERSION,
    }
    availability = {"type": "string", "enum": ["online", "offline"]}
    messages = {f"{name}Request": _message(name, asked) for name in OPERATIONS}
    messages["reply"] = _message("reply", replied) | {"headers": _status_header()}
    for name in ("fragment", "info", "state", "event"):
        messages[name] = _message(name)
    messages["availability"] = {
        "name": "availability",
        "contentType": "text/plain",
        "payload": availability,
    }
    return messages


def _message(name: str, binding: dict[str, Any] | None = None) -> dict[str, Any]:
    payload = {"schemaFormat": _SCHEMA_FORMAT, "schema": {"$ref": f"./schemas/{name}.json"}}
    message: dict[str, Any] = {"name": name, "contentType": CONTENT_TYPE, "payload": payload}
    return message | ({"bindings": {"mqtt": binding}} if binding else {})


def _status_header() -> Schema:
    status = {"type": "string", "pattern": "^[1-5][0-9]{2}$"}
    text = "User property: 200, or the status of the error."
    return {"type": "object", "properties": {"status": status | {"description": text}}}
