"""Download a revision of a Hugging Face hub repository. Runs in ``child``."""

from pathlib import Path
from typing import Any

import requests
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import RepoSibling

from edged.builder.child import OnProgress
from edged.builder.store import hash_file
from edged.errors import BuildError

_WANTED = (".safetensors", ".json", ".jinja", "tokenizer.model", "merges.txt", "README.md")
_UNREACHABLE = (requests.RequestException, LocalEntryNotFoundError, OfflineModeIsEnabled)
_TIMEOUT_S = 30.0


def download(on_progress: OnProgress, repository: str, revision: str, cache: str) -> dict[str, Any]:
    """Download a model's files; files of an interrupted download are not fetched again.

    Returns:
        ``folder`` and ``revision``, the commit of the revision.

    Raises:
        BuildError: The hub cannot be reached, breaks off, or does not have the revision.
    """
    try:
        info = HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S
        )
        files = [file for file in info.siblings or () if _is_wanted(file.rfilename)]
        total = sum(file.size or 0 for file in files)
        done = 0
        on_progress(done, total)
        for file in files:
            path = _fetched(repository, info.sha, file, cache)
            done += file.size or 0
            on_progress(done, total)
    except HfHubHTTPError as error:
        raise BuildError(
            f"{repository}@{revision}: the hub refuses it: {str(error).strip().splitlines()[0]}; "
            "check the name and the revision; for a gated model set HF_TOKEN"
        ) from error
    except _UNREACHABLE as error:
        raise BuildError(
            f"{repository}@{revision}: the hub cannot be reached ({type(error).__name__}). "
            "Check the network, or build from a copy on this machine: edged build FOLDER (a folder "
            "with config.json, tokenizer.json and *.safetensors) or edged build FILE.gguf; "
            "the recipe smollm2-135m-instruct needs only the Python package index"
        ) from error
    except HFValidationError as error:
        raise BuildError(f"{repository}@{revision}: no hub id: {error}") from error
    if not files:
        raise BuildError(f"{repository}@{revision}: there are no model files in it")
    return {"folder": str(path.parent), "revision": info.sha}


def _fetched(repository: str, commit: str, file: RepoSibling, cache: str) -> Path:
    """Return a file, downloaded again where the cache has it damaged.

    Raises:
        BuildError: It arrives damaged.
    """
    for is_again in (False, True):
        path = Path(
            hf_hub_download(
                repository,
                file.rfilename,
                revision=commit,
                cache_dir=cache,
                force_download=is_again,
            )
        )
        if _is_whole(path, file):
            return path
    raise BuildError(f"{repository}: {file.rfilename} arrives damaged; try again later")


def _is_whole(path: Path, file: RepoSibling) -> bool:
    # The client takes what is in the cache as it is.
    if file.size is not None and path.stat().st_size != file.size:
        return False
    return file.lfs is None or hash_file(path) == file.lfs["sha256"]


def _is_wanted(name: str) -> bool:
    # Only the top folder: subfolders hold other formats and frameworks.
    return "/" not in name and name.endswith(_WANTED)
