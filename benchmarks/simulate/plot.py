"""Outcomes by class as one SVG: a bar for each policy and class.

Each bar is labelled with the share on time and the time to the first token, each policy with
goodput and fairness.

Rule: plain SVG that every browser and forge shows; no library, no script.
"""

from collections.abc import Iterator, Mapping
from html import escape

from benchmarks.simulate.figures import Figures

_WIDTH, _LEFT, _TOP, _BAR, _GAP = 760, 130, 70, 18, 6
_BAR_WIDTH = 420
_COLOURS = {"on time": "#0b6e4f", "refused at once": "#d9c27e", "late, cut or nothing": "#c8553d"}


def plot(title: str, runs: Mapping[str, Figures]) -> str:
    """Draw the runs as SVG text."""
    body = [_text(20, 26, title, 14)]
    for i, (name, colour) in enumerate(_COLOURS.items()):
        body.append(f'<rect x="{20 + 170 * i}" y="40" width="12" height="12" fill="{colour}"/>')
        body.append(_text(38 + 170 * i, 51, name))
    y = _TOP
    for policy, it in runs.items():
        body.append(_text(20, y + 13, _summary(policy, it)))
        y += _BAR + _GAP
        for name, part in it["classes"].items():
            body += _bar(y, name, part)
            y += _BAR + _GAP
        y += _GAP
    head = '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" fill="#222"'
    frame = f'<rect width="{_WIDTH}" height="{y + 14}" fill="#fff"/>'
    return "\n".join([f'{head} viewBox="0 0 {_WIDTH} {y + 14}">', frame, *body, "</svg>\n"])


def _summary(policy: str, it: Figures) -> str:
    goodput = "" if it["goodput"] is None else f"{it['goodput']:.2f} of the bound, "
    return f"{policy}: {goodput}fairness (Jain) {it['jain']:.2f}"


def _bar(y: int, name: str, part: Figures) -> Iterator[str]:
    """Draw the outcomes of one class."""
    on_time, refused = part["on_time"] / part["asked"], part["refused"] / part["asked"]
    shares = (on_time, refused, max(1 - on_time - refused, 0.0))
    yield _text(38, y + 13, name)
    x = float(_LEFT)
    for share, colour in zip(shares, _COLOURS.values(), strict=True):
        width = share * _BAR_WIDTH
        yield f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
        x += width
    p95_s = part["ttft_p95_s"]
    first = "" if p95_s is None else f", first token p95 {p95_s:.1f} s"
    yield _text(_LEFT + _BAR_WIDTH + 8, y + 13, f"{on_time:.0%}{first}")


def _text(x: float, y: float, text: str, size: int = 12) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}">{escape(text)}</text>'
