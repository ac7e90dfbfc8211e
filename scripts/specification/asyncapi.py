"""The AsyncAPI 3 document: topics, who sends what, and with which properties."""

from typing import Any

import edged
from edged.protocol.encode import CONTENT_TYPE
from edged.protocol.keys import ID_PATTERN
from edged.protocol.wire import MAX_CORRELATION_BYTES, OPERATIONS, Topics
from scripts.specification.parts import Schema

_BINDING_VERSION = "0.2.0"
_SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"
_TOPICS = Topics("edged", "{node}")
_NODE: Schema = {"description": "Name of the node: 1 to 32 of a-z, 0-9 and -."}
_REPLY_HINT = "Response Topic, else `response_topic`, else this topic."


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
    for operation in OPERATIONS:
        channels[f"{operation}Request"] = _channel(
            _TOPICS.request(operation), f"{operation}Request"
        )
        channels[f"{operation}Reply"] = _channel(_TOPICS.response(operation), "reply")
    channels["stream"] = _channel(_TOPICS.stream("{id}"), "fragment")
    channels["stream"]["parameters"]["id"] = {
        "description": f"id of the request: {ID_PATTERN}",
    }
    for name in ("availability", "info", "state", "event"):
        channels[name] = _channel(str(getattr(_TOPICS, name)), name)
    return channels


def _channel(address: str, message: str) -> dict[str, Any]:
    return {
        "address": address,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "parameters": {"node": dict(_NODE)},
    }


def _operations() -> dict[str, Any]:
    summaries = {
        "generate": "Answer a prompt.",
        "cancel": "Cancel a request.",
        "correct": "Keep what a specialist should have said.",
    }
    operations = {
        operation: _operation(f"{operation}Request", "receive", summaries[operation], qos=1)
        for operation in OPERATIONS
    }
    for operation in OPERATIONS:
        operations[operation]["reply"] = {
            "address": {"description": _REPLY_HINT, "location": "$message.payload#/response_topic"},
            "channel": {"$ref": f"#/channels/{operation}Reply"},
            "messages": [{"$ref": f"#/channels/{operation}Reply/messages/reply"}],
        }
    sent = {
        "stream": ("Send a fragment of an answer.", 0, False),
        "availability": ("Whether the node is online; also the will.", 1, True),
        "info": ("Describe the node.", 1, True),
        "state": ("Load, memory and counters, every 30 s and on change.", 0, True),
        "event": ("Report what happened to operators.", 1, False),
    }
    for channel, (summary, qos, is_retained) in sent.items():
        operations[channel] = _operation(channel, "send", summary, qos=qos, retain=is_retained)
    return operations


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
