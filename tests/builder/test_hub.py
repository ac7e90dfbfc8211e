"""A download is whole, or its error says why, whatever the network and the cache do."""

import socket
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the build extra")

import huggingface_hub
from huggingface_hub import constants

from edged.builder import hub
from edged.errors import BuildError
from tests.builder import hub_server

WEIGHTS = "model.safetensors"
FILES = {"config.json": b"{}", WEIGHTS: b"weights" * 100}


def download(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The client read its environment when it was imported.
    for name in ("HfApi", "hf_hub_download"):
        monkeypatch.setattr(hub, name, partial(getattr(huggingface_hub, name), endpoint=address))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    done = hub.download(lambda *_: None, hub_server.REPOSITORY, "main", str(cache))
    return Path(done["folder"])


@pytest.mark.parametrize("damaged", [b"weighty" * 100, b"weights", b""])
def test_a_file_that_the_cache_has_damaged_is_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    with hub_server.serve(FILES) as (address, _):
        folder = download(address, tmp_path, monkeypatch)
        (folder / WEIGHTS).resolve().write_bytes(damaged)
        assert download(address, tmp_path, monkeypatch) == folder
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_a_file_that_arrives_damaged_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        hub_server.serve(FILES, sent={WEIGHTS: b"weighty" * 100}) as (address, _),
        pytest.raises(BuildError, match=r"^org/tiny: model.safetensors arrives damaged; try again"),
    ):
        download(address, tmp_path, monkeypatch)


def test_a_download_that_breaks_off_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        hub_server.serve(FILES, cut=WEIGHTS) as (address, _),
        pytest.raises(BuildError, match=r"cannot be reached \(ChunkedEncodingError\). Check the"),
    ):
        download(address, tmp_path, monkeypatch)


def test_a_hub_that_never_answers_is_not_waited_for_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(BuildError, match=r"the hub cannot be reached \(ReadTimeout\)"),
    ):
        download(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, monkeypatch)
