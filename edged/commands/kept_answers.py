"""A teacher's answers, kept in a file until all are there: a run that was ended goes on from them.

Rule: a file that cannot be read or written costs what it is for, and ends nothing.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from edged.bundle.disk import make_folders
from edged.specialists.examples import Example
from edged.specialists.teacher import Doubles, Teacher


class KeptAnswers:
    """Asks a teacher only what it did not answer in a run that was ended.

    Args:
        teacher: Chooses one of the labels.
        name: Of it: another one's answers are not used.
        labels: What it chooses from.
        path: Of the file.
    """

    def __init__(self, teacher: Teacher, name: str, labels: Sequence[str], path: Path) -> None:
        self._teacher, self._path = teacher, path
        self._known: dict[str, list[float] | None] = {}
        head = _line({"teacher": name, "labels": [*labels]})
        with suppress(OSError, ValueError, KeyError, TypeError):
            first, *others = path.read_text(encoding="ascii").splitlines(keepends=True)
            # The last one may be half written.
            whole = [line for line in others if line.endswith("\n")] if first == head else []
            self._known = {row["prompt"]: row["shares"] for row in map(json.loads, whole)}
        self.num_known = len(self._known)
        """Prompts that were answered before."""
        with suppress(OSError):
            make_folders(path.parent)
            rows = ({"prompt": prompt, "shares": found} for prompt, found in self._known.items())
            begin_file(path, head + "".join(map(_line, rows)))

    def ask(self, example: Example) -> Doubles | None:
        """Return the probability of each label, as it is known or else as the teacher says.

        Raises:
            EdgedError: it cannot be asked, or refuses the prompt.
        """
        prompt = example.prompt
        if prompt not in self._known:
            found = self._teacher.ask(example)
            self._known[prompt] = None if found is None else found.tolist()
            with suppress(OSError), self._path.open("a", encoding="ascii") as file:
                file.write(_line({"prompt": prompt, "shares": self._known[prompt]}))
        known = self._known[prompt]
        return None if known is None else np.array(known, np.float64)

    def forget(self) -> None:
        """Remove the file: another run asks anew."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def begin_file(path: Path, text: str) -> None:
    """Replace a file of answers, which took minutes: it is whole at each time.

    Raises:
        OSError: It cannot be written.
    """
    partial = path.with_name(f"{path.name}.new")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _line(row: Mapping[str, object]) -> str:
    return json.dumps(row) + "\n"
