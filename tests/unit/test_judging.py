"""What a specialist is worth: held out from whole specialists, and told to people."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from edged.specialists import judging
from edged.specialists.checks import Remark
from edged.specialists.decision import Decision
from edged.specialists.examples import Answer, AnswerKind
from edged.specialists.folder import Specialist
from edged.specialists.judging import (
    CurvePoint,
    Judged,
    Measured,
    held_out_parts,
    is_right,
    judge,
    label_counts,
    measured,
    result_of,
)
from edged.specialists.lesson import Lesson, taught
from edged.specialists.mistakes import confusions, doubtful, is_worth_more
from edged.specialists.report import Findings, report, shortened, summary
from tests.unit.lessons import (
    NUM_LABELS,
    drawn,
    fields_lesson,
    labels_lesson,
    lesson,
    lesson_of,
    number_lesson,
)


def quietly(_: float) -> None:
    pass


def test_what_is_held_out_was_used_to_choose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = lesson(24)
    seen: list[set[int]] = []

    def spy(part: Lesson, note: Callable[[float], None]) -> Specialist:
        seen.append({example.line for example in part.examples})
        return taught(part, note)

    monkeypatch.setattr(judging, "taught", spy)
    parts = held_out_parts(given)
    assert sorted(np.concatenate(parts).tolist()) == list(range(24))
    found = list(judging.judged_parts(given, parts, 1.0, quietly))
    for part, lines in zip(found, seen, strict=True):
        held_out = {one.example.line for one in part}
        assert not held_out & lines
        assert held_out | lines == set(range(1, 25))


def test_no_group_is_taught_and_held_out() -> None:
    given = lesson(24)
    grouped = [replace(one, group=f"g{index // 8}") for index, one in enumerate(given.examples)]
    parts = held_out_parts(replace(given, examples=grouped))
    assert sorted(part.tolist() for part in parts) == [
        *(list(range(8)), list(range(8, 16)), list(range(16, 24)))
    ]


def test_of_many_examples_a_fifth_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_PARTS", ((20, 10), (50, 5)))
    assert len(held_out_parts(lesson(20))) == 10
    assert len(held_out_parts(fields_lesson(20))) == 5
    assert len(held_out_parts(lesson(50))) == 5
    (part,) = held_out_parts(lesson(60))
    assert len(part) == 12


def test_a_teachers_opinions_are_taught_and_never_a_measure() -> None:
    given = lesson(24)
    rows = [replace(one, is_measure=index < 12) for index, one in enumerate(given.examples)]
    found = measured(replace(given, examples=rows), quietly)
    assert sorted(one.example.line for one in found.judged) == list(range(1, 13))


def test_the_figures_of_noise_are_those_of_chance() -> None:
    # With as many features as here a fit on all examples is right nearly always.
    features = np.random.default_rng(0).standard_normal(drawn(60, 1)[0].shape).astype(np.float32)
    answers: list[Answer] = [f"label {index % NUM_LABELS}" for index in range(60)]
    given = lesson_of(AnswerKind.LABEL, answers, features)
    result = result_of(measured(given, quietly).judged, 0.95)
    assert result.accuracy < 0.45
    assert result.low < 1 / NUM_LABELS + 0.1


def test_a_lesson_is_measured_with_a_curve_that_ends_at_the_whole() -> None:
    shares: list[float] = []
    found = measured(lesson(), shares.append)
    result = result_of(found.judged, 0.9)
    assert result.num_examples == len({one.example.line for one in found.judged}) == 60
    assert result.low < result.accuracy < result.high
    assert result.accuracy > 0.8
    assert result.answered_right >= result.accuracy
    assert result.precision == 0.9
    assert result.error is None
    assert [point.num_examples for point in found.curve] == [14, 27, 54]
    assert found.curve[0].accuracy < found.curve[-1].accuracy
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_nothing_answered_is_nothing_right() -> None:
    found = [replace(one, decision=replace(one.decision, is_unsure=True)) for one in judged()]
    assert (result_of(found, 0.9).answered, result_of(found, 0.9).answered_right) == (0, 0)


KINDS = {
    AnswerKind.LABEL: lesson(36),
    AnswerKind.LABELS: labels_lesson(36),
    AnswerKind.NUMBER: number_lesson(36),
    AnswerKind.FIELDS: fields_lesson(36),
}


def judged(kind: AnswerKind = AnswerKind.LABEL, rotated: int = 0) -> list[Judged]:
    """Judge the examples themselves, with the answers of others where ``rotated``."""
    given = KINDS[kind]
    specialist = taught(given, quietly)
    rows = list(given.examples)
    wrong = [
        replace(one, answer=rows[(index + rotated) % len(rows)].answer)
        for index, one in enumerate(rows)
    ]
    return [judge(specialist, one, row) for one, row in zip(wrong, given.features, strict=True)]


@pytest.mark.parametrize("kind", list(KINDS))
def test_of_each_kind_right_is_plausible_and_wrong_is_doubtful(kind: AnswerKind) -> None:
    right, wrong = judged(kind), judged(kind, rotated=3)
    assert np.mean([one.is_right for one in right]) > 0.95
    assert np.mean([one.is_right for one in wrong]) < 0.05
    assert min(one.plausibility for one in right if one.is_right) > 0.2
    assert not doubtful(right)
    found = doubtful(wrong)
    assert found
    assert [one.plausibility for one in found] == sorted(one.plausibility for one in found)


def test_none_of_the_labels_is_unsure_where_it_was_not_taught() -> None:
    specialist = taught(lesson(36), quietly)
    decision = judged()[0].decision
    assert is_right(specialist, replace(decision, is_unsure=True), None)
    assert not is_right(specialist, replace(decision, is_unsure=False), None)


def test_a_missing_field_is_null() -> None:
    specialist = taught(KINDS[AnswerKind.FIELDS], quietly)
    decision = replace(judged(AnswerKind.FIELDS)[0].decision, json={"room": None, "state": "on"})
    assert is_right(specialist, decision, {"state": "on"})
    assert not is_right(specialist, decision, {"state": "on", "room": "hall"})
    assert not is_right(specialist, decision, {"state": "on", "colour": "red"})


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (AnswerKind.LABEL, ("label 3", "label 0", 6)),
        (AnswerKind.LABELS, ("nothing", "half", 18)),
        (AnswerKind.NUMBER, ("5", "2", 6)),
        (AnswerKind.FIELDS, ("state: off", "state: on", 18)),
    ],
)
def test_confusions_are_counted_part_by_part(kind: AnswerKind, first: tuple[str, str, int]) -> None:
    found = confusions(kind, judged(kind, rotated=3))
    assert first in [(one.right.removesuffix(".0"), one.said, one.count) for one in found]
    if kind is not AnswerKind.NUMBER:
        assert [one.count for one in found] == sorted((one.count for one in found), reverse=True)
    for one in found:
        confidences = [each.decision.confidence for each in one.judged]
        assert confidences == sorted(confidences, reverse=True)
    assert not confusions(kind, [one for one in judged(kind) if one.is_right])


def test_a_label_has_its_own_f1() -> None:
    decision = Decision("", None, ["a"], [0.9, 0.1], 0.9, 1.0, is_unsure=False)
    example = KINDS[AnswerKind.LABELS].examples[0]
    rows = [(("a",), ["a"]), (("a", "b"), ["a"]), ((), ["a"])]
    found = [
        Judged(replace(example, answer=answer), replace(decision, json=said), False, 0.5)
        for answer, said in rows
    ]
    first, second = label_counts(found)
    assert (first.label, first.num_examples, first.num_said, first.num_right) == ("a", 2, 3, 2)
    assert first.f1 == pytest.approx(0.8)
    assert (second.label, second.f1) == ("b", 0.0)
    assert label_counts(judged()) == []


@pytest.mark.parametrize(
    ("half", "whole", "is_worth"), [(0.7, 0.8, True), (0.79, 0.8, False), (0.9, 0.8, False)]
)
def test_more_examples_are_worth_it_where_the_curve_rises(
    half: float, whole: float, is_worth: bool
) -> None:
    curve = [CurvePoint(10, half, half - 0.05, half + 0.05)]
    curve.append(CurvePoint(20, whole, whole - 0.05, whole + 0.05))
    assert is_worth_more(curve) is is_worth


class Strict(HTMLParser):
    """Complain of what is not closed, and collect what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "wbr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = "</td><script>alert(1)</script><img src=x onerror='a'>\"&\x00\u202e" + "x" * 300


