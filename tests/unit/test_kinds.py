"""Every kind of answer: taught, written, read and decided, on features that are made up."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edged.specialists.decision import Decision, decide, number
from edged.specialists.examples import AnswerKind
from edged.specialists.folder import Scale, Specialist, read_specialist, write_specialist
from edged.specialists.head import Scaler
from edged.specialists.lesson import Lesson, default_tolerance, label_names, taught, words
from edged.specialists.linear import Regression
from edged.specialists.training import probability_scale
from tests.unit.lessons import (
    BASE,
    NUM_LABELS,
    WIDTH,
    drawn,
    fields_lesson,
    labels_lesson,
    lesson,
    lesson_of,
    number_lesson,
)


def written(folder: Path, given: Lesson) -> Specialist:
    write_specialist(folder, taught(given, lambda _: None))
    return read_specialist(folder, BASE)


def decisions(specialist: Specialist, count: int = 60, seed: int = 2) -> list[Decision]:
    return [decide(specialist, row) for row in drawn(count, seed)[0]]


def test_one_label_comes_with_its_place_and_the_best_guesses(tmp_path: Path) -> None:
    found = decisions(written(tmp_path, lesson()))
    labels = drawn(60, seed=2)[1]
    assert np.mean([one.choice for one in found] == labels) > 0.9
    for one in found:
        assert one.json is None
        assert one.text == f"label {one.choice}"
        assert isinstance(one.probabilities, list)
        assert sum(one.probabilities) == pytest.approx(1, abs=1e-3)
        assert one.guesses[0] == (one.text, round(one.confidence, 4))
        assert len(one.guesses) == 3
        assert one.guesses[0][1] >= one.guesses[1][1] >= one.guesses[2][1]


def test_none_of_these_is_one_more_label_and_the_last(tmp_path: Path) -> None:
    features, labels = drawn(60, seed=1)
    answers = [None if index == 0 else f"label {index}" for index in labels]
    specialist = written(tmp_path, lesson_of(AnswerKind.LABEL, answers, features))
    assert specialist.description.heads[0].labels == (*(f"label {i}" for i in range(1, 6)), None)
    found = decisions(specialist)
    none = [one for one, label in zip(found, drawn(60, seed=2)[1], strict=True) if label == 0]
    assert np.mean([one.text == "" and one.choice == NUM_LABELS - 1 for one in none]) > 0.8
    # What is like no example is none of them as well, so it is no reason to be unsure.
    strict = replace(specialist, description=replace(specialist.description, unfamiliar_below=1.1))
    for before, after in zip(found, decisions(strict), strict=True):
        assert after.is_unsure is (before.is_unsure if before.text == "" else True)


def test_several_labels_are_a_yes_or_no_each(tmp_path: Path) -> None:
    specialist = written(tmp_path, labels_lesson(120))
    assert specialist.description.heads[0].labels == ("half", "third")
    right = [list(one.answer or ()) for one in labels_lesson(60, seed=2).examples]  # type: ignore[arg-type]
    found = decisions(specialist)
    assert np.mean([one.json == answer for one, answer in zip(found, right, strict=True)]) > 0.8
    for one in found:
        assert json.loads(one.text) == one.json
        assert isinstance(one.probabilities, list)
        sure = [max(share, 1 - share) for share in one.probabilities]
        assert one.confidence == pytest.approx(sure[0] * sure[1], abs=1e-3)
        assert (one.choice, one.guesses) == (None, ())
    assert {one.text for one in found} == {"[]", '["half"]', '["third"]', '["half", "third"]'}


def test_a_number_stays_on_its_scale_and_says_how_sure_it_is(tmp_path: Path) -> None:
    specialist = written(tmp_path, number_lesson(240))
    right = drawn(60, seed=2)[1]
    found = decisions(specialist)
    errors = np.abs([float(one.text) for one in found] - right)
    assert errors.mean() < 1.0
    for one in found:
        assert isinstance(one.json, int)
        assert one.text == str(one.json)
        assert (one.probabilities, one.choice) == (None, None)
        assert one.interval is not None
        assert 0 <= one.interval[0] <= one.json <= one.interval[1] <= 5
    inside = [
        one.interval is not None and one.interval[0] <= answer <= one.interval[1]
        for one, answer in zip(found, right, strict=True)
    ]
    assert np.mean(inside) > 0.85
    confidence = np.mean([one.confidence for one in found])
    assert abs(confidence - (errors <= 1).mean()) < 0.15


def test_a_number_is_less_sure_where_there_are_no_examples(tmp_path: Path) -> None:
    specialist = written(tmp_path, number_lesson(240))
    near = np.mean([one.confidence for one in decisions(specialist)])
    strange = np.random.default_rng(3).standard_normal((40, WIDTH)).astype(np.float32) * 9
    far = np.mean([decide(specialist, row).confidence for row in strange])
    assert far < near - 0.1


@pytest.mark.parametrize(
    ("mean", "decimals", "tolerance", "text"),
    [(3.4, 0, 0.0, "3"), (3.44, 1, 0.1, "3.4"), (99.0, 0, 1.0, "5"), (-99.0, 2, 0.5, "0.0")],
)
def test_a_number_has_the_decimals_that_were_taught(
    mean: float, decimals: int, tolerance: float, text: str
) -> None:
    answer = number(Scale(0.0, 5.0, decimals, tolerance, 0.01, 1.0), mean, 0.0)
    assert answer.text == text


def test_the_confidence_of_a_number_is_the_chance_to_be_within_the_tolerance() -> None:
    exact = number(Scale(0.0, 9.0, 0, 0.0, 1.0, 1.0), 5.0, 0.0)
    assert exact.confidence == pytest.approx(0.3829, abs=1e-3)  # half a deviation on each side
    within = number(Scale(0.0, 9.0, 0, 1.0, 1.0, 1.0), 5.0, 0.0)
    assert within.confidence == pytest.approx(0.8664, abs=1e-3)
    assert within.interval == (3, 7)


def test_fields_are_decided_one_by_one_and_are_right_together(tmp_path: Path) -> None:
    shares: list[float] = []
    given = fields_lesson(120)
    write_specialist(tmp_path, taught(given, shares.append))
    assert shares == sorted(shares)
    specialist = read_specialist(tmp_path, BASE)
    heads = specialist.description.heads
    assert [(head.field, head.labels) for head in heads] == [
        ("room", ("bath", "hall", None)),
        ("state", ("off", "on")),
    ]
    right = [one.answer for one in fields_lesson(60, seed=2).examples]
    found = decisions(specialist)
    assert np.mean([one.json == answer for one, answer in zip(found, right, strict=True)]) > 0.8
    for one in found:
        assert json.loads(one.text) == one.json
        assert isinstance(one.probabilities, dict)
        best = [max(shares) for shares in one.probabilities.values()]
        assert one.confidence == pytest.approx(best[0] * best[1], abs=1e-3)


def test_a_field_that_is_the_same_in_what_is_left_is_no_reason_to_fail() -> None:
    given = fields_lesson(60)
    same = given.part([index for index in range(60) if index % NUM_LABELS < 3])
    found = decide(taught(same, lambda _: None), same.features[0])
    assert isinstance(found.json, dict)
    assert found.json["state"] == "on"


def test_the_regression_is_what_ridge_is_in_either_form() -> None:
    features, labels = drawn(60, seed=1)
    scaled = Scaler.of(features).apply(features)
    targets = np.eye(NUM_LABELS)[labels]
    weights = np.linspace(0.5, 2.0, 60)
    few = Regression(scaled, targets, weights).fit(0.1)
    share = (weights / weights.mean())[:, None]
    centre = np.average(targets, axis=0, weights=weights)
    inner = scaled.T @ (scaled * share) + 0.1 * WIDTH * np.eye(WIDTH)
    expected = np.linalg.solve(inner, scaled.T @ ((targets - centre) * share))
    np.testing.assert_allclose(few.weights, expected, atol=1e-4)
    many = Regression(
        np.concatenate([scaled] * 4), np.concatenate([targets] * 4), np.tile(weights, 4)
    ).fit(0.4)
    np.testing.assert_allclose(many.weights, few.weights, atol=1e-4)
    np.testing.assert_allclose(many.familiarity(scaled), few.familiarity(scaled), atol=1e-3)


def test_values_become_probabilities_that_hold() -> None:
    random = np.random.default_rng(0)
    odds = random.normal(0, 2, (4000, 2))
    is_chosen = random.random((4000, 2)) < 1 / (1 + np.exp(-(3 * odds - 1)))
    slope, shift = probability_scale(odds, is_chosen)
    assert slope == pytest.approx(3, abs=0.3)
    assert shift == pytest.approx(-1, abs=0.2)
    perfect = np.array([[-1.0], [1.0]] * 20)
    slope, _ = probability_scale(perfect, perfect > 0)
    assert 1 < slope < 10


def test_a_label_is_said_in_words() -> None:
    assert words("HassTurnOn") == "hass turn on"
    assert words("Refund_not-showing.up") == "refund not showing up"
    assert words("--") == "--"
    assert words(None) == "none of these"


def test_only_labels_have_names() -> None:
    assert label_names(AnswerKind.NUMBER, number_lesson().examples) == []
    assert label_names(AnswerKind.LABELS, labels_lesson().examples) == []
    assert label_names(AnswerKind.FIELDS, fields_lesson().examples) == [
        *("bath", "hall", "none of these", "off", "on")
    ]


def test_the_tolerance_is_a_tenth_of_the_scale_or_one_step() -> None:
    def tolerance(*numbers: float) -> float:
        given = lesson_of(AnswerKind.NUMBER, [*map(float, numbers)], drawn(len(numbers), seed=1)[0])
        return default_tolerance(given.examples)

    assert tolerance(0, 50, 100) == 10
    assert tolerance(1, 2, 5) == 1
    assert tolerance(0.25, 0.5, 0.75) == pytest.approx(0.05)
    assert tolerance(1 / 3, 1 / 3 + 1e-6) == pytest.approx(1e-6)
    assert default_tolerance(lesson().examples) == 0


@pytest.mark.parametrize(
    ("given", "summary"),
    [
        (lesson(), "one of 6 labels"),
        (labels_lesson(), "any of 2 labels"),
        (number_lesson(), "numbers from 0 to 5"),
        (fields_lesson(), "JSON of the fields room, state"),
    ],
)
def test_it_says_what_it_makes_of_the_answers(given: Lesson, summary: str) -> None:
    assert given.summary == summary


def test_it_says_that_none_of_the_labels_may_be_right() -> None:
    features, labels = drawn(12, seed=1)
    answers = [None if index else "x" for index in labels]
    assert (
        lesson_of(AnswerKind.LABEL, answers, features).summary
        == "one of 1 labels, or none of these"
    )
