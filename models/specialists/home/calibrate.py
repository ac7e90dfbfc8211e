"""Make a home specialist's confidence mean what it says, on forms and names that it never saw.

``edged teach`` calibrates on examples that it keeps apart. They are of the forms that are learned,
and people say things in others. And an answer is ``unsure`` where it is rather wrong than right.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edged.builder.writer.results import scaled, summed
from edged.commands.writer_figures import AskedWriter
from edged.specialists.folder import Result
from edged.specialists.writer import ADAPTER, read_description, write_writer
from models.specialists.home.generator.examples import Example
from models.specialists.home.generator.judge import judge
from models.specialists.home.measure import ask

_UNSURE_BELOW = 0.5


def calibrate(folder: Path, model: Path, examples: Sequence[Example]) -> Result:
    """Write into a specialist's folder what its probabilities mean; return how good it was.

    Args:
        folder: Of the specialist.
        model: The bundle that it was taught to.
        examples: None of those that it is judged by later.
    """
    home = AskedWriter(folder, model)
    asked = [example.as_json() for example in examples]
    replies = [ask(home, example) for example in asked]
    is_right = [one.is_right for one in judge(asked, [one.value for one in replies])]
    found = [one.log_probability for one in replies]
    description = scaled(read_description(folder)[0], found, np.array(is_right))
    description = replace(description, unsure_below=_UNSURE_BELOW)
    result = summed(description, found, is_right, _UNSURE_BELOW)
    description, adapter = replace(description, result=result), (folder / ADAPTER).read_bytes()
    write_writer(folder, description, adapter, home.writer.choice)
    return result
