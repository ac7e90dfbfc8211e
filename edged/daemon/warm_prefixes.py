"""Keys and values of the configured system prompts, kept in the KV cache from the start on.

They are computed once and kept in ``state.folder``, so that the first request after a boot does not
wait for them. Each has a slot of its own that no other prompt takes.

Rule: optional. A file that is damaged, or belongs to another model or processor, is written anew.
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
from edged.bundle.plain_file import read_plain
from edged.config.keys import Config
from edged.daemon.atomic_file import AtomicFile
from edged.daemon.measurements import fingerprint
from edged.engine.loop import Engine
from edged.engine.tokenizer import TemplateError, Tokenizer
from edged.protocol.request import ChatMessage
from edged.specialists.features import BEFORE, Template

_LOG = logging.getLogger(__name__)

FOLDER = "prefixes"
# A file is the SHA-256 of what follows, and then the keys and values.
_DIGEST_BYTES = 32
# For an upper bound on the tokens of a text, before the tokenizer is loaded.
_CHARACTERS_PER_TOKEN = 3
_TEMPLATE_TOKENS = 32


def system_prompts(config: Config) -> tuple[str, ...]:
    """Return the system prompts that are kept, each once."""
    own = (config.request.system_prompt,) if config.request.system_prompt else ()
    return tuple(dict.fromkeys((*own, *config.model.warm_prompts)))


def num_prefixes(config: Config) -> int:
    """Count the prefixes that are kept: one is what all specialists read before a prompt."""
    return len(system_prompts(config)) + bool(config.specialists)


def planned_tokens(config: Config) -> int:
    """Estimate how many tokens they have at most."""
    texts = (*system_prompts(config), *([BEFORE] if config.specialists else []))
    return sum(len(text) // _CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS for text in texts)


def keep_prefixes(config: Config, bundle: Bundle, engine: Engine, tokenizer: Tokenizer) -> None:
    """Put the configured prefixes into the cache, from their files or computed; that blocks."""
    folder = config.state.folder and config.state.folder / FOLDER
    model_key, names = fingerprint(config, bundle), set()
    prefixes = [*_prefixes(config, tokenizer)]
    if config.specialists and engine.hidden_shape[0]:
        prefixes.append(Template(tokenizer.encode, tokenizer.beginning_ids).before_ids)
    for prefix in prefixes:
        key = f"{model_key}-{','.join(map(str, prefix))}"
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        names.add(name)
        path = folder and folder / name
        max_bytes = len(prefix) * bundle.manifest.model.kv_bytes_per_token
        data = _read(path, max_bytes) if path else None
        if data is None or not engine.load_prefix(prefix, data):
            _LOG.info("computing %d tokens that prompts begin with, once", len(prefix))
            data = engine.make_prefix(prefix)
            if path:
                _write(path, data)
    # Those of another configuration, model or processor would fill the disk.
    with contextlib.suppress(OSError):  # no folder, or a read-only one
        for other in folder.iterdir() if folder else ():
            if other.name not in names and not other.is_dir():
                other.unlink()


def _prefixes(config: Config, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yield the token ids that all prompts with each system prompt begin with."""
    for text in system_prompts(config):
        system = ChatMessage("system", text)
        try:
            one, other = (
                tokenizer.encode_chat((system, ChatMessage("user", question)))
                for question in ("a", "1")
            )
        except TemplateError:  # a model without system messages: the request gets the error
            continue
        pairs = zip(one, other, strict=False)
        prefix = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        if 0 < len(prefix) < config.model.max_model_len:
            yield prefix


def _read(path: Path, max_bytes: int) -> NDArray[np.uint8] | None:
    try:
        content = read_plain(path, _DIGEST_BYTES + max_bytes)
    except FileNotFoundError:
        return None
    except OSError as error:
        _LOG.warning("%s: cannot be read, and is computed anew: %s", path, error.strerror)
        return None
    digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() == digest:
        return np.frombuffer(data, np.uint8)
    _LOG.warning("%s: damaged, and computed anew", path)
    return None


def _write(path: Path, data: NDArray[np.uint8]) -> None:
    content = data.tobytes()
    with contextlib.suppress(OSError):  # what is wrong is said when the file is written
        path.parent.mkdir(exist_ok=True)
    AtomicFile(path, "state.folder").write(hashlib.sha256(content).digest() + content)