def findings(kind: AnswerKind, *, is_hostile: bool = False) -> Findings:
    given = KINDS[kind]
    found = judged(kind, rotated=3 if is_hostile else 0)
    if is_hostile:
        rows = [replace(one, example=replace(one.example, prompt=HOSTILE)) for one in found]
        found = rows
    curve = [CurvePoint(9, 0.5, 0.3, 0.7), CurvePoint(18, 0.6, 0.4, 0.8)]
    curve.append(CurvePoint(36, 0.9, 0.8, 0.95))
    remarks = [Remark((1, 2), HOSTILE)] if is_hostile else []
    return Findings(
        HOSTILE if is_hostile else "examples.jsonl",
        HOSTILE if is_hostile else None,
        given,
        Measured(found, curve),
        result_of(found, 0.95),
        remarks,
    )


@pytest.mark.parametrize("is_hostile", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_report_is_one_page_without_script_whatever_the_prompts_are(
    kind: AnswerKind, is_hostile: bool
) -> None:
    html = report(findings(kind, is_hostile=is_hostile))
    page = Strict()
    page.feed(html)
    page.close()
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "link", "iframe", "a", "object", "base", "form"}
    attributes = {name for _, given in page.tags for name in given}
    assert not {"src", "href", "style", "xlink:href"} & attributes
    assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert "\x00" not in html
    if is_hostile:
        assert "<script>alert(1)</script>" in page.text  # as text


