"""The distance of prompts to labels, against its definition."""

import numpy as np
import pytest

from edged.specialists.distance import Distance
from edged.specialists.head import Directions, Scatter, reduced

SHRINKAGE, NUM_LABELS = 0.7, 3


@pytest.mark.parametrize("count", [12, 60], ids=["fewer examples than features", "more"])
def test_it_is_the_mahalanobis_distance_to_the_nearest_label(count: int) -> None:
    random = np.random.default_rng(1)
    labels = np.arange(count) % NUM_LABELS
    rows = random.standard_normal((count, 20)) + 2 * random.standard_normal((3, 20))[labels]
    rows = (rows - rows.mean(axis=0)).astype(np.float32)
    basis, coordinates = reduced(rows)
    scatter = Scatter.of(coordinates, labels, np.ones(count), NUM_LABELS, 20)
    # Next to no noise, so that the means are those of the examples.
    head = Directions(scatter, SHRINKAGE).head(1e-9)
    head = type(head)(
        (basis @ head.projection).astype(np.float32), head.offset, head.means, head.variances
    )
    distance = Distance.of(head, basis, scatter, SHRINKAGE)
    prompts = random.standard_normal((5, 20)).astype(np.float32)

    means = np.stack([rows[labels == index].mean(axis=0) for index in range(NUM_LABELS)])
    around = rows - means[labels]
    within = around.T @ around / (count - NUM_LABELS)
    spread = np.trace(within) / 20
    measure = np.linalg.inv((1 - SHRINKAGE) * within + SHRINKAGE * spread * np.eye(20))
    to_each = prompts[:, None] - means
    squares = np.einsum("pli,ij,plj->pl", to_each, measure, to_each)
    np.testing.assert_allclose(distance.squares(prompts), squares.min(axis=1), rtol=1e-3)
