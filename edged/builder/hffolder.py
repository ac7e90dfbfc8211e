"""Read a local Hugging Face folder: its files, stop tokens, chat template and licence."""

import json
import math
import operator
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edged.builder.stop_tokens import turn_end
from edged.bundle.manifest import TOKENIZER
from edged.engine.tokenizer import definition
from edged.errors import BuildError, BundleError

_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"
# In the header of a model card. No YAML reader: the card is a stranger's, and one line is enough.
_LICENCE = re.compile(r"---\n(?:(?!---).*\n)*?license: *[\"']?([\w.+-]+)[\"']? *(?:#.*)?\n")
_LARGEST_ID = (1 << 31) - 1
_MAX_CARD_CHARACTERS = 1 << 16
_MAX_HEADER_BYTES = 100_000_000  # as the safetensors library has it
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
_TOKENIZERS = (TOKENIZER, "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")


@dataclass(frozen=True, slots=True)
class HfFolder:
    """A folder with a readable config.json and complete weights."""

    path: Path
    config: dict[str, Any]
    weights: tuple[str, ...]
    """Names of the safetensors files."""
    settings: tuple[str, ...]
    """Names of the other files that affect the model's output."""

    @property
    def files(self) -> list[str]:
        """Names of all files that are hashed."""
        return sorted((*self.weights, *self.settings))

    @property
    def size_bytes(self) -> int:
        """Size of all files that are hashed."""
        return sum((self.path / name).stat().st_size for name in self.files)


def open_folder(path: Path) -> HfFolder:
    """Read a folder's configuration and list its files.

    Raises:
        BuildError: A file is missing or damaged, or the weights are of a refused kind.
    """
    config = _read_json(path / "config.json")
    if "quantization_config" in config:
        said = config["quantization_config"]
        method = said.get("quant_method", "unknown") if isinstance(said, dict) else said
        raise BuildError(
            f"{path}: the weights are already quantized ({method}); take the original ones"
        )
    settings = [name for name in (*_SETTINGS, *_TOKENIZERS) if (path / name).is_file()]
    if not set(settings) & {TOKENIZER, "tokenizer.model", "vocab.json"}:
        raise BuildError(f"{path}: there is no {TOKENIZER} (and no tokenizer.model) in it")
    return HfFolder(path, config, _weights(path), tuple(settings))


def tensor_sizes(folder: Path) -> list[int]:
    """Return the number of elements of each tensor of a folder's weights.

    Raises:
        BuildError: The weights are missing or damaged.
    """
    names = [name for name in _weights(folder) if name != _INDEX]
    return [size for name in names for size in _tensor_sizes(folder / name)]


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json as the device reads it.

    Raises:
        BuildError: It is not a tokenizer, or of a kind that the device refuses.
    """
    try:
        tokenizer = definition.read_tokenizer(path.read_text(encoding="utf-8"))
    except (BundleError, OSError, UnicodeDecodeError) as error:
        reason = str(error).removeprefix(f"{TOKENIZER}: ").partition("; rebuild")[0]
        raise BuildError(f"{path}: {reason}") from error
    if not tokenizer.encode("a", add_special_tokens=False).ids:
        raise BuildError(f"{path}: makes no tokens of a text: its vocabulary is not the model's")
    return tokenizer


def token_facts(folder: HfFolder, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a folder's stop token ids, chat template and special tokens.

    Raises:
        BuildError: A file is damaged, or no stop token is named.
    """
    settings = _optional_json(folder, "tokenizer_config.json")
    generation = _optional_json(folder, "generation_config.json")
    bos = _token_text(settings.get("bos_token")) or _of_id(tokenizer, folder.config, "bos_token_id")
    eos = _token_text(settings.get("eos_token")) or _of_id(tokenizer, folder.config, "eos_token_id")
    template = _template(folder, settings)
    stops: set[int | None] = set(_ids(generation.get("eos_token_id")))
    stops = stops or set(_ids(folder.config.get("eos_token_id")))
    if template is not None:
        stops.add(turn_end(template, tokenizer, bos, eos))
    if not stops - {None} and eos is not None:
        stops.add(tokenizer.token_to_id(eos))
    stop_token_ids = sorted(stop for stop in stops if stop is not None)
    if not stop_token_ids:
        raise BuildError(
            f"{folder.path}: nothing names the end of an answer: set eos_token_id in "
            "generation_config.json or config.json"
        )
    return {
        "stop_token_ids": stop_token_ids,
        "chat_template": template,
        "bos_token": bos,
        "eos_token": eos,
        "add_bos_token": _adds_bos(folder.path / TOKENIZER, tokenizer, bos),
    }


