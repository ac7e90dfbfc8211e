"""JSON Schema of replies and stream fragments."""

from edged.errors import ErrorCode
from edged.protocol.keys import ID_PATTERN
from edged.protocol.request import Answer, EnergySource, FinishReason, SessionState
from edged.protocol.wire import PROTOCOL_VERSION
from scripts.specification.parts import (
    BOOLEAN,
    COUNT,
    NUMBER,
    STRING,
    Schema,
    described,
    docs_of,
    document,
    members,
    nullable,
)

VERSION: Schema = {"const": PROTOCOL_VERSION, "description": "version of the protocol"}
NODE: Schema = described({"type": "string", "pattern": "^[a-z0-9-]{1,32}$"}, "name of the node")
_DETAIL = {
    "predicted_ms": described(COUNT, "timeout: predicted duration of the complete answer"),
    "max_tokens": described(COUNT, "timeout, or queue_full for a share: how many tokens would fit"),
    "prompt_tokens": described(COUNT, "prompt_too_long: tokens of the prompt"),
    "max_model_len": described(COUNT, "prompt_too_long: context of the model, in tokens"),
    "missing_bytes": described(COUNT, "memory_pressure: how much memory is missing"),
}


def reply_schema() -> Schema:
    """Return the schema of a terminal reply."""
    properties: dict[str, Schema] = {
        "v": VERSION,
        "id": described({"type": ["string", "null"]}, "`id` of the request"),
        "node": NODE,
        "status": {"enum": ["ok", "error"]},
        "data": described({"type": "object"}, "empty when `status` is `error`"),
        "error": _error(),
        "usage": _usage(),
        "timing": _timing(),
        "model": described(STRING, "name and hash of the model"),
        "session": _session(),
        "attempt": described(
            {"type": "integer", "minimum": 1}, "number of times this request was started"
        ),
        "duplicate": described(BOOLEAN, "whether this repeats an earlier reply"),
    }
    optional = ("error", "usage", "timing", "model", "session")
    schema = members(properties, optional=optional)
    schema["oneOf"] = [_answer(), _cancelled(), _corrected(), _refused()]
    text = (
        "The one terminal reply of a request: an answer, the outcome of another one, or an error."
    )
    return document("reply", "reply", text, schema)


def fragment_schema() -> Schema:
    """Return the schema of one fragment of a streamed answer."""
    properties = {
        "id": described({"type": "string", "pattern": f"^{ID_PATTERN}$"}, "`id` of the request"),
        "seq": described(COUNT, "counts from 0 without gaps"),
        "delta": described(
            STRING, "text of complete characters; may be empty in the last fragment"
        ),
        "done": described(BOOLEAN, "true in the last fragment"),
    }
    text = "A fragment of a streamed answer, QoS 0; the complete reply always follows."
    return document("fragment", "stream fragment", text, members(properties))


def _answer() -> Schema:
    docs = docs_of(Answer)
    reasons = docs_of(FinishReason)
    meanings = "; ".join(f"`{r}`: {reasons[r.name].rstrip('.')}" for r in FinishReason)
    data = members(
        {
            "text": described(STRING, "the answer; empty for a choice that was cut"),
            "json": {"description": docs["json"]},
            "choice": described(nullable(COUNT), docs["choice"]),
            **_decision(),
            "answers": _answers(),
            "finish_reason": described({"enum": [str(r) for r in FinishReason]}, meanings),
        },
        optional=("choice", *_decision(), "answers"),
    )
    # A client that acts on the text does nothing if the choice was cut.
    is_cut = {"properties": {"choice": {"type": "null"}}, "required": ["choice"]}
    data |= {"if": is_cut, "then": {"properties": {"text": {"const": ""}}}}
    properties: Schema = {"status": {"const": "ok"}, "data": data, "error": False}
    required = ["usage", "timing", "model"]
    return {"title": "answer", "properties": properties, "required": required}


