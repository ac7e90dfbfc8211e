"""What a writer's adapters begin from: nothing, or those of another writer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from edged.builder.adapters import restore_adapter
from edged.builder.lora import AdapterForm, load_state
from edged.builder.peft import read_peft
from edged.builder.peft_folder import trained
from edged.builder.writer.model import TaughtModel
from edged.errors import BuildError, BundleError, UsageError
from edged.specialists.writer import WRITER

# What learned to write commands for hours; from there, other commands are learned from less.
_BESIDE = Path("specialists") / "home" / "specialist"
_NOTHING = "none"


def begin(
    model: Any,  # noqa: ANN401 - transformers' class
    form: AdapterForm,
    given: Path | None,
    base: TaughtModel,
) -> Path | None:
    """Set the adapters to those of a folder.

    Args:
        model: It has adapters of this form.
        form: Of what is taught.
        given: PEFT's folder or a specialist's, or "none"; None is the home specialist beside the
            bundle, where it fits.
        base: What is taught to.

    Returns:
        The folder; None where they begin at nothing.

    Raises:
        UsageError: What is given cannot be read, or is of another model or form.
    """
    if given is not None:
        if str(given) == _NOTHING:
            return None
        _load(model, form, given, base)
        return given
    folder = base.bundle.folder.absolute().parent / _BESIDE
    if not (folder / WRITER).is_file():
        return None
    try:
        _load(model, form, folder, base)
    except UsageError:  # made for another base, or another form
        return None
    print(f"begins from {folder}; `--begin {_NOTHING}` begins from nothing")
    return folder


def _load(model: Any, form: AdapterForm, folder: Path, base: TaughtModel) -> None:  # noqa: ANN401
    """Set the adapters to those of a folder: PEFT's, or a specialist's.

    Raises:
        UsageError: They cannot be read, or are of another model or form.
    """
    is_writer = (folder / WRITER).is_file()
    manifest, reference = base.bundle.manifest, base.reference
    try:
        adapter = restore_adapter(folder, manifest, reference) if is_writer else read_peft(folder)
    except (BuildError, BundleError) as error:
        raise UsageError(f"--begin: {error}") from error
    begun, state = trained(adapter)
    if replace(begun, alpha=form.alpha) != form:
        raise UsageError(f"--begin: {folder}: is {begun}, and {form} is taught")
    factor = begun.scale / form.scale
    load_state(model, {n: t * factor if "lora_B" in n else t for n, t in state.items()})
