"""Lessons of made-up features, for tests of what is taught: fast, and without a model."""

from collections.abc import Sequence

import numpy as np

from edged.specialists.examples import Answer, AnswerKind, Example
from edged.specialists.features import NUM_POOLINGS, Layout
from edged.specialists.folder import BaseModel
from edged.specialists.lesson import Lesson, label_names

LAYOUT = Layout(num_layers=5, hidden_size=8)
WIDTH = NUM_POOLINGS * LAYOUT.width
NUM_LABELS = 6
BASE = BaseModel("a" * 64, "b" * 64, "int8-w8a8/int8", 1)


def drawn(count: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw features around a centre for each label."""
    centres = np.random.default_rng(7).standard_normal((NUM_LABELS, WIDTH)) * 0.6
    random = np.random.default_rng(seed)
    labels = np.arange(count) % NUM_LABELS
    noise = random.standard_normal((count, WIDTH)) * spread
    return (centres[labels] + noise).astype(np.float32), labels


def lesson_of(kind: AnswerKind, answers: Sequence[Answer], features: np.ndarray) -> Lesson:
    """Return the lesson of these answers; a label's name says nothing."""
    examples = [
        Example(f"prompt {index}", answer, index + 1, f"line {index + 1}")
        for index, answer in enumerate(answers)
    ]
    names = {name: np.zeros(WIDTH, np.float32) for name in label_names(kind, examples)}
    return Lesson("six", BASE, LAYOUT, kind, 0.95, 1.0, examples, features, names)


def lesson(count: int = 60, seed: int = 1, spread: float = 1.0) -> Lesson:
    """Return a lesson of single labels."""
    features, labels = drawn(count, seed, spread)
    return lesson_of(AnswerKind.LABEL, [f"label {index}" for index in labels], features)


def labels_lesson(count: int = 60, seed: int = 1) -> Lesson:
    """Return a lesson of several labels: one tells halves apart, the other thirds."""
    features, labels = drawn(count, seed)
    answers = [
        tuple(
            name for name, is_there in (("half", index < 3), ("third", index % 3 == 0)) if is_there
        )
        for index in labels
    ]
    return lesson_of(AnswerKind.LABELS, answers, features)


def number_lesson(count: int = 60, seed: int = 1) -> Lesson:
    """Return a lesson of numbers from 0 to 5."""
    features, labels = drawn(count, seed)
    return lesson_of(AnswerKind.NUMBER, [float(index) for index in labels], features)


def fields_lesson(count: int = 60, seed: int = 1) -> Lesson:
    """Return a lesson of two fields, one of which is not always there."""
    features, labels = drawn(count, seed)
    rooms = ("hall", "bath", None)
    answers: list[Answer] = [
        {"room": rooms[index % 3]} | ({"state": "on"} if index < 3 else {"state": "off"})
        for index in labels
    ]
    return lesson_of(AnswerKind.FIELDS, answers, features)
