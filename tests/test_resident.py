"""READY is a promise: it is given after the model has answered, and not by one that cannot."""

from dataclasses import replace
from pathlib import Path

import pytest

from edged.bundle import open_bundle, write_manifest
from edged.manifest import MODEL
from tests.broker.daemons import daemon, serve_arguments
from tests.tiny_graphs import TinyConfig
from tests.tiny_model import write_tiny_bundle, write_tiny_model

NOBODY = "mqtt://127.0.0.1:1"


def test_a_model_that_loads_and_cannot_answer_is_never_ready(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    manifest = open_bundle(folder).manifest
    # The prompt's tokens are beyond its vocabulary: all is loaded, and the first answer fails.
    write_tiny_model(folder / MODEL, replace(TinyConfig(), vocab_size=4))
    write_manifest(folder, manifest)
    with (
        daemon(tmp_path, *serve_arguments(folder, NOBODY)) as process,
        pytest.raises(AssertionError, match="ended before READY=1"),
    ):
        process.until("READY=1")
    assert "a prompt token is outside the vocabulary" in process.log, "it failed earlier"


def test_one_that_answers_is_ready_without_a_broker(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    with daemon(tmp_path, *serve_arguments(folder, NOBODY)) as process:
        process.until("READY=1")
        assert process.stop() == 0
