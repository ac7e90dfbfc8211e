"""A model that needs seconds for its longest answer, and a request for such an answer.

What must be sent, stopped or cancelled while an answer is being written has these seconds for it,
also on a machine that is busy with other things. An answer of a few tokens is there at once.
"""

from typing import Any

from tests.tiny_graphs import TinyConfig

SLOW = TinyConfig(num_layers=8, hidden=256, intermediate=256, max_model_len=3200)
_TEXTS = {"type": "string", "minLength": 64, "maxLength": 64}
# Nearly every token is a choice of the model, and none ends it.
ENDLESS: dict[str, Any] = {
    "type": "json_schema",
    "schema": {"type": "array", "items": _TEXTS, "minItems": 10_000},
}
LONGEST: dict[str, Any] = {
    "prompt": "x",
    "max_tokens": SLOW.max_model_len,
    "on_deadline": "shorten",
    "timeout_ms": 300_000,
    "format": ENDLESS,
}
