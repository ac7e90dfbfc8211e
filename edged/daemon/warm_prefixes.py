"""Keys and values of the configured system prompts, kept in the KV cache from the start on.

They are computed once and kept in ``state.folder``, so that the first request after a boot does not
wait for them. Each has a slot of its own that no other prompt takes.

Rule: optional. A file that is damaged, or belongs to another model or processor, is written anew.
"""

import contextlib
import hashlib
import logging
from collections.abc import Container, Iterator, Sequence
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
# Of English and of code; for an estimate.
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
    """Estimate how many tokens they have, before the tokenizer is loaded.

    In scripts with a token or more for each character they have several times as many; how many
    are kept is decided when they are counted.
    """
    texts = (*system_prompts(config), *([BEFORE] if config.specialists else []))
    return sum(len(text) // _CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS for text in texts)


def keep_prefixes(
    config: Config, bundle: Bundle, engine: Engine, tokenizer: Tokenizer, max_tokens: int
) -> int:
    """Put the configured prefixes into the cache, from their files or computed; that blocks.

    Those that would make more than ``max_tokens`` are left out.

    Returns:
        The tokens of those that are kept.
    """
    folder = config.state.folder and config.state.folder / FOLDER
    model_key, names = fingerprint(config, bundle), set()
    prefixes = [*_prefixes(config, tokenizer, engine.max_model_len)]
    if config.specialists and engine.hidden_shape[0]:
        before = Template(tokenizer.encode, tokenizer.beginning_ids).before_ids
        prefixes.append(("specialists", before))
    num_tokens = 0
    for setting, prefix in prefixes:
        if num_tokens + len(prefix) > max_tokens:
            _LOG.warning(
                "%s: %d tokens that prompts begin with do not fit into budget.memory; they are"
                " computed with each request",
                setting,
                len(prefix),
            )
            continue
        num_tokens += len(prefix)
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
    if folder:
        _remove_others(folder, names)
    return num_tokens


def _remove_others(folder: Path, names: Container[str]) -> None:
    # Those of another configuration, model or processor would fill the disk.
    with contextlib.suppress(OSError):  # no folder, or a read-only one
        for other in folder.iterdir():
            if other.name not in names and not other.is_dir():
                other.unlink()


def _prefixes(
    config: Config, tokenizer: Tokenizer, max_model_len: int
) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield each system prompt's key, and the token ids that all prompts with it begin with."""
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
        if 0 < len(prefix) < max_model_len:
            is_own = text == config.request.system_prompt
            yield "request.system_prompt" if is_own else "model.warm_prompts", prefix


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