def licence(folder: Path) -> str | None:
    """Return the licence in the model card, or None."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open(encoding="utf-8", errors="replace") as file:
        found = _LICENCE.match(file.read(_MAX_CARD_CHARACTERS))
    return found[1] if found else None


def _weights(path: Path) -> tuple[str, ...]:
    # As Transformers does it: what the index names is not read where there is one file.
    has_index = (path / _INDEX).is_file() and not (path / _WEIGHTS).is_file()
    names = _indexed(path / _INDEX) if has_index else [_WEIGHTS]
    for name in names:
        if not (path / name).is_file():
            pickled = "; .bin files can run code and are not read" if _has_pickle(path) else ""
            raise BuildError(f"{path}: the weights {name} are missing{pickled}")
    return (*names, _INDEX) if has_index else tuple(names)


def _indexed(index: Path) -> list[str]:
    named = _read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise BuildError(f"{index}: weight_map must name the file of each weight")
    names = sorted(set(map(str, named.values())))
    for name in names:
        # Transformers would read any other file as a pickle.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BuildError(f"{index}: {name!r} is no safetensors file in this folder")
    return names


def _tensor_sizes(path: Path) -> list[int]:
    # safetensors: 8 bytes little-endian length, then that much JSON, then the tensors' bytes.
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, _MAX_HEADER_BYTES)))
        header.pop("__metadata__", None)
        offsets = [entry["data_offsets"] for entry in header.values()]
        sizes = [math.prod(map(operator.index, entry["shape"])) for entry in header.values()]
        size_bytes = path.stat().st_size - 8 - length
        is_whole = sum(end - begin for begin, end in offsets) == size_bytes
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BuildError(f"{path}: not a safetensors file ({error}); download it again") from error
    if not is_whole or any(not 0 <= size <= 8 * size_bytes for size in sizes):
        raise BuildError(f"{path}: its tensors are not of the file's size; download it again")
    return sizes


def _has_pickle(path: Path) -> bool:
    return any(path.glob("*.bin")) or any(path.glob("*.pt"))


def _template(folder: HfFolder, settings: dict[str, Any]) -> str | None:
    path = folder.path / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BuildError(f"{path}: not UTF-8 text: {error}") from error
    template = settings.get("chat_template")
    if template is None:
        template = _optional_json(folder, "chat_template.json").get("chat_template")
    if isinstance(template, list):  # several templates by name
        named = [item for item in template if isinstance(item, dict)]
        found = [item.get("template") for item in named if item.get("name") == "default"]
        template = found[-1] if found else None
    return template if isinstance(template, str) and template else None


def _adds_bos(path: Path, tokenizer: Tokenizer, bos: str | None) -> bool:
    # Measured: tokenizer_config.json may say something else than the tokenizer does.
    try:
        ids = tokenizer.encode("a", add_special_tokens=True).ids
    except BaseException as error:
        if not definition.is_library_failure(error):
            raise
        raise BuildError(f"{path}: post_processor: cannot be run ({error})") from error
    return bos is not None and ids[:1] == [tokenizer.token_to_id(bos)]


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):  # an AddedToken written out
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _of_id(tokenizer: Tokenizer, config: dict[str, Any], key: str) -> str | None:
    for token_id in _ids(config.get(key)):
        text = tokenizer.id_to_token(token_id)
        return None if text is None else str(text)
    return None


def _ids(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if type(item) is int and 0 <= item <= _LARGEST_ID]


def _optional_json(folder: HfFolder, name: str) -> dict[str, Any]:
    return _read_json(folder.path / name) if name in folder.settings else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        # Half of a surrogate pair: a manifest could not be written.
        json.dumps(document, ensure_ascii=False).encode()
    except OSError as error:
        raise BuildError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BuildError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BuildError(f"{path}: must be a JSON object")
    return document
