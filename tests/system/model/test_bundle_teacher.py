"""The real model as a teacher, where the labels are plain words: it is right, in any order."""

import pytest

from edged.bundle.folder import Bundle
from edged.commands.bundle_teacher import BundleTeacher
from edged.specialists.examples import Example

RIGHT = {
    "Will it rain tomorrow?": "weather",
    "How warm is it outside?": "weather",
    "Play some jazz.": "music",
    "Turn up the song": "music",
    "Add milk and bread to my list.": "shopping",
}


@pytest.mark.parametrize(
    "labels", [["music", "shopping", "weather"], ["weather", "music", "shopping"]]
)
def test_it_knows_what_a_prompt_is_about(real_bundle: Bundle, labels: list[str]) -> None:
    """Four of five: what the builder chooses, and a kernel's rounding, may turn a close one."""
    teacher = BundleTeacher(real_bundle.folder, labels)
    said = [
        labels[int(teacher.ask(Example(prompt, None, 1, "line 1", is_open=True)).argmax())]
        for prompt in RIGHT
    ]
    assert sum(map(str.__eq__, said, RIGHT.values())) >= 4, said
