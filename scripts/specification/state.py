"""JSON Schema of ``state``: the load, memory, speed and counters of a node.

Rule: every member of ``state`` has a line here; a test compares a running node with it.
"""

from edged.node.metrics import Count
from edged.transport.events import BrokerProblem
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
from scripts.specification.replies import NODE, VERSION

_COUNTS: Schema = {"type": "object", "additionalProperties": COUNT}
_MAYBE = nullable(NUMBER)
_SHARE = nullable(NUMBER | {"maximum": 1})
_PROBLEM = {"enum": [str(problem) for problem in BrokerProblem]}
_TRIAL = members(
    {
        "models": {"type": "array", "items": STRING},
        "status": {"enum": ["running", "passed", "failed"]},
        "reason": nullable(STRING),
    }
)
_LOAD = {
    "state": ({"enum": ["ready", "degraded", "stopping"]}, "`degraded`: memory is short"),
    "queue": (COUNT, "queued requests"),
    "running": (COUNT, "running requests"),
    "slots": (COUNT, "requests that can be decoded in one batch"),
    "sessions": (COUNT, "number of sessions"),
    "group": (nullable(STRING), "`joining`, `joined` or `refused`; null without a group"),
    "broker_error": (nullable(STRING), "why there is no connection; always null on the wire"),
    "broker_problem": (nullable(_PROBLEM), "the kind of that; always null on the wire"),
    "trial": (nullable(_TRIAL), "what is on trial, or failed it and was taken back"),
}
_MEMORY = {
    "rss_bytes": (COUNT, "memory of the process"),
    "available_bytes": (COUNT, "available memory of the device"),
    "budget_bytes": (COUNT, "memory budget of the process"),
    "budget_enforced": (BOOLEAN, "whether the kernel enforces the budget"),
    "pressure": (STRING, "pressure level: what is given up because memory is short"),
    "ledger": (_COUNTS, "bytes of each account of the budget"),
    "planned_bytes": (COUNT, "sum of all accounts"),
    "unplanned_bytes": ({"type": "integer"}, "memory of the process minus `planned_bytes`"),
    "pss_bytes": (nullable(COUNT), "memory of the process, with its share of shared pages"),
    "uss_bytes": (nullable(COUNT), "memory of the process without shared pages"),
    "memory_stall": (_SHARE, "share of the last 10 s in which a process waited for memory (PSI)"),
}
_DEVICE = {
    "temperature_c": (nullable({"type": "number"}), "hottest thermal zone, in degrees Celsius"),
    "throttled": (_SHARE, "thermal throttling of the processors by the kernel, 0 to 1"),
    "frequency_hz": (_MAYBE, "mean frequency of the processors, in Hz"),
    "max_frequency_hz": (_MAYBE, "maximum frequency of the processors, in Hz"),
    "battery": (_SHARE, "charge, 0 to 1; null without a battery"),
    "on_mains": (nullable(BOOLEAN), "whether the device runs on mains; null if unknown"),
    "under_voltage": (nullable(BOOLEAN), "whether a Raspberry Pi reports under-voltage"),
}
_SPEED = {
    "refused_by_code": (_COUNTS, "`refused` by the code of the error"),
    "dropped_by_reason": (_COUNTS, "`dropped` by the reason"),
    "unsure_share": (_SHARE, "`unsure` of `decided`; null before the first"),
    "agreement_share": (_SHARE, "`corrections_agreed` of `corrections_compared`"),
    "ttft_p50_s": (_MAYBE, "time to the first token, in s: median of the latest requests"),
    "ttft_p95_s": (_MAYBE, "the same: 95th percentile"),
    "decode_tok_s": (_MAYBE, "tokens of answers per s: median of the latest requests"),
    "energy_j": (_MAYBE, "energy of all requests, in J; null if unknown"),
    "prediction_error_p50": (_MAYBE, "relative error of predicted times: median"),
    "prediction_error_p95": (_MAYBE, "the same: 95th percentile"),
    "expected_prefill_tok_s": (NUMBER, "predicted prompt tokens per s, used for deadlines"),
    "expected_decode_tok_s": (NUMBER, "predicted answer tokens per s, used for deadlines"),
    "uptime_s": (COUNT, "since the start, in s"),
}


def state_schema() -> Schema:
    """Return the schema of ``state``."""
    docs = docs_of(Count)
    counters = {str(what): (COUNT, docs[what.name]) for what in Count}
    rows: dict[str, tuple[Schema, str]] = {**_LOAD, **_MEMORY, **_DEVICE, **counters, **_SPEED}
    properties = {name: described(schema, text) for name, (schema, text) in rows.items()}
    schema = members({"v": VERSION, "node": NODE, **properties})
    return document("state", "state", "Load, memory and counters of the node; retained.", schema)
