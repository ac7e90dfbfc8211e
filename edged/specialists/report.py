"""``report.html``: what was measured, for people who want to know what to do next.

Rule: one file, with no script and no reference to anything outside. Whatever comes from examples is
escaped: a prompt may be hostile HTML.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from edged.specialists.charts import Axis, Point, chart
from edged.specialists.checks import Remark
from edged.specialists.examples import AnswerKind
from edged.specialists.folder import Result
from edged.specialists.judging import CurvePoint, Measured, label_counts
from edged.specialists.lesson import Lesson
from edged.specialists.measures import interval, reliability
from edged.specialists.mistakes import Confusion, confusions, doubtful, is_worth_more, shown

_MOST_CONFUSIONS = 20
_MOST_DOUBTFUL = 25
_MOST_REMARKS = 100
_MOST_PROMPT = 240
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --mark: #2a6fbb; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; font-size: 1.2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
.figures p { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem 1rem; margin: 0; }
.figures b { display: block; font-size: 1.5rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
th { white-space: nowrap; }
svg { width: 100%; max-width: 40rem; font-size: 12px; fill: currentColor; }
.grid { stroke: var(--line); } .ideal { stroke: currentColor; stroke-dasharray: 4 4; }
.interval { stroke: var(--mark); stroke-width: 2; } .point { fill: var(--mark); }
.curve { fill: none; stroke: var(--mark); stroke-width: 2; }
.axis { text-anchor: middle; } .left { text-anchor: end; } .note { opacity: .75; }
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a report tells."""

    source: str
    """The file of the examples."""
    test: str | None
    """The file on whose examples ``result`` was measured; None for held-out ones."""
    lesson: Lesson
    measured: Measured
    result: Result
    remarks: Sequence[Remark]


def summary(result: Result) -> str:
    """Return the figures in one line."""
    interval_text = f"{result.low:.1%} to {result.high:.1%}"
    text = f"{result.accuracy:.1%} right ({interval_text}), ECE {result.ece:.3f}"
    if result.error is not None:
        text += f", mean error {result.error:.3g}"
    return f"{text}; answers {result.answered:.1%}, of these {result.answered_right:.1%} right"


def report(findings: Findings) -> str:
    """Return the HTML of a report."""
    title = f"Specialist {findings.lesson.name}"
    sections = [
        f"<h1>{_text(title)}</h1>",
        _headline(findings),
        _curve(findings),
        _calibration(findings),
        _confusions(findings),
        _labels(findings),
        _to_look_at(findings),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, sections))
        + "\n</body>\n</html>\n"
    )


def _headline(findings: Findings) -> str:
    result = findings.result
    figures = [
        (f"{result.accuracy:.1%}", f"right ({result.low:.0%} to {result.high:.0%})"),
        (f"{result.answered:.0%}", "answered; the others are “unsure”"),
        (f"{result.answered_right:.1%}", f"of the answered right (asked: {result.precision:.0%})"),
    ]
    if result.error is not None:
        figures.append((f"{result.error:.3g}", "mean distance from the right number"))
    boxes = "".join(f"<p><b>{_text(one)}</b>{_text(text)}</p>" for one, text in figures)
    how = (
        f"on the {result.num_examples} examples of {findings.test}, none of which was taught"
        if findings.test
        else f"on {result.num_examples} of the examples, each time by a specialist that was taught "
        "without them; examples of one group are held out together"
    )
    text = (
        f"Taught from {len(findings.lesson.examples)} examples of "
        f"{findings.source}: {findings.lesson.summary}. Measured {how}. "
        "The numbers in brackets hold the true share 19 times of 20."
    )
    if findings.lesson.kind is AnswerKind.NUMBER:
        text += f" A number counts as right up to {findings.lesson.tolerance:g} from the right one."
    return f'<div class="figures">{boxes}</div>\n<p>{_text(text)}</p>'


def _curve(findings: Findings) -> str:
    most = max(one.num_examples for one in findings.measured.curve)
    points = [
        Point(
            *(one.num_examples / most, one.accuracy, one.low, one.high, 5.0),
            f"{one.num_examples} examples: {one.accuracy:.1%} right",
        )
        for one in findings.measured.curve
    ]
    ticks = [(one.num_examples / most, str(one.num_examples)) for one in findings.measured.curve]
    drawn = chart(
        "Accuracy over the number of examples", Axis("examples", ticks), points, is_curve=True
    )
    return (
        f"<h2>Are more examples worth it?</h2>\n<p>{_advice(findings.measured.curve)}</p>\n{drawn}"
    )


