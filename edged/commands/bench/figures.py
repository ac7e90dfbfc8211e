"""From samples to figures: medians, ratios, the roofline, and the document that holds them.

Rule: pure; every reader of the document (table, plot, page) works from it alone.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from edged.commands.bench.adapters import EDGED
from edged.commands.bench.plan import CONCURRENCY, concurrent_name
from edged.commands.bench.turns import Samples

Document = dict[str, Any]

_MEMORY = ("rss_bytes", "pss_bytes", "private_dirty_bytes")


def median(values: Sequence[float | None]) -> float | None:
    """Return the median, or None when a value is missing: not offered in one run is not offered."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present and len(present) == len(values) else None


def summarize(samples: Samples) -> dict[str, Any]:
    """Return an engine's medians in the shape of the document."""
    flat = {name: median(values) for name, values in samples.items()}
    together = {str(count): flat.pop(concurrent_name(count), None) for count in CONCURRENCY}
    after_load = {name: flat.pop(f"loaded_{name}", None) for name in _MEMORY}
    return {**flat, "concurrent": together, "after_load": after_load}


def ratios(engines: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return edged's figures divided by each other engine's, where both have one."""
    ours = engines[EDGED]
    return {name: _ratio(ours, other) for name, other in engines.items() if name != EDGED}


def _ratio(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in ours.items():
        other = theirs.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            found[name] = _ratio(value, other)
        elif value is not None and other:
            found[name] = value / other
    return found


def document(
    samples: Mapping[str, Samples], bandwidths: Sequence[float], weight_bytes: int
) -> Document:
    """Return the figures; see ``docs/performance.md`` for what each of them is.

    Args:
        samples: by engine and figure, one value a run.
        bandwidths: bytes/s, one a run.
        weight_bytes: what edged reads for one token.
    """
    engines = {name: summarize(values) for name, values in samples.items()}
    bandwidth = statistics.median(bandwidths)
    decode_tok_s = engines[EDGED].get("decode_tok_s")
    return {
        "engines": engines,
        "ratios": ratios(engines),
        "roofline": None if decode_tok_s is None else weight_bytes * decode_tok_s / bandwidth,
        "read_bandwidth_bytes_s": bandwidth,
        "weight_bytes_per_token": weight_bytes,
        "samples": {**samples, "read_bandwidth_bytes_s": list(bandwidths)},
    }
