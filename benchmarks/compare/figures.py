"""From samples to the document of a comparison: medians, ratios, roofline.

Rule: pure; table, plot and page use only the document.
"""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.compare.engines import EDGED
from edged.commands.bench.figures import Document, Samples, medians

Medians = Mapping[str, float | None]


def document(
    samples: Mapping[str, Samples], bandwidths: Sequence[float], weight_bytes: int
) -> Document:
    """Return the figures; ``docs/performance.md`` defines them.

    Args:
        samples: By engine and figure, one value per run.
        bandwidths: Bytes/s, one before the first and one after each run.
        weight_bytes: Bytes of weights that edged reads per token.
    """
    engines = {name: medians(values) for name, values in samples.items()}
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


def ratios(engines: Mapping[str, Medians]) -> dict[str, dict[str, float]]:
    """Return edged's figures divided by those of each other engine, where both exist."""
    ours = engines[EDGED]
    return {name: _ratios(ours, other) for name, other in engines.items() if name != EDGED}


def _ratios(ours: Medians, theirs: Medians) -> dict[str, float]:
    found = {}
    for name, value in ours.items():
        other = theirs.get(name)
        if value is not None and other:
            found[name] = value / other
    return found