def _advice(curve: Sequence[CurvePoint]) -> str:
    half, whole = curve[-2], curve[-1]
    rise = (
        f"From {half.num_examples} to {whole.num_examples} examples the accuracy went from "
        f"{half.accuracy:.1%} to {whole.accuracy:.1%}."
    )
    if is_worth_more(curve):
        return f"Yes: it still rises. {rise} Twice as many will probably help again."
    return (
        f"Hardly: it no longer rises clearly. {rise} Look at the confusions and the doubtful "
        "examples below instead: labels that mean the same, and wrong answers, cost more."
    )


def _calibration(findings: Findings) -> str:
    confidence = [one.decision.confidence for one in findings.measured.judged]
    bins = reliability(confidence, [one.is_right for one in findings.measured.judged])
    points = []
    for one in bins:
        low, high = interval(one.num_right, one.count)
        text = (
            f"{one.count} answers of confidence {one.confidence:.0%}: {one.share_right:.0%} right"
        )
        size = 3 + 7 * (one.count / len(confidence)) ** 0.5
        points.append(Point(one.confidence, one.share_right, low, high, size, text))
    ticks = [(share / 100, f"{share} %") for share in range(0, 101, 20)]
    axis = Axis("confidence of the answer", ticks)
    drawn = chart("Share of right answers over the confidence", axis, points, is_curve=False)
    return (
        "<h2>Does the confidence hold?</h2>\n<p>Of answers with a confidence of 80 %, 80 % should "
        "be right: the points should lie on the broken line. Small points are few answers. The "
        f"points are {findings.result.ece:.1%} away on average (ECE).</p>\n{drawn}"
    )


def _confusions(findings: Findings) -> str:
    found = confusions(findings.lesson.kind, findings.measured.judged)[:_MOST_CONFUSIONS]
    if not found:
        return "<h2>Confusions</h2>\n<p>None.</p>"
    heads = ("right", "answered", "times", "such as")
    rows = [(one.right, one.said, str(one.count), _prompts(one)) for one in found]
    return f"<h2>What is confused most</h2>\n{_table(heads, rows)}"


def _prompts(confusion: Confusion) -> str:
    return "\n".join(
        f"line {one.example.line}: {shortened(one.example.prompt)}" for one in confusion.judged[:3]
    )


def _labels(findings: Findings) -> str:
    counts = label_counts(findings.measured.judged)
    if not counts:
        return ""
    rows = [
        (one.label, str(one.num_examples), str(one.num_said), str(one.num_right), f"{one.f1:.2f}")
        for one in sorted(counts, key=lambda one: one.f1)
    ]
    heads = ("label", "examples", "answered", "of these right", "F1")
    return (
        "<h2>Label by label</h2>\n<p>F1 is 1 where a label is answered exactly when it is right."
        f"</p>\n{_table(heads, rows)}"
    )


def _to_look_at(findings: Findings) -> str:
    text = (
        "Correct the file, and teach again. What the other examples speak against is often a wrong "
        "answer in the file."
    )
    parts = [f"<h2>Examples to look at first</h2>\n<p>{text}</p>"]
    if findings.remarks:
        found = [
            (", ".join(map(str, one.lines[:10])), one.text)
            for one in findings.remarks[:_MOST_REMARKS]
        ]
        parts.append(_table(("lines", "found"), found))
    rows = [
        (
            *(
                str(one.example.line),
                shortened(one.example.prompt),
                shortened(shown(one.example.answer)),
            ),
            *(shortened(one.decision.text or "none of these"), f"{one.plausibility:.0%}"),
        )
        for one in doubtful(findings.measured.judged)[:_MOST_DOUBTFUL]
    ]
    if rows:
        last = "plausibility of its answer"
        parts.append(_table(("line", "prompt", "its answer", "the others say", last), rows))
    if len(parts) == 1:
        parts.append("<p>None.</p>")
    return "\n".join(parts)


def shortened(text: str) -> str:
    """Return the beginning of a text, without control characters."""
    return _printable(text if len(text) <= _MOST_PROMPT else text[: _MOST_PROMPT - 1] + "…")


def _printable(text: str) -> str:
    return "".join(
        "�" if unicodedata.category(one) == "Cc" and one != "\n" else one for one in text
    )


def _text(text: str) -> str:
    """Return HTML that shows a text: control characters are no part of HTML."""
    return escape(_printable(text))


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(one)}</th>" for one in heads)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{_cell(one)}</td>" for one in row) + "</tr>" for row in rows
    )
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _cell(text: str) -> str:
    # ``bdi`` keeps right-to-left text from reordering its neighbours; long labels break at "_".
    lines = (_text(line).replace("_", "_<wbr>") for line in text.split("\n"))
    return "<br>".join(f"<bdi>{line}</bdi>" for line in lines)
