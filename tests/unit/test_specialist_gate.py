"""The gate: it finds the specialist for a prompt, or says that none fits; with made-up features."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from edged.specialists import gate as gate_module
from edged.specialists.features import NUM_POOLINGS, Layout
from edged.specialists.folder import Specialist
from edged.specialists.gate import Gate, fit_bytes, fitted_gate
from edged.specialists.gate_examples import GATE_VIEW, GateExamples
from edged.specialists.lesson import taught
from tests.unit.lessons import fields_lesson, lesson, number_lesson

LAYOUT = Layout(num_layers=5, hidden_size=48)
NAMES = ("door", "lamp", "oven")
NUM_LABELS = 4
# One for each label of each specialist, and one that no example has.
CENTRES = np.random.default_rng(3).standard_normal((len(NAMES) * NUM_LABELS + 1, 48)) * 2
NOTHING = len(CENTRES) - 1


@pytest.fixture(scope="module")
def made() -> Specialist:
    return taught(lesson(), lambda _: None)


def drawn(centre: int, count: int, seed: int) -> np.ndarray:
    """Return features of prompts around a centre, ``[count, features]``."""
    random = np.random.default_rng((seed, centre))
    features = random.standard_normal((count, NUM_POOLINGS, LAYOUT.num_layers, 48))
    ((pooling, layer),) = GATE_VIEW
    features[:, pooling, layer] += CENTRES[centre]
    return features.reshape(count, -1).astype(np.float32)


def labels_of(owner: int) -> range:
    return range(owner * NUM_LABELS, (owner + 1) * NUM_LABELS)


def specialist(made: Specialist, owner: int, count: int = 15) -> Specialist:
    features = np.concatenate([drawn(centre, count, 1) for centre in labels_of(owner)])
    labels = np.repeat(np.arange(NUM_LABELS), count)
    description = replace(made.description, num_layers=LAYOUT.num_layers, hidden_size=48)
    return replace(made, description=description, gate=GateExamples.of(LAYOUT, features, labels))


def fitted(made: Specialist, owners: Sequence[int]) -> Gate:
    found = fitted_gate({NAMES[owner]: specialist(made, owner) for owner in owners})
    assert found is not None
    return found


def chosen(gate: Gate, centre: int, count: int = 50) -> list[str | None]:
    return [gate.choose(row).name for row in drawn(centre, count, 2)]


def test_a_prompt_goes_to_the_specialist_whose_examples_are_like_it(made: Specialist) -> None:
    gate = fitted(made, (0, 1, 2))
    for owner, name in enumerate(NAMES):
        found = [one for centre in labels_of(owner) for one in chosen(gate, centre)]
        # Of these prompts a few more than a twentieth count as fitting none.
        assert found.count(name) > 0.85 * len(found)
        assert set(found) <= {name, None}
    choice = gate.choose(drawn(0, 1, 3)[0])
    assert list(choice.probabilities) == list(NAMES)
    assert sum(choice.probabilities.values()) == pytest.approx(1.0)
    assert choice.probabilities["door"] > 0.9


@pytest.mark.parametrize("owners", [(0, 1, 2), (1,)], ids=["of three", "of one"])
def test_a_prompt_like_no_example_fits_none(made: Specialist, owners: Sequence[int]) -> None:
    gate = fitted(made, owners)
    assert chosen(gate, NOTHING).count(None) > 45
    assert chosen(gate, 1 * NUM_LABELS).count("lamp") > 40


def test_many_labels_make_a_specialist_no_more_probable(made: Specialist) -> None:
    door = specialist(made, 0, 16)
    assert door.gate is not None
    # The same examples under twice as many labels.
    halved = GateExamples(door.gate.features, (np.arange(64) // 8).astype(np.int16))
    gate = fitted_gate({"door": door, "lamp": replace(door, gate=halved)})
    assert gate is not None
    shares = [gate.choose(row).probabilities["lamp"] for row in drawn(0, 50, 2)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_without_examples_there_is_no_gate_or_a_specialist_has_no_part_in_it(
    made: Specialist,
) -> None:
    few = replace(made, gate=GateExamples.of(LAYOUT, drawn(0, 1, 1), np.zeros(1, np.int64)))
    assert fitted_gate({}) is None
    assert fitted_gate({"door": replace(made, gate=None), "lamp": few}) is None
    gate = fitted_gate({"door": few, "lamp": specialist(made, 1)})
    assert gate is not None
    assert list(gate.choose(drawn(0, 1, 1)[0]).probabilities) == ["lamp"]


@pytest.mark.parametrize("labels", ["all different", "all the same"])
def test_labels_that_say_nothing_still_tell_specialists_apart(
    made: Specialist, labels: str
) -> None:
    both = {}
    for owner in (0, 1):
        one = specialist(made, owner)
        assert one.gate is not None
        numbers = np.arange(len(one.gate.labels)) if labels == "all different" else [0] * 60
        both[NAMES[owner]] = replace(
            one, gate=GateExamples(one.gate.features, np.array(numbers, np.int16))
        )
    gate = fitted_gate(both)
    assert gate is not None
    found = [gate.choose(row).probabilities["lamp"] > 0.5 for row in drawn(5, 50, 2)]
    assert np.mean(found) > 0.9


@pytest.mark.parametrize("num_labels", [1, 2])
def test_even_of_few_labels_it_is_known_what_is_like_none(
    made: Specialist, num_labels: int
) -> None:
    """Along the only direction in which two labels differ, everything is like one of them."""
    one = specialist(made, 0)
    assert one.gate is not None
    labels = (np.arange(len(one.gate.labels)) // 15 % num_labels).astype(np.int16)
    gate = fitted_gate({"door": replace(one, gate=GateExamples(one.gate.features, labels))})
    assert gate is not None
    assert chosen(gate, NOTHING).count(None) > 45
    assert chosen(gate, 0).count("door") > 40


def test_the_fit_is_bounded_whatever_the_folders_hold(
    made: Specialist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "_MAX_NUMBERS", 100 * 48)
    monkeypatch.setattr(gate_module, "_MAX_LABELS", 6)
    kept = [specialist(made, owner, count).gate for owner, count in enumerate((5, 30, 30))]
    rows, labels, owners = gate_module._joined([one for one in kept if one is not None])
    assert 95 < len(rows) == len(labels) <= 100
    # Those of few examples keep theirs.
    assert np.bincount(owners[labels]).tolist() == [20, 40, 40]
    assert owners.tolist() == [0, 0, 1, 1, 2, 2]
    assert fit_bytes(1000) == 40_000
    assert fit_bytes(1 << 40) == 32 << 20


def test_no_label_has_a_single_example() -> None:
    merged = gate_module._merged(np.array([7, -3, 7, 9, 4, 9], np.int16), 256)
    assert merged.tolist() == [0, 0, 0, 1, 0, 1]
    assert gate_module._merged(np.arange(5, dtype=np.int16), 256).tolist() == [0] * 5


def test_a_gate_is_small(made: Specialist) -> None:
    # A column for each label, and one for each feature.
    assert fitted(made, (0, 1)).size_bytes == 4 * 48 * (8 + 48 + 3) + 8 * 8


def test_a_lesson_marks_examples_of_equal_answers_and_of_near_numbers() -> None:
    gate = taught(fields_lesson(), lambda _: None).gate
    assert gate is not None
    assert len(set(gate.labels.tolist())) == 6
    numbers = number_lesson()
    gate = taught(numbers, lambda _: None).gate
    assert gate is not None
    # Six numbers, and no more steps than there are numbers.
    assert 2 < len(set(gate.labels.tolist())) <= 6
