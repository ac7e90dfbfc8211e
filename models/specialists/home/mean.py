"""The mean of two adapters: what one round of teaching forgets, the one before it has.

Also called weight averaging, or a model soup.
"""

from pathlib import Path

from edged.builder.peft import read_peft
from edged.builder.peft_folder import trained, write_peft
from edged.errors import UsageError


def write_mean(one: Path, other: Path, folder: Path) -> None:
    """Write the adapter half-way between two of one form.

    Args:
        one: PEFT's folder of an adapter.
        other: Of one that was taught from it.
        folder: Of the mean, in the same format.

    Raises:
        UsageError: They differ in form.
        BuildError: One cannot be read.
    """
    (form, state), (other_form, other_state) = (trained(read_peft(it)) for it in (one, other))
    if form != other_form:
        raise UsageError(f"--mean: {one}: is {form}, and {other_form} was taught")
    write_peft(folder, form, {name: (it + other_state[name]) / 2 for name, it in state.items()}, "")
