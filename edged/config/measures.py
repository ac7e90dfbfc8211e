# ruff: noqa: RUF009 - the calls in the defaults make fields, not values
"""The settings of what a node measures and tells beside answering.

Rule: as in ``edged.config.keys``, whose ``Config`` holds this section.
"""

from dataclasses import dataclass
from pathlib import Path

from edged.config import kinds
from edged.config.declare import optional


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """What is measured, and written for others to collect."""

    prometheus_file: Path | None = optional(
        kinds.path(),
        "Text file with all figures, rewritten with each `state`, for node_exporter's textfile "
        "collector. Its name must end in `.prom`.",
    )
    watts_per_thread: float | None = optional(
        kinds.number(0, 1000),
        "What one busy thread draws beyond idle, in watts. Where the processor has no energy "
        "counter, `usage.energy_j` is reckoned with it and labelled `model`.",
    )
