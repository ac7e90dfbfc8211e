"""The goals of edged, and whether they are met.

They are for one model on one kind of machine: SmolLM2-135M on two x86-64 cores with AVX512-VNNI,
relative to engines measured in the same run.

Rule: a goal without a figure in the document is shown as not measured.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edged.commands.bench.figures import ABSENT, Document
from edged.commands.bench.turns import concurrent_name

_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure, or one divided by another, with its limit."""

    title: str
    path: str
    """Keys in the document, separated by slashes."""
    limit: float
    is_least: bool = True
    """Whether more is better."""
    scale: float = 1.0
    unit: str = ""
    divisor: str | None = None
    """Path of the divisor."""

    def value(self, document: Document) -> float | None:
        """Return the measured value in the goal's unit."""
        value = _look_up(document, self.path)
        if self.divisor is None:
            return None if value is None else value * self.scale
        divisor = _look_up(document, self.divisor)
        return None if value is None or not divisor else value / divisor

    def is_met(self, value: float) -> bool:
        """Return whether a value meets the goal."""
        return value >= self.limit if self.is_least else value <= self.limit


_EDGED = "engines/edged"
GOALS = (
    Goal("decode, ÷ llama.cpp", "ratios/llama.cpp/decode_tok_s", 1.8, unit=" x"),
    Goal("decode, ÷ OpenVINO", "ratios/openvino/decode_tok_s", 1.6, unit=" x"),
    Goal("roofline of decode", "roofline", 0.75),
    Goal("prefill of 512, ÷ llama.cpp", "ratios/llama.cpp/prefill_512_tok_s", 5, unit=" x"),
    Goal("prefill of 512, ÷ OpenVINO", "ratios/openvino/prefill_512_tok_s", 1.5, unit=" x"),
    Goal("first token, ÷ llama.cpp", "ratios/llama.cpp/ttft_s", 0.20, is_least=False, unit=" x"),
    Goal(
        "first token, prompt cached",
        f"{_EDGED}/ttft_cached_s",
        12,
        is_least=False,
        scale=1000,
        unit=" ms",
    ),
    Goal("the same, ÷ OpenVINO", "ratios/openvino/ttft_cached_s", 0.5, is_least=False, unit=" x"),
    Goal(
        *("4 concurrent, ÷ one", f"{_EDGED}/{concurrent_name(4)}", 2.5),
        unit=" x",
        divisor=f"{_EDGED}/{concurrent_name(1)}",
    ),
    Goal("4 concurrent, ÷ llama.cpp", f"ratios/llama.cpp/{concurrent_name(4)}", 3, unit=" x"),
    Goal("daemon's RSS", "daemon/rss_bytes", 240, is_least=False, scale=1e-6, unit=" MB"),
    Goal(
        "of which private dirty",
        "daemon/private_dirty_bytes",
        100,
        is_least=False,
        scale=1e-6,
        unit=" MB",
    ),
    Goal("daemon's start to READY", "daemon/ready_s", 1.5, is_least=False, unit=" s"),
    Goal(
        "daemon's CPU when idle",
        "daemon/idle_cpu_share",
        0.5,
        is_least=False,
        scale=100,
        unit=" % of a core",
    ),
    Goal(
        *("decode at 1,984, ÷ at 64", f"{_EDGED}/decode_1984_tok_s", 0.7),
        unit=" x",
        divisor=f"{_EDGED}/decode_tok_s",
    ),
)


def goal_rows(document: Document) -> Iterator[list[str]]:
    """Yield title, goal, measured value and verdict; nothing for another model."""
    if not document["model"]["id"].startswith(_MODEL):
        return
    for goal in GOALS:
        value = goal.value(document)
        sign = "≥" if goal.is_least else "≤"
        wanted = f"{sign} {goal.limit:g}{goal.unit}"
        if value is None:
            yield [goal.title, wanted, ABSENT, "not measured"]
        else:
            verdict = "met" if goal.is_met(value) else "missed"
            yield [goal.title, wanted, f"{value:.3g}{goal.unit}", verdict]


def _look_up(document: Document, path: str) -> float | None:
    found: Any = document
    for key in path.split("/"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, int | float) else None
