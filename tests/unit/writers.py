"""Specialists that write, as a folder would have them."""

import json
from dataclasses import replace
from typing import Any

from edged.specialists.adapter import AdaptedModel, Adapter
from edged.specialists.demanded import Demands
from edged.specialists.folder import Result
from edged.specialists.writer import Writer, WriterDescription

BASE = AdaptedModel("0" * 64, "1" * 64, "int8-w8a8/static/int8")
TOOLS = json.dumps([{"type": "function", "function": {"name": "stop"}}])
RESULT = Result(0.9, 0.8, 0.95, 0.02, 40, 0.95, 0.8, 0.97, None)
DESCRIPTION = WriterDescription(
    1,
    "rooms",
    BASE,
    "Answer.",
    TOOLS,
    is_list=False,
    has_text=False,
    grounded=(),
    demands=Demands(),
    slope=1.5,
    shift=2.0,
    unsure_below=0.7,
    result=RESULT,
    adapter_sha256="",
    mean_kl=0.005,
)


def writer(schema: object = "", **changes: Any) -> Writer:  # noqa: ANN401
    """Return a writer of a schema, or of texts, whose adapter is empty."""
    said = replace(DESCRIPTION, schema=json.dumps(schema) if schema else "", **changes)
    return Writer(said, said.wording, Adapter("key", {}))
