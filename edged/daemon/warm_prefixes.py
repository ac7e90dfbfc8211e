"""What prompts begin with, kept ready: the keys and values of the configured system prompts.

They are computed once and kept in ``state.folder``, so that the first request after a boot does not
wait for them. In the cache each has a place of its own that no other prompt takes.

Rule: never needed. A file that is damaged, or belongs to another model or processor, is made anew.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edged.bundle.folder import Bundle
from edged.config import Config
from edged.daemon.atomic_file import AtomicFile
from edged.engine.loop import Engine
from edged.engine.prepared import device_key
from edged.engine.tokenizer import TemplateError, Tokenizer
from edged.protocol.request import ChatMessage

_LOG = logging.getLogger(__name__)

# A file is the SHA-256 of what follows, and then the keys and values.
FOLDER = "prefixes"
_DIGEST_BYTES = 32
_CHARACTERS_PER_TOKEN = 3
_TEMPLATE_TOKENS = 32


def system_prompts(config: Config) -> tuple[str, ...]:
    """Return the texts that are kept ready."""
    own = (config.request.system_prompt,) if config.request.system_prompt else ()
    return tuple(dict.fromkeys((*own, *config.model.warm_prompts)))


def planned_tokens(config: Config) -> int:
    """Return how many tokens they have at most, for a plan before the tokenizer is loaded."""
    texts = system_prompts(config)
    return sum(len(text) // _CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS for text in texts)


def keep_prefixes(config: Config, bundle: Bundle, engine: Engine, tokenizer: Tokenizer) -> None:
    """Put the configured prefixes into the cache, from their files or computed; that blocks."""
    folder = config.state.folder and config.state.folder / FOLDER
    names = set()
    for prefix in _prefixes(config, tokenizer):
        key = f"{device_key(bundle.sha256)}-{','.join(map(str, prefix))}"
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        names.add(name)
        path = folder and folder / name
        data = _read(path)
        if data is None or not engine.load_prefix(prefix, data):
            _LOG.info("computing %d tokens that prompts begin with, once", len(prefix))
            _write(path, engine.make_prefix(prefix))
    if folder is not None:
        _remove_others(folder, names)


def _remove_others(folder: Path, names: set[str]) -> None:
    with contextlib.suppress(OSError):  # no folder, or none that can be changed
        for other in folder.iterdir():
            if other.name not in names:
                other.unlink()


def _prefixes(config: Config, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yield the token ids that all prompts with each of the texts begin with."""
    for text in system_prompts(config):
        system = ChatMessage("system", text)
        try:
            one, other = (tokenizer.encode_chat((system, ChatMessage("user", u))) for u in "a1")
        except TemplateError:  # a model without system messages: a request will be told
            continue
        prefix = [
            a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
        ]
        if 0 < len(prefix) < config.model.max_model_len:
            yield prefix


def _read(path: Path | None) -> NDArray[np.uint8] | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        _LOG.warning("%s: damaged, and made anew", path)
        return None
    return np.frombuffer(data, np.uint8)


def _write(path: Path | None, data: NDArray[np.uint8]) -> None:
    content = data.tobytes()
    if path is not None:
        with contextlib.suppress(OSError):  # what is wrong is said when the file is written
            path.parent.mkdir(exist_ok=True)
    AtomicFile(path, "state.folder").write(hashlib.sha256(content).digest() + content)
