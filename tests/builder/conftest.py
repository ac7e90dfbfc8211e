"""Shared by the tests of the builder: tiny exports, and a process with all libraries."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.builder.adapted_bundle import AdaptedBundle

from edged.builder import child

TinyExport = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> TinyExport:
    """Return a function that exports a tiny model of a family into a read-only folder."""
    pytest.importorskip("optimum")
    from tests.builder.tiny_families import export_tiny  # noqa: PLC0415 - needs the build extra

    made: dict[str, Path] = {}

    def export(family: str, **overrides: Any) -> Path:  # noqa: ANN401 - any config key
        key = f"{family} {sorted(overrides.items())!r}"
        if key not in made:
            made[key] = export_tiny(tmp_path_factory.mktemp(family), family, **overrides)
        return made[key]

    return export


@pytest.fixture(scope="session")
def adapted(tiny_export: TinyExport, tmp_path_factory: pytest.TempPathFactory) -> "AdaptedBundle":
    """Return a tiny bundle that takes adapters, and what it was made of."""
    from tests.builder.adapted_bundle import write_adapted_bundle  # noqa: PLC0415 - as above

    return write_adapted_bundle(tiny_export("llama"), tmp_path_factory.mktemp("adapted"))


@pytest.fixture(scope="session")
def importer() -> ForkServerContext:
    """A process that has imported torch and Optimum, which takes seconds, and forks others."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["edged.builder.optimum", "edged.builder.convert"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in child.OFFLINE.items():
            patch.setenv(name, value)
        ensure_running()
    return context


@pytest.fixture
def forked_steps(importer: ForkServerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a build are forked; in a build each begins in a fresh interpreter."""
    monkeypatch.setattr(child, "_CONTEXT", importer)
