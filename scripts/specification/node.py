"""JSON Schema of ``info`` and ``event``."""

from edged.config.keys import IDENTITIES
from edged.protocol.event import Event
from edged.protocol.request import FormatType
from edged.protocol.wire import OPERATIONS
from edged.specialists.examples import AnswerKind
from scripts.specification.parts import (
    BOOLEAN,
    COUNT,
    STRING,
    Schema,
    described,
    document,
    fields_of,
    members,
    nullable,
    plain,
)
from scripts.specification.replies import NODE, VERSION

_LIMITS = {
    "max_payload_bytes": "largest request, in bytes",
    "max_tokens": "`max_tokens` of a request that names none",
    "timeout_ms": "deadline of a request that names none, in ms",
    "max_timeout_ms": "longest deadline; longer ones are cut to it, in ms",
    "queue": "length of the queue",
    "slots": "requests that are decoded in one batch, at most",
    "sessions": "largest number of sessions; 0: none",
    "session_tokens": "longest dialogue, in tokens",
    "session_idle_ms": "time after which an idle session is deleted, in ms",
    "corrections": "most corrections that are kept; 0: none",
}


def info_schema() -> Schema:
    """Return the schema of ``info``."""
    model = members(
        {
            "name": STRING,
            "id": described(STRING, "name, scheme and hash; `model` in answers"),
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "scheme": described(STRING, "how the weights are stored"),
            "max_model_len": described(COUNT, "tokens of prompt and answer together"),
        }
    )
    limits = members({name: described(COUNT, text) for name, text in _LIMITS.items()})
    schema = members(
        {
            "v": VERSION,
            "node": NODE,
            "operations": {"type": "array", "items": STRING, "examples": [list(OPERATIONS)]},
            "edged": described(STRING, "version of the program"),
            "model": model,
            "limits": limits,
            "group": described(nullable(STRING), "name of the node's group"),
            "specialists": {
                "type": "array",
                "items": _specialist(),
                "description": "what requests may name; with `error`, why one does not serve",
            },
            "formats": {
                "type": "array",
                "items": STRING,
                "examples": [[str(kind) for kind in FormatType]],
            },
            "identity": described(
                {"enum": list(IDENTITIES)}, "`required`: only accounts of the broker are answered"
            ),
            "insecure_broker": described(
                BOOLEAN, "the broker is on another machine and asks for no user name"
            ),
        }
    )
    return document("info", "info", "Description of the node; retained.", schema)


def _specialist() -> Schema:
    share: Schema = {"type": "number", "minimum": 0, "maximum": 1}
    labels: Schema = {"type": "array", "items": nullable(STRING)}
    properties: dict[str, Schema] = {
        "name": STRING,
        "error": described(STRING, "why it does not serve"),
        "kind": {"enum": [*(str(kind) for kind in AnswerKind), "json", "text"]},
        "labels": described(labels, "null is none of the others"),
        "fields": {"type": "object", "additionalProperties": labels},
        "minimum": {"type": "number"},
        "maximum": {"type": "number"},
        "accuracy": described(share, "on examples that taught and chose nothing"),
        "size_bytes": described(COUNT, "of its arrays in memory"),
    }
    return members(properties, optional=tuple(properties)[1:])


def event_schema() -> Schema:
    """Return the schema of events: one alternative for each kind."""
    kinds = [
        {
            "title": kind.kind,
            "description": plain(kind.__doc__ or ""),
            "properties": {"event": {"const": kind.kind}, **fields_of(kind)},
            "required": list(fields_of(kind)),
        }
        for kind in Event.__subclasses__()
    ]
    schema = members({"v": VERSION, "node": NODE, "event": {"type": "string"}})
    schema["oneOf"] = kinds
    text = "Events for operators; never text of a prompt or an answer."
    return document("event", "event", text, schema)
