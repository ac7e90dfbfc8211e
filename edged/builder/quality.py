"""Check measured quality against the limits, and print it as a table.

Rule: the limits are the recipe's, for every family alike. The second text, which holds other kinds
of text than prompts and answers, has limits 1.5 times as wide, and what chance does to perplexity.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from edged.builder.gate import TOKENS_MIN
from edged.bundle.manifest import Quality, QualityFigures, QualityLimits, UnseenQuality

# The gate's texts, in a manifest.
GATE_TEXT = "gate"
UNSEEN_TEXT = "unseen"
_UNSEEN_FACTOR = 1.5
# Of what chance does to a perplexity, so many standard errors are allowed.
_ERRORS = 2.0

# Every figure with its format.
_FIGURES = {
    "mean_kl": ".4f",
    "p99_kl": ".4f",
    "perplexity": ".3f",
    "reference_perplexity": ".3f",
    "perplexity_ratio": ".4f",
    "argmax_agreement": ".4f",
    "tokens": "d",
}


def check_limits(
    result: QualityFigures, limits: QualityLimits, text: str, unseen: QualityFigures | None = None
) -> Quality:
    """Check a comparison against the limits; the gate's text must also be long enough.

    Args:
        result: the comparison on ``text``.
        limits: for ``text``.
        text: name of the text.
        unseen: the comparison on the second text, checked against relaxed limits.
    """
    kept = (
        None
        if unseen is None
        else UnseenQuality(limits=relaxed(limits, unseen.tokens), **asdict(unseen))
    )
    rows = [*_rows(result, limits, text)]
    if kept is not None:
        rows += _rows(kept, kept.limits, "")
    passed = all(row.is_met for row in rows)
    return Quality(limits=limits, passed=passed, text=text, unseen=kept, **asdict(result))


def relaxed(limits: QualityLimits, num_tokens: int) -> QualityLimits:
    """Return the limits for the second text: 1.5 times as far from a perfect result.

    On few tokens a ratio of perplexities is mostly chance: weights that differ by a rounding here
    and there gave 1.009 and 1.017 on 1,607 tokens, at the same KL divergence.
    """
    mean_kl = _UNSEEN_FACTOR * limits.mean_kl
    # Log probabilities that differ by a KL divergence have a variance of about twice that.
    chance = _ERRORS * math.sqrt(2 * mean_kl / max(num_tokens, 1))
    return QualityLimits(
        mean_kl=mean_kl,
        perplexity_ratio=1.0 + _UNSEEN_FACTOR * (limits.perplexity_ratio - 1.0) + chance,
        argmax_agreement=1.0 - _UNSEEN_FACTOR * (1.0 - limits.argmax_agreement),
    )


def figures(quality: Quality) -> dict[str, float]:
    """Return the measured values by name."""
    return {name: getattr(quality, name) for name in _FIGURES}


def table(quality: Quality) -> str:
    """Format a quality entry as lines: metric, value, limit, pass or MISS."""
    lines = [f"{'metric':<22}{'value':>10}  {'limit':<9}"]
    lines += _lines(quality, quality.limits, quality.text)
    if quality.unseen is not None:
        lines += ["on another text", *_lines(quality.unseen, quality.unseen.limits, "")]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Row:
    """A figure with its limit."""

    metric: str
    sign: str
    limit: float
    is_met: bool


def _lines(measured: QualityFigures, limits: QualityLimits, text: str) -> Iterator[str]:
    rows = {row.metric: row for row in _rows(measured, limits, text)}
    for name, form in _FIGURES.items():
        line = f"{name:<22}{getattr(measured, name):>10{form}}"
        if row := rows.get(name):
            bound = f"{row.sign} {row.limit:{form}}"
            line += f"  {bound:<9} {'pass' if row.is_met else 'MISS'}"
        yield line


def _rows(measured: QualityFigures, limits: QualityLimits, text: str) -> list[_Row]:
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
