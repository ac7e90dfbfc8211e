"""Heads: what they learn from few examples, and what their probabilities are worth."""

import numpy as np
import pytest

from edged.specialists.features import NUM_POOLINGS, VIEWS, Pooling, Template, View
from edged.specialists.head import Scaler, Strength, fit, folds, reduced
from edged.specialists.measures import calibration_error, interval, reliability
from edged.specialists.training import (
    Examples,
    fitting_temperature,
    teach,
    unfamiliar_below,
    unsure_below,
)
from tests.unit.lessons import LAYOUT, NUM_LABELS, WIDTH, drawn


def examples(count: int = 60) -> Examples:
    features, labels = drawn(count, seed=1)
    return Examples(features, labels, np.ones(count), [str(i) for i in range(count)])


def test_a_few_examples_of_each_label_are_enough_where_the_labels_differ() -> None:
    shares: list[float] = []
    taught = teach(examples(), LAYOUT, shares.append, seed=0)
    features, labels = drawn(600, seed=2)
    scaled = taught.scaler.apply(LAYOUT.view(features, taught.view))
    probabilities = taught.head.probabilities(scaled)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.9
    is_right = probabilities.argmax(axis=1) == labels
    assert calibration_error(probabilities.max(axis=1).tolist(), is_right.tolist()) < 0.1
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_what_is_none_of_the_labels_is_unfamiliar() -> None:
    taught = teach(examples(120), LAYOUT, lambda _: None, seed=0)
    floor = unfamiliar_below(taught.familiarity)
    others = np.random.default_rng(3).standard_normal((300, WIDTH)).astype(np.float32)

    def share_below(features: np.ndarray) -> float:
        scaled = taught.scaler.apply(LAYOUT.view(features, taught.view))
        return float((taught.head.familiarity(scaled) < floor).mean())

    assert share_below(drawn(300, seed=4)[0]) < 0.15
    assert share_below(others) > 0.5


def test_another_view_is_taken_only_where_it_is_clearly_better() -> None:
    features, labels = drawn(60, seed=1)
    blocks = features.reshape(60, NUM_POOLINGS, LAYOUT.num_layers, LAYOUT.hidden_size)

    def chosen(shown: set[tuple[int, int]]) -> View:
        kept = np.zeros_like(blocks)
        for pooling, layer in shown:
            kept[:, pooling, layer] = blocks[:, pooling, layer]
        groups = [str(index) for index in range(60)]
        given = Examples(kept.reshape(60, WIDTH), labels, np.ones(60), groups)
        return teach(given, LAYOUT, lambda _: None, seed=0).view

    assert chosen(set(VIEWS[0]) & set(VIEWS[1])) == VIEWS[0]  # they say the same
    assert chosen(set(VIEWS[2]) - set(VIEWS[0])) == VIEWS[2]


def test_two_labels_are_enough_to_tell_what_is_neither() -> None:
    features, labels = drawn(120, seed=1, spread=0.7)
    is_one = labels < 2
    two = Examples(features[is_one], labels[is_one], np.ones(40), [str(i) for i in range(40)])
    taught = teach(two, LAYOUT, lambda _: None, seed=0)
    floor = unfamiliar_below(taught.familiarity)
    scaled = taught.scaler.apply(LAYOUT.view(drawn(600, seed=2, spread=0.7)[0], taught.view))
    is_unfamiliar = taught.head.familiarity(scaled) < floor
    assert is_unfamiliar[np.arange(600) % NUM_LABELS < 2].mean() < 0.15
    assert is_unfamiliar[np.arange(600) % NUM_LABELS >= 2].mean() > 0.4


def test_the_threshold_keeps_the_precision_that_was_asked_for() -> None:
    features, labels = drawn(120, seed=5, spread=3.0)  # hard to tell apart
    hard = Examples(features, labels, np.ones(120), [str(i) for i in range(120)])
    taught = teach(hard, LAYOUT, lambda _: None, seed=0)
    confidence = taught.held_out.max(axis=1)
    is_right = taught.held_out.argmax(axis=1) == labels
    threshold = unsure_below(confidence, is_right, precision=0.9)
    assert is_right.mean() < 0.9 <= is_right[confidence >= threshold].mean()
    assert unsure_below(confidence, np.zeros(120, bool), precision=1.0) == 1.0


def test_equal_examples_of_a_label_are_no_reason_to_fail() -> None:
    features, labels = drawn(12, seed=1)
    features[:] = features[labels]
    same = Examples(features, labels, np.ones(12), [str(i) for i in range(12)])
    taught = teach(same, LAYOUT, lambda _: None, seed=0)
    assert np.isfinite(taught.held_out).all()


def test_fewer_examples_than_features_give_the_head_that_all_features_give() -> None:
    features, labels = drawn(60, seed=1)
    scaled = Scaler.of(features).apply(features)
    basis, rows = reduced(scaled)
    assert rows.shape[1] <= 60 < scaled.shape[1]
    np.testing.assert_allclose(rows @ basis.T, scaled, atol=1e-4)
    others = Scaler.of(features).apply(drawn(50, seed=2)[0])
    few = fit(scaled, labels, np.ones(60), NUM_LABELS, Strength(0.5, 4.0))
    repeated = np.concatenate([scaled] * 4)  # more rows than features: nothing is reduced
    many = fit(repeated, np.tile(labels, 4), np.full(240, 0.25), NUM_LABELS, Strength(0.5, 4.0))
    np.testing.assert_allclose(few.scores(others), many.scores(others), rtol=1e-3, atol=1e-2)


