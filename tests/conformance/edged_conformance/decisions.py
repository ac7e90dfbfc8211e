"""Rules for answers that are decided and not written.

Rule: written from ``docs/protocol.md`` only, as its second implementation.
"""

from collections.abc import Sequence
from typing import Any

from edged_conformance.matchers import MISSING, value_at

_MOST_LABELS = 512
_MOST_QUESTIONS = 32
_SHARE = {"type": "number", "range": [0, 1]}
_DECIDED = {
    "data.finish_reason": {"one_of": ["stop", "unsure", "deadline"]},
    "usage.completion_tokens": 0,
}


def decision_rules(data: object, asked_by: str, choices: Sequence[str]) -> dict[str, Any]:
    """Return the rules for a reply: path → matcher.

    Args:
        data: ``data`` of the reply.
        asked_by: ``specialist``, ``questions`` or ``probabilities``.
        choices: The options that are scored.
    """
    if asked_by == "questions":
        return _DECIDED | _questions(value_at(data, "answers"))
    has_written = value_at(data, "specialist") is None
    if asked_by == "specialist" and has_written and value_at(data, "escalated_from") is not MISSING:
        return {"data.escalated_from": {"type": "string"}}  # the plain model wrote the text
    rules = _one(data)
    if asked_by == "probabilities":
        rules |= {"calibrated": False, "probabilities": {"length": len(choices)}}
        index = value_at(data, "choice")
        is_option = isinstance(index, int) and 0 <= index < len(choices)
        rules |= {"text": choices[index]} if is_option else {}
    return _DECIDED | {f"data.{path}": rule for path, rule in rules.items()}


def _questions(answers: object) -> dict[str, Any]:
    rules: dict[str, Any] = {
        "data.answers": {"type": "object", "length": [1, _MOST_QUESTIONS]},
        "data.json": {"type": "object"},
    }
    for name, answer in (answers if isinstance(answers, dict) else {}).items():
        found = _one(answer) | {"finish_reason": {"one_of": ["stop", "unsure", "deadline"]}}
        rules |= {f"data.answers.{name}.{path}": rule for path, rule in found.items()}
    return rules


def _one(decision: object) -> dict[str, Any]:
    """Return the rules for one decision; of one label the probabilities have its index."""
    reason, index = value_at(decision, "finish_reason"), value_at(decision, "choice")
    if reason == "deadline":
        return {}
    is_nobody = value_at(decision, "specialist") is None and index is MISSING
    if is_nobody and reason == "unsure":
        return {"specialists": {"type": "object"}}  # asked for ``auto``, and none fits
    rules: dict[str, Any] = {"confidence": _SHARE}
    if index is MISSING:
        return rules | {"json": {"type": ["array", "number", "object"]}}
    probabilities = value_at(decision, "probabilities")
    count = len(probabilities) if isinstance(probabilities, list) else 0
    rules |= {f"probabilities.{place}": _SHARE for place in range(count)}
    rules["probabilities"] = {"type": "array", "length": [1, _MOST_LABELS]}
    return rules | {"choice": {"type": "integer", "range": [0, count - 1]}}
