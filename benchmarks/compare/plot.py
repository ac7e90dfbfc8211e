"""Two diagrams as one SVG: decode by context, and by concurrent requests.

Rule: plain SVG that every browser and forge shows; no library, no script, no style sheet.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.compare.engines import EDGED
from edged.commands.bench.figures import Document, heading
from edged.commands.bench.turns import CONCURRENCY, CONTEXTS, concurrent_name, decode_name

_COLOURS = ("#0b6e4f", "#c8553d", "#3d5a80", "#8a6fa8")
_WIDTH, _HEIGHT = 880, 400
_PANEL_WIDTH, _PANEL_HEIGHT = 340, 250
_LEFT, _TOP, _GAP = 60, 80, 430
_TICKS = 4

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram with a line for each engine."""

    title: str
    x_title: str
    x_values: Sequence[int]
    lines: Mapping[str, Sequence[Point]]


def plot(document: Document) -> str:
    """Draw a document as SVG text."""
    names = sorted(document["engines"], key=lambda name: name != EDGED)
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    body = [_text(_LEFT, 28, heading(document), size=13)]
    for i, name in enumerate(names):
        x = _LEFT + 130 * i
        body.append(f'<rect x="{x}" y="40" width="12" height="12" fill="{colours[name]}"/>')
        body.append(_text(x + 18, 51, name))
    for i, panel in enumerate(_panels(document)):
        body += _draw(panel, _LEFT + i * _GAP, colours)
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" fill="#222"',
            f' viewBox="0 0 {_WIDTH} {_HEIGHT}">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
            *body,
            "</svg>\n",
        ]
    )


def _panels(document: Document) -> Iterator[Panel]:
    engines = document["engines"]
    names = [decode_name(context) for context in CONTEXTS]
    yield Panel(
        "Decode by context",
        "tokens in the context",
        CONTEXTS,
        {engine: _points(CONTEXTS, names, figures) for engine, figures in engines.items()},
    )
    counts = [concurrent_name(count) for count in CONCURRENCY]
    yield Panel(
        "Decode by concurrency",
        "concurrent requests",
        CONCURRENCY,
        {engine: _points(CONCURRENCY, counts, figures) for engine, figures in engines.items()},
    )


def _points(
    x_values: Sequence[int], names: Sequence[str], figures: Mapping[str, Any]
) -> list[Point]:
    pairs = [(x, figures.get(name)) for x, name in zip(x_values, names, strict=True)]
    return [(x, y) for x, y in pairs if y is not None]


def _draw(panel: Panel, left: int, colours: Mapping[str, str]) -> Iterator[str]:
    bottom = _TOP + _PANEL_HEIGHT
    x_max = panel.x_values[-1]
    y_max = _round_up(max((y for line in panel.lines.values() for _, y in line), default=1.0))
    yield _text(left, _TOP - 10, f"{panel.title}, tok/s", size=13)
    for tick in range(_TICKS + 1):
        y = bottom - _PANEL_HEIGHT * tick / _TICKS
        yield (
            f'<line x1="{left}" y1="{y:.1f}" x2="{left + _PANEL_WIDTH}" y2="{y:.1f}"'
            ' stroke="#ddd"/>'
        )
        yield _text(left - 8, y + 4, f"{y_max * tick / _TICKS:g}", anchor="end")
    for x_value in panel.x_values:
        x = left + _PANEL_WIDTH * x_value / x_max
        yield _text(x, bottom + 18, f"{x_value:,}", anchor="middle")
    yield _text(left + _PANEL_WIDTH / 2, bottom + 40, panel.x_title, anchor="middle")
    for engine, line in panel.lines.items():
        places = [
            (left + _PANEL_WIDTH * x / x_max, bottom - _PANEL_HEIGHT * y / y_max) for x, y in line
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        colour = colours[engine]
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, y in places:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'


def _round_up(value: float) -> float:
    """Return the next number of the form 1, 2, 4 or 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
