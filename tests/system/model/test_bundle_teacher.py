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
    teacher = BundleTeacher(real_bundle.folder, labels)
    for prompt, right in RIGHT.items():
        probabilities = teacher.ask(Example(prompt, None, 1, "line 1", is_open=True))
        assert labels[int(probabilities.argmax())] == right
