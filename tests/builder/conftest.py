"""Exports shared by the tests of the builder: each tiny model is exported once per run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.builder.adapted_bundle import AdaptedBundle

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
