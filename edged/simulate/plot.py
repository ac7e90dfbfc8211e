"""What became of the requests of each class, as one SVG: a bar for each policy and class.

Rule: plain SVG that every browser and forge shows; no library, no script.
"""

from collections.abc import Iterator, Mapping
from html import escape

from edged.simulate.figures import Figures

_WIDTH, _LEFT, _TOP, _BAR, _GAP = 760, 190, 70, 18, 6
_ROOM = 520
_COLOURS = {"on time": "#0b6e4f", "refused at once": "#d9c27e", "late, cut or nothing": "#c8553d"}


def plot(title: str, runs: Mapping[str, Figures]) -> str:
    """Draw the runs as SVG text."""
    bars = list(_bars(runs))
    height = _TOP + len(bars) * (_BAR + _GAP) + 20
    body = [_text(20, 26, title, 14)]
    for i, (name, colour) in enumerate(_COLOURS.items()):
        body.append(f'<rect x="{20 + 170 * i}" y="40" width="12" height="12" fill="{colour}"/>')
        body.append(_text(38 + 170 * i, 51, name))
    for i, (label, shares) in enumerate(bars):
        y = _TOP + i * (_BAR + _GAP)
        body.append(_text(20, y + 13, label))
        x = float(_LEFT)
        for share, colour in zip(shares, _COLOURS.values(), strict=True):
            width = share * _ROOM
            body.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
            )
            x += width
        body.append(_text(_LEFT + _ROOM + 8, y + 13, f"{shares[0]:.0%}"))
    head = '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" fill="#222"'
    frame = f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
    return "\n".join([f'{head} viewBox="0 0 {_WIDTH} {height}">', frame, *body, "</svg>\n"])


def _bars(runs: Mapping[str, Figures]) -> Iterator[tuple[str, tuple[float, float, float]]]:
    for policy, it in runs.items():
        for name, part in it["classes"].items():
            on_time, refused = part["on_time"] / part["asked"], part["refused"] / part["asked"]
            yield f"{policy}: {name}", (on_time, refused, max(1 - on_time - refused, 0.0))


def _text(x: float, y: float, text: str, size: int = 12) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}">{escape(text)}</text>'