def test_a_report_says_what_to_do() -> None:
    page = Strict()
    page.feed(report(findings(AnswerKind.LABEL)))
    for said in ("Yes: it still rises. From 18 to 36 examples", "None.", "100% to", "one of 6"):
        assert said.replace("100% to", "right (") in page.text
    wrong = Strict()
    some = findings(AnswerKind.LABEL, is_hostile=True)
    none = replace(some.measured.judged[0].example, answer=None)
    found = [replace(one, example=none) for one in some.measured.judged]
    wrong.feed(report(replace(some, measured=replace(some.measured, judged=found))))
    assert "none of these" in wrong.text
    assert "its answer" in wrong.text
    assert "lines" in wrong.text
    flat = findings(AnswerKind.NUMBER)
    curve = [CurvePoint(18, 0.9, 0.8, 1.0), CurvePoint(36, 0.9, 0.8, 1.0)]
    text = report(replace(flat, measured=replace(flat.measured, curve=curve)))
    assert "Hardly: it no longer rises clearly." in text
    assert "A number counts as right up to 1 from the right one." in text
    assert "mean distance from the right number" in text


def test_points_stand_where_their_figures_are() -> None:
    html = report(findings(AnswerKind.LABEL))
    curve = html[html.index("<svg") : html.index("</svg>")]
    points = re.findall(r'<circle class="point" cx="([\d.]+)" cy="([\d.]+)"', curve)
    across, up = np.array(points, float).T
    assert across[2] - 52 == pytest.approx(4 * (across[0] - 52), abs=0.5)
    grid = dict(zip(("100%", "0%"), (14, 300 - 46), strict=True))
    assert up[2] == pytest.approx(grid["0%"] + 0.9 * (grid["100%"] - grid["0%"]), abs=0.1)


def test_a_line_has_every_figure() -> None:
    found = result_of(judged(AnswerKind.NUMBER), 0.95)
    assert re.fullmatch(
        r"[\d.]+% right \([\d.]+% to [\d.]+%\), ECE [\d.]+, mean error [\d.]+; "
        r"answers [\d.]+%, of these [\d.]+% right",
        summary(found),
    )
    assert "mean error" not in summary(result_of(judged(), 0.95))


def test_a_long_prompt_is_shortened() -> None:
    assert shortened("a\x07b\nc") == "a�b\nc"
    assert shortened("\N{ZERO WIDTH JOINER}") == "\N{ZERO WIDTH JOINER}"  # emojis need it
    assert len(shortened("x" * 1000)) == 240