def _decision() -> dict[str, Schema]:
    """Return what only decisions have."""
    share: Schema = {"type": "number", "minimum": 0, "maximum": 1}
    shares: Schema = {"type": "array", "items": share}
    guess = members(
        {"text": described(STRING, "a label"), "probability": described(share, "of this label")}
    )
    return {
        "specialist": described(
            nullable(STRING), "who answered; null: nobody fits, or the plain model wrote the text"
        ),
        "escalated_from": described(nullable(STRING), "the specialist that was unsure"),
        "escalated_to": described(STRING, "the other node, or group, that answered"),
        "specialists": described(
            {"type": "object", "additionalProperties": share},
            "`specialist: auto`: how probable it is that each one fits",
        ),
        "probabilities": described(
            {"type": ["array", "object"], "items": share, "additionalProperties": shares},
            "of the labels or options, in their order; of fields by field",
        ),
        "confidence": described(share, "probability that the whole answer is right"),
        "calibrated": described(
            BOOLEAN, "false: the probabilities compare the options, and promise no more"
        ),
        "interval": described(
            {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
            "of a number: nine of ten right ones are inside",
        ),
        "guesses": described({"type": "array", "items": guess}, "`unsure`: the most probable"),
    }


def _answers() -> Schema:
    """Return what is said of several questions."""
    docs, reasons = docs_of(Answer), (FinishReason.STOP, FinishReason.UNSURE, FinishReason.DEADLINE)
    properties: dict[str, Schema] = {
        "text": described(STRING, "the option or label, or the JSON text"),
        "json": {"description": docs["json"]},
        "choice": described(COUNT, docs["choice"]),
        **_decision(),
        "finish_reason": described(
            {"enum": [str(reason) for reason in reasons]},
            "`deadline`: there was no time for it, and nothing else stands here",
        ),
    }
    answer = members(
        properties, optional=tuple(name for name in properties if name != "finish_reason")
    )
    schema: Schema = {"type": "object", "additionalProperties": answer}
    return described(schema, "`questions`: a decision each, by name")


def _cancelled() -> Schema:
    found = described(BOOLEAN, "whether there was something to cancel")
    return _outcome("cancel", members({"found": found}))


def _corrected() -> Schema:
    kept = described({"const": True}, "it is on the disk")
    count = described({"type": "integer", "minimum": 1}, "corrections kept now")
    return _outcome("correct", members({"kept": kept, "count": count}))


def _outcome(title: str, data: Schema) -> Schema:
    """Return the schema of a reply to what starts no answer."""
    return {"title": title, "properties": {"status": {"const": "ok"}, "data": data}} | {
        "not": {"anyOf": [{"required": [name]} for name in ("error", "usage", "timing", "model")]}
    }


def _refused() -> Schema:
    properties: Schema = {
        "status": {"const": "error"},
        "data": {"maxProperties": 0},
        "model": False,
    }
    return {"title": "error", "properties": properties, "required": ["error"]}


def _error() -> Schema:
    properties: dict[str, Schema] = {
        "code": {"enum": [str(code) for code in ErrorCode]},
        "status": {"enum": sorted({code.status for code in ErrorCode})},
        "message": described(STRING, "for people; begins with the wrong key"),
        "retryable": described(BOOLEAN, "whether the same request may succeed later"),
        "retry_after_ms": described(COUNT, "estimate of the node, in ms"),
        **_DETAIL,
    }
    schema = members(properties, optional=("retry_after_ms", *_DETAIL))
    schema["oneOf"] = [
        {
            "properties": {
                "code": {"const": str(code)},
                "status": {"const": code.status},
                "retryable": {"const": code.is_retryable},
            }
        }
        for code in ErrorCode
    ]
    return schema


def _usage() -> Schema:
    cached = "tokens of the prompt that were in the cache"
    return members(
        {
            "prompt_tokens": described(COUNT, "tokens of the prompt"),
            "cached_tokens": described(COUNT, cached),
            "completion_tokens": described(COUNT, "tokens of the answer"),
            "energy_j": described(NUMBER, "energy of the request, in J"),
            "energy_source": described(
                {"enum": [source.value for source in EnergySource]},
                "`rapl`: measured; `model`: computed from declared watts",
            ),
        },
        optional=("energy_j", "energy_source"),
    )


def _timing() -> Schema:
    meanings = {
        "queued_ms": "from arrival to start, in ms",
        "prefill_ms": "from start to the first token, in ms",
        "ttft_ms": "from arrival to the first token, in ms",
        "decode_ms": "from the first token to the end, in ms",
        "total_ms": "from arrival to the end, in ms",
    }
    return members({name: described(COUNT, text) for name, text in meanings.items()})


def _session() -> Schema:
    docs = docs_of(SessionState)
    return members(
        {
            "id": described(STRING, "name of the session"),
            "turns": described({"type": "integer", "minimum": 1}, docs["num_turns"]),
            "forgotten": described(COUNT, docs["num_forgotten"]),
        }
    )
