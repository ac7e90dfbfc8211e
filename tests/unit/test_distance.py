"""The distances of prompts to labels, against their definition."""

import numpy as np
import pytest

from edged.specialists.distance import Distances

SHRINKAGE, NUM_LABELS = 0.7, 3


@pytest.mark.parametrize("count", [12, 60], ids=["fewer examples than features", "more"])
def test_it_is_the_mahalanobis_distance_and_the_angle_that_belongs_to_it(count: int) -> None:
    random = np.random.default_rng(1)
    labels = np.arange(count) % NUM_LABELS
    rows = random.standard_normal((count, 20)) + 2 * random.standard_normal((3, 20))[labels]
    rows = (rows - rows.mean(axis=0)).astype(np.float32)
    prompts = random.standard_normal((5, 20)).astype(np.float32)
    found = Distances.of(rows, labels, NUM_LABELS, SHRINKAGE).nearness(prompts)

    means = np.stack([rows[labels == index].mean(axis=0) for index in range(NUM_LABELS)])
    around = rows - means[labels]
    within = around.T @ around / (count - NUM_LABELS)
    spread = np.trace(within) / 20
    measure = np.linalg.inv((1 - SHRINKAGE) * within + SHRINKAGE * spread * np.eye(20))
    to_each = prompts[:, None] - means
    squares = np.einsum("pli,ij,plj->pl", to_each, measure, to_each)
    np.testing.assert_allclose(found.squares, squares, rtol=1e-4)

    seen, labelled = prompts - means.mean(axis=0), means - means.mean(axis=0)
    along = seen @ measure @ labelled.T
    lengths = [np.einsum("pi,ij,pj->p", one, measure, one) for one in (seen, labelled)]
    cosines = along / np.sqrt(lengths[0][:, None] * lengths[1])
    np.testing.assert_allclose(found.cosine, cosines.max(axis=1), rtol=1e-3)


def test_of_a_single_label_there_is_no_angle() -> None:
    rows = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
    found = Distances.of(rows, np.zeros(6, np.int64), 1, SHRINKAGE).nearness(rows)
    assert np.abs(found.cosine).max() < 1e-3
    assert found.squares.shape == (6, 1)
