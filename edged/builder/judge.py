"""Hold a comparison against its limits, and show it.

Rule: the limits are the recipe's or the scheme's own; nothing here is lenient for a family. A text
of other kinds than prompts and answers may be half as far off again, and must not be further.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from edged.builder.gate import TOKENS_MIN
from edged.builder.measure import Comparison
from edged.bundle.manifest import Quality, QualityFigures, QualityLimits

GATE_TEXT = "gate"
"""What a manifest calls the gate's own text."""
_UNSEEN_FACTOR = 1.5

_FIGURES = {
    "mean_kl": ".4f",
    "p99_kl": ".4f",
    "perplexity": ".3f",
    "reference_perplexity": ".3f",
    "perplexity_ratio": ".4f",
    "argmax_agreement": ".4f",
    "tokens": "d",
}
"""Every figure and how it is printed."""


def judge(
    result: Comparison, limits: QualityLimits, text: str, unseen: Comparison | None = None
) -> Quality:
    """Hold a comparison against limits; the gate's text must also be long enough.

    Args:
        result: on ``text``.
        limits: for it.
        text: its name.
        unseen: the comparison on the second text; it has limits of its own.
    """
    kept = None if unseen is None else QualityFigures(limits=relaxed(limits), **asdict(unseen))
    rows = [*_rows(result, limits, text)]
    if kept is not None:
        rows += _rows(kept, kept.limits, "")
    passed = all(row.is_met for row in rows)
    return Quality(limits=limits, passed=passed, text=text, unseen=kept, **asdict(result))


def relaxed(limits: QualityLimits) -> QualityLimits:
    """Return the limits for the second text: half as far again from a perfect result."""
    return QualityLimits(
        mean_kl=_UNSEEN_FACTOR * limits.mean_kl,
        perplexity_ratio=1.0 + _UNSEEN_FACTOR * (limits.perplexity_ratio - 1.0),
        argmax_agreement=1.0 - _UNSEEN_FACTOR * (1.0 - limits.argmax_agreement),
    )


def figures(quality: Quality) -> dict[str, float]:
    """Return what was measured, by name."""
    return {name: getattr(quality, name) for name in _FIGURES}


def table(quality: Quality) -> str:
    """Write a quality entry as lines: metric, value, limit, pass or MISS."""
    lines = [f"{'metric':<22}{'value':>10}  {'limit':<9}"]
    lines += _lines(quality, quality.limits, quality.text)
    if quality.unseen is not None:
        lines += ["on another text", *_lines(quality.unseen, quality.unseen.limits, "")]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Row:
    """One figure with a limit."""

    metric: str
    sign: str
    limit: float
    is_met: bool


Measured = Comparison | QualityFigures


def _lines(measured: Measured, limits: QualityLimits, text: str) -> Iterator[str]:
    rows = {row.metric: row for row in _rows(measured, limits, text)}
    for name, form in _FIGURES.items():
        line = f"{name:<22}{getattr(measured, name):>10{form}}"
        if row := rows.get(name):
            bound = f"{row.sign} {row.limit:{form}}"
            line += f"  {bound:<9} {'pass' if row.is_met else 'MISS'}"
        yield line


def _rows(measured: Measured, limits: QualityLimits, text: str) -> list[_Row]:
    rows = [
        _Row(name, "≤", limit, getattr(measured, name) <= limit)
        for name, limit in (
            ("mean_kl", limits.mean_kl),
            ("perplexity_ratio", limits.perplexity_ratio),
        )
    ]
    agreed = measured.argmax_agreement >= limits.argmax_agreement
    rows.append(_Row("argmax_agreement", "≥", limits.argmax_agreement, agreed))
    if text == GATE_TEXT:
        rows.append(_Row("tokens", "≥", TOKENS_MIN, measured.tokens >= TOKENS_MIN))
    return rows
