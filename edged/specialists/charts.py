"""Charts of the report: SVG as text, with no script and no reference to anything outside."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 28, 14, 46


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a chart, and the interval around its height."""

    x: float
    """Across, 0 to 1."""
    y: float
    """Up, 0 to 1."""
    low: float
    high: float
    size: float
    """Radius in pixels."""
    text: str
    """Shown when it is pointed at."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What stands along the bottom of a chart."""

    title: str
    ticks: Sequence[tuple[float, str]]
    """Place across, 0 to 1, and text."""


def chart(title: str, axis: Axis, points: Sequence[Point], *, is_curve: bool) -> str:
    """Return a chart of shares in percent.

    Args:
        title: What it shows, for a reader who does not see it.
        axis: The bottom.
        points: From left to right.
        is_curve: Whether a line connects the points; else one shows where both axes are equal.
    """
    marks = [_grid(share / 100) for share in range(0, 101, 20)]
    marks += [_tick(place, text) for place, text in axis.ticks]
    if is_curve:
        path = " ".join(f"{_x(one.x):.1f},{_y(one.y):.1f}" for one in points)
        marks.append(f'<polyline class="curve" points="{path}"/>')
    else:
        marks.append(_line((0, 0), (1, 1), "ideal"))
    marks += [_line((one.x, one.low), (one.x, one.high), "interval") for one in points]
    marks += [
        f'<circle class="point" cx="{_x(one.x):.1f}" cy="{_y(one.y):.1f}" r="{one.size:.1f}">'
        f"<title>{escape(one.text)}</title></circle>"
        for one in points
    ]
    middle = _LEFT + (_WIDTH - _LEFT - _RIGHT) / 2
    marks.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 6}">{escape(axis.title)}</text>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(marks)}</svg>"
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _line(start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
    return (
        f'<line class="{kind}" x1="{_x(start[0]):.1f}" y1="{_y(start[1]):.1f}" '
        f'x2="{_x(end[0]):.1f}" y2="{_y(end[1]):.1f}"/>'
    )


def _grid(share: float) -> str:
    text = f'<text class="left" x="{_LEFT - 8}" y="{_y(share) + 4:.1f}">{share:.0%}</text>'
    return _line((0, share), (1, share), "grid") + text


def _tick(place: float, text: str) -> str:
    return (
        f'<text class="axis" x="{_x(place):.1f}" y="{_HEIGHT - _BOTTOM + 18}">{escape(text)}</text>'
    )
