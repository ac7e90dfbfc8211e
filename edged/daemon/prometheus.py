"""The figures of ``state`` in Prometheus' text format, for node_exporter's textfile collector.

Rule: each metric is declared once below, in base units and with the names that Prometheus asks for;
what is not declared is not exported.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edged.errors import ErrorCode
from edged.node.pressure import PressureLevel
from edged.protocol.wire import DropReason

PREFIX = "edged_"


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric, a counter if its name ends so, and else a gauge."""

    name: str
    """Without the prefix."""
    key: str
    """In ``state``."""
    help: str
    label: str = ""
    """Of the parts, where ``state`` has a figure in parts."""


FIGURES = (
    Figure("queue_requests", "queue", "Requests in the queue."),
    Figure("running_requests", "running", "Requests that are being answered."),
    Figure("slots", "slots", "Requests that can be answered at the same time."),
    Figure("sessions", "sessions", "Dialogues in memory."),
    Figure("resident_bytes", "rss_bytes", "Resident memory of the process."),
    Figure("proportional_bytes", "pss_bytes", "Its memory, with its part of shared pages."),
    Figure("unique_bytes", "uss_bytes", "Its memory without shared pages."),
    Figure("memory_stall_ratio", "memory_stall", "Share of 10 s in which a process waited for it."),
    Figure("available_bytes", "available_bytes", "Memory the device has left."),
    Figure("budget_bytes", "budget_bytes", "Memory the process may take."),
    Figure("budget_enforced", "budget_enforced", "1 when the kernel enforces the budget, too."),
    Figure("planned_bytes", "planned_bytes", "Memory that is reserved in the ledger."),
    Figure("unplanned_bytes", "unplanned_bytes", "Resident memory above the ledger's."),
    Figure("served_total", "served", "Requests answered, whole or in part."),
    Figure("expired_total", "expired", "Requests whose deadline passed before their first token."),
    Figure("cancelled_total", "cancelled", "Requests ended by a cancel."),
    Figure("paused_total", "paused", "Answers interrupted for a more urgent one."),
    Figure("decided_total", "decided", "Decisions that specialists were asked for."),
    Figure("unsure_total", "unsure", "Of them, those that are unsure."),
    Figure("escalated_total", "escalated", "Of them, those that another one answered."),
    Figure("unsure_ratio", "unsure_share", "Share of unsure answers since the start."),
    Figure("corrections_total", "corrections", "Corrections of specialists that were kept."),
    Figure("corrections_compared_total", "corrections_compared", "Those of answers remembered."),
    Figure("corrections_agreed_total", "corrections_agreed", "Of these, the same answer."),
    Figure("agreement_ratio", "agreement_share", "Share of compared corrections that agree."),
    Figure("duplicates_total", "duplicates", "Deliveries answered with an earlier reply."),
    Figure("undelivered_total", "undelivered", "Replies that the broker did not take."),
    Figure("ignored_keys_total", "ignored_keys", "Unknown keys in requests."),
    Figure("connects_total", "connects", "Connections made to the broker."),
    Figure("lost_sessions_total", "lost_sessions", "Reconnects without the session before."),
    Figure("taken_over_total", "taken_over", "Connections lost to another client."),
    Figure("closed_soon_total", "closed_soon", "Connections that the broker soon closed again."),
    Figure("stale_acks_total", "stale_acks", "Acknowledgements whose connection was gone."),
    Figure("events_total", "events", "Events sent."),
    Figure("events_suppressed_total", "events_suppressed", "Events that were too many to send."),
    Figure("ttft_p50_seconds", "ttft_p50_s", "Time to the first token, median of the latest."),
    Figure("ttft_p95_seconds", "ttft_p95_s", "Time to the first token, 95th percentile."),
    Figure("decode_tokens_per_second", "decode_tok_s", "Measured speed of answers, median."),
    Figure("expected_prefill_tokens_per_second", "expected_prefill_tok_s", "As admission expects."),
    Figure("expected_decode_tokens_per_second", "expected_decode_tok_s", "As admission expects."),
    Figure("prediction_error_p50_ratio", "prediction_error_p50", "Relative error of predictions."),
    Figure("prediction_error_p95_ratio", "prediction_error_p95", "The same, 95th percentile."),
    Figure("temperature_celsius", "temperature_c", "The hottest thermal zone."),
    Figure("throttled_ratio", "throttled", "How far the processors are slowed down for heat."),
    Figure("frequency_hertz", "frequency_hz", "Mean frequency of the processors."),
    Figure("max_frequency_hertz", "max_frequency_hz", "Their highest frequency."),
    Figure("battery_ratio", "battery", "Charge of the battery."),
    Figure("on_mains", "on_mains", "1 when the device is on mains power."),
    Figure("under_voltage", "under_voltage", "1 when its power supply is too weak now."),
    Figure("energy_joules_total", "energy_j", "Energy of all answers, as far as it is known."),
    Figure("uptime_seconds", "uptime_s", "Time since the process was ready."),
    Figure("refused_total", "refused_by_code", "Requests refused, by code.", "code"),
    Figure("dropped_total", "dropped_by_reason", "Deliveries without a reply.", "reason"),
    Figure("ledger_bytes", "ledger", "Memory reserved, by account.", "account"),
    Figure("pressure_rung", "pressure", "Level of memory pressure, from 0 for none."),
)
INFO = Figure("info", "", "The node and its model.")
# Parts that are there from the start on: a rate needs a first value.
_COUNTED: Mapping[str, Sequence[str]] = {
    # No file is written before the model is loaded.
    "refused_by_code": [code for code in ErrorCode if code is not ErrorCode.LOADING],
    "dropped_by_reason": list(DropReason),
}


def exposition(state: Mapping[str, Any], node: str, model_id: str) -> str:
    """Write ``state`` in Prometheus' text format; what is unknown is left out."""
    counted = {
        key: dict.fromkeys(map(str, parts), 0) | state.get(key, {})
        for key, parts in _COUNTED.items()
    }
    level = PressureLevel.__members__.get(str(state.get("pressure")).upper())
    values = {"ledger": {}, **state, **counted, "pressure": level}
    lines = list(_family(INFO, [({"node": node, "model": model_id}, 1)]))
    for figure in FIGURES:
        value = values.get(figure.key)
        if figure.label:
            parts = values[figure.key].items()
            lines += _family(figure, [({figure.label: part}, size) for part, size in parts])
        elif value is not None:
            lines += _family(figure, [({}, value)])
    return "\n".join(lines) + "\n"


def _family(figure: Figure, samples: list[tuple[dict[str, str], float]]) -> Iterator[str]:
    name = PREFIX + figure.name
    yield f"# HELP {name} {figure.help}"
    yield f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
    for labels, value in samples:
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{name}{{{pairs}}} {float(value)!r}" if pairs else f"{name} {float(value)!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