def test_a_group_stays_in_one_fold_and_labels_are_dealt_evenly() -> None:
    labels = [index % 4 for index in range(80)]
    groups = [f"g{index // 4}" for index in range(80)]
    fold = folds(labels, groups, 5, seed=0)
    for group in set(groups):
        assert len({fold[i] for i in range(80) if groups[i] == group}) == 1
    for label in range(4):
        counts = np.bincount(fold[np.array(labels) == label], minlength=5)
        assert counts.tolist() == [4] * 5


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 20])
def test_how_a_prompt_is_cut_into_chunks_changes_no_bit(chunk: int) -> None:
    rows = np.random.default_rng(0).standard_normal((20, LAYOUT.width)).astype(np.float32)

    def pooled(size: int) -> np.ndarray:
        pooling = Pooling(num_before=5, num_own=12, num_first=3, width=LAYOUT.width)
        for start in range(0, 20, size):
            pooling.add(rows[start : start + size])
        return pooling.features()

    assert (pooled(chunk) == pooled(20)).all()
    blocks = pooled(chunk).reshape(NUM_POOLINGS, -1)
    np.testing.assert_allclose(blocks[0], rows[:12].mean(axis=0), rtol=1e-5, atol=1e-6)
    assert (blocks[1] == rows[14]).all()
    assert (blocks[2] == rows[19]).all()
    np.testing.assert_allclose(blocks[3], rows[12:].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_the_template_says_which_tokens_are_the_prompts_own() -> None:
    template = Template(lambda text: [ord(character) for character in text], bos_ids=[1])
    ids, pooling = template.prompt("hi", width=LAYOUT.width)
    assert ids[: pooling.num_before] == template.before_ids
    assert ids[0] == 1
    assert "".join(map(chr, ids[pooling.num_before :])).startswith('hi" is about: "')


def test_an_interval_holds_the_share_and_narrows_with_the_count() -> None:
    assert interval(0, 0) == (0.0, 1.0)
    assert (interval(0, 36)[0], interval(36, 36)[1]) == (0.0, 1.0)
    low, high = interval(80, 100)
    assert (round(low, 4), round(high, 4)) == (0.7112, 0.8666)  # Wilson's, as tables have it
    assert interval(800, 1000)[0] > low


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence = [0.9] * 10 + [0.5] * 10
    is_right = [True] * 9 + [False] + [True] * 5 + [False] * 5
    assert calibration_error(confidence, is_right) == pytest.approx(0.0)
    assert calibration_error(confidence, [False] * 20) == pytest.approx(0.7)
    low, high = reliability(confidence, is_right)
    assert (low.count, low.num_right, high.count, high.share_right) == (10, 5, 10, 0.9)
    assert (low.confidence, high.confidence) == pytest.approx((0.5, 0.9))


def test_the_temperature_makes_held_out_answers_as_likely_as_they_are_right() -> None:
    random = np.random.default_rng(0)
    scores = random.standard_normal((4000, 3)) * 2
    odds = np.exp(scores / 0.5)
    cumulated = (odds / odds.sum(axis=1, keepdims=True)).cumsum(axis=1)
    labels = (random.random((4000, 1)) > cumulated).sum(axis=1)
    found = fitting_temperature(scores, labels, np.ones(4000))
    assert found == pytest.approx(0.5, rel=0.1)
    # Whatever the scores are measured in, and far from where it starts.
    found = fitting_temperature(scores * 1000, labels, np.ones(4000))
    assert found == pytest.approx(500, rel=0.1)


def test_what_cannot_be_learnt_has_flat_probabilities_and_no_endless_temperature() -> None:
    random = np.random.default_rng(0)
    scores = random.standard_normal((12, 2))
    wrong = scores.argmin(axis=1)
    temperature = fitting_temperature(scores, wrong, np.ones(12))
    assert temperature <= 100 * np.ptp(scores, axis=1).mean() * 1.001
    assert np.abs(scores / temperature).max() < 0.05


def test_answers_that_are_all_right_are_surer_the_more_there_are_but_never_certain() -> None:
    def confidence(count: int) -> float:
        labels = np.arange(count) % 2
        scores = np.eye(2)[labels]
        temperature = fitting_temperature(scores, labels, np.ones(count))
        return float(1 / (1 + np.exp(-1 / temperature)))

    assert 0.9 < confidence(4) < confidence(40) < confidence(400) < 1.0


def test_a_head_sees_angles_so_a_mean_that_came_out_long_draws_nothing() -> None:
    features, labels = drawn(60, seed=1)
    scaled = Scaler.of(features).apply(features)
    head = fit(scaled, labels, np.ones(60), NUM_LABELS, Strength(0.5, 4.0))
    np.testing.assert_allclose(np.linalg.norm(head.label_directions, axis=1), 1.0, rtol=1e-5)
    # Of the centre of all it knows nothing.
    centre = np.linalg.lstsq(head.projection.T, head.offset, rcond=None)[0][None]
    assert np.abs(head.scores(centre.astype(np.float32))).max() < 1e-2
    assert head.familiarity(scaled).min() > head.familiarity(scaled[:, ::-1]).max()


def test_some_labels_may_have_many_more_examples_than_others() -> None:
    features, labels = drawn(240, seed=1)
    kept = np.flatnonzero((labels == 0) | (np.arange(240) < 30))  # 40 of one, 5 of the others
    some = Examples(features[kept], labels[kept], np.ones(len(kept)), [str(i) for i in kept])
    taught = teach(some, LAYOUT, lambda _: None, seed=0)
    others, right = drawn(600, seed=2)
    chosen = taught.head.scores(taught.scaler.apply(LAYOUT.view(others, taught.view))).argmax(1)
    assert min((chosen[right == label] == label).mean() for label in range(NUM_LABELS)) > 0.7
