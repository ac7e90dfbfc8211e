"""Exports shared by the builder's tests: each tiny model is made once in a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TinyExport = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> TinyExport:
    """Return a function that exports a tiny model of a family; not to be written into."""
    pytest.importorskip("optimum")
    from tests.builder.tiny_families import export_tiny  # noqa: PLC0415 - needs the build extra

    made: dict[str, Path] = {}

    def export(family: str, **overrides: Any) -> Path:  # noqa: ANN401 - any config key
        key = f"{family} {sorted(overrides.items())!r}"
        if key not in made:
            made[key] = export_tiny(tmp_path_factory.mktemp(family), family, **overrides)
        return made[key]

    return export
