"""JSON Schema of ``state``: the load, memory, speed and counters of a node.

Rule: who adds a member to ``state`` adds its line here; a test holds a running node against this.
"""

from edged.node.metrics import Count
from scripts.specification.pieces import (
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
from scripts.specification.replies import NODE, VERSION

_COUNTS: Schema = {"type": "object", "additionalProperties": COUNT}
_MAYBE = nullable(NUMBER)
_SHARE = nullable(NUMBER | {"maximum": 1})
_LOAD = {
    "state": ({"enum": ["ready", "degraded", "stopping"]}, "`degraded`: memory is short"),
    "queue": (COUNT, "requests that wait"),
    "running": (COUNT, "requests that are being answered"),
    "slots": (COUNT, "requests that can be answered at the same time"),
    "sessions": (COUNT, "sessions that are held"),
    "group": (nullable(STRING), "`joining`, `joined` or `refused`; null without a group"),
    "broker_error": (nullable(STRING), "why there is no broker; null with one, so on the wire"),
}
_MEMORY = {
    "rss_bytes": (COUNT, "memory of the process"),
    "available_bytes": (COUNT, "memory the device has left"),
    "budget_bytes": (COUNT, "memory the process may take"),
    "budget_enforced": (BOOLEAN, "whether the kernel holds it to that"),
    "pressure": (STRING, "what is given up because memory is short"),
    "ledger": (_COUNTS, "bytes of each account of the budget"),
    "planned_bytes": (COUNT, "all accounts together"),
    "unplanned_bytes": ({"type": "integer"}, "memory of the process above that; negative below"),
    "pss_bytes": (nullable(COUNT), "memory of the process, with its part of what it shares"),
    "uss_bytes": (nullable(COUNT), "memory of the process that it shares with nobody"),
    "memory_stall": (_SHARE, "share of the last 10 s in which something waited for memory (PSI)"),
}
_DEVICE = {
    "temperature_c": (nullable({"type": "number"}), "hottest thermal zone, in degrees Celsius"),
    "throttled": (_SHARE, "how far the kernel slows the processors down for their heat, 0 to 1"),
    "frequency_hz": (_MAYBE, "of the processors, mean"),
    "max_frequency_hz": (_MAYBE, "the highest they are built for"),
    "battery": (_SHARE, "charge, 0 to 1; null without a battery"),
    "on_mains": (nullable(BOOLEAN), "whether the device runs on mains; null when it does not tell"),
    "under_voltage": (nullable(BOOLEAN), "whether a Raspberry Pi's power supply is too weak now"),
}
_SPEED = {
    "refused_by_code": (_COUNTS, "`refused` by the code of the error"),
    "dropped_by_reason": (_COUNTS, "`dropped` by the reason"),
    "ttft_p50_s": (_MAYBE, "time to the first token, in s: median of the latest requests"),
    "ttft_p95_s": (_MAYBE, "the same: 95th percentile"),
    "decode_tok_s": (_MAYBE, "tokens of answers per s: median of the latest requests"),
    "energy_j": (_MAYBE, "energy of all requests, in J; null when the device does not tell"),
    "prediction_error_p50": (_MAYBE, "relative error of predicted times: median"),
    "prediction_error_p95": (_MAYBE, "the same: 95th percentile"),
    "expected_prefill_tok_s": (NUMBER, "tokens of prompts per s that deadlines are judged by"),
    "expected_decode_tok_s": (NUMBER, "tokens of answers per s that deadlines are judged by"),
    "uptime_s": (COUNT, "since the start, in s"),
}


def state_schema() -> Schema:
    """Return the schema of the retained load, memory, speed and counters of a node."""
    docs = docs_of(Count)
    counters = {str(what): (COUNT, docs[what.name]) for what in Count}
    rows: dict[str, tuple[Schema, str]] = {**_LOAD, **_MEMORY, **_DEVICE, **counters, **_SPEED}
    properties = {name: described(schema, text) for name, (schema, text) in rows.items()}
    schema = members({"v": VERSION, "node": NODE, **properties})
    return document("state", "state", "How the node is; retained.", schema)
