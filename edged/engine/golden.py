"""Golden answers: what a model wrote where it was built. A device compares before it may serve.

On a processor of the same class, with the same ONNX Runtime, every token must be the same.
Elsewhere kernels round in another way, and a choice between two tokens that are almost as likely
may fall otherwise: there nearly all must be.
"""

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime

from edged.bundle.folder import MAX_GOLDEN_BYTES, Bundle
from edged.bundle.manifest import GOLDEN
from edged.bundle.plain_file import read_plain
from edged.bundle.strict_json import decode, read_json
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.prepared import describe_processor
from edged.engine.steps import EngineSettings, Token
from edged.engine.tokenizer import Tokenizer
from edged.errors import BundleError
from edged.protocol.request import ChatMessage, SamplingParams

PROMPTS = (
    "What is the capital of France? Answer in one sentence.",
    "Turn off the lamp in the kitchen.",
    "Count from one to ten.",
)
NUM_TOKENS = 24
# Of all tokens, where the kernels are others.
LEAST_AGREEMENT = 0.95
_CONTEXT = 512
_CPUINFO = Path("/proc/cpuinfo")
# Extensions that ONNX Runtime has kernels of their own for.
_KERNELS = re.compile(r"\b(avx2|avx512f|avx512_vnni|avx_vnni|amx_int8|asimddp|i8mm|sve)\b")


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """What a model wrote to one prompt."""

    prompt: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Golden:
    """The content of the file."""

    device: str
    """Class of the processor: its kind, its extensions, and ONNX Runtime's version."""
    answers: tuple[GoldenAnswer, ...]


def device_class(cpuinfo: Path = _CPUINFO) -> str:
    """Return the class of this machine's processor."""
    found = set(_KERNELS.findall("\n".join(describe_processor(("flags", "Features"), cpuinfo))))
    return " ".join([platform.machine(), *sorted(found), onnxruntime.__version__])


def record(bundle: Bundle) -> None:
    """Have a model answer, and write the file into its folder; blocks for seconds.

    Raises:
        BundleError: It cannot be loaded.
        OSError: The file cannot be written.
    """
    engine, tokenizer = _loaded(bundle)
    answers = tuple(
        GoldenAnswer(prompt, tuple(_written(engine, _prompt_ids(tokenizer, prompt), NUM_TOKENS)))
        for prompt in PROMPTS
    )
    text = json.dumps(asdict(Golden(device_class(), answers))) + "\n"
    (bundle.folder / GOLDEN).write_text(text, encoding="utf-8")


def check(bundle: Bundle) -> str:
    """Have a model answer again, and compare; blocks for seconds. Return how it was, in words.

    Raises:
        BundleError: It answers otherwise, the file is damaged, or the model cannot be loaded.
    """
    try:
        data = read_plain(bundle.folder / GOLDEN, MAX_GOLDEN_BYTES)
    except FileNotFoundError:
        return f"it has no {GOLDEN}, so its answers were not compared"
    except OSError as error:
        raise BundleError(f"{bundle.folder}: {GOLDEN}: {error.strerror}") from error
    engine, tokenizer = _loaded(bundle)
    try:
        golden = decode(Golden, read_json(data))
        num_tokens = sum(len(answer.token_ids) for answer in golden.answers)
        num_agreed = sum(_agreed(engine, tokenizer, answer) for answer in golden.answers)
    except (ValueError, RecursionError) as error:
        problem = f"{bundle.folder}: {GOLDEN}: {error}"
        raise BundleError(f"{problem}; rebuild the bundle with `edged build`") from error
    is_same = golden.device == device_class()
    least = num_tokens if is_same else LEAST_AGREEMENT * num_tokens
    said = f"{num_agreed} of {num_tokens} golden tokens are the same"
    if num_agreed < least:
        raise BundleError(
            f"{bundle.folder}: only {said} as where it was built ({golden.device}); do not use it "
            "here, rebuild it with `edged build`"
        )
    return said


def _loaded(bundle: Bundle) -> tuple[Engine, Tokenizer]:
    context = min(_CONTEXT, bundle.manifest.limits.max_model_len)
    return load_engine(bundle, EngineSettings(context)), Tokenizer.load(bundle)


def _prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    return list(tokenizer.encode_chat((ChatMessage("user", prompt),)))


def _written(engine: Engine, prompt_ids: Sequence[int], max_tokens: int) -> list[int]:
    steps = engine.generate(prompt_ids, SamplingParams(), max_tokens=max_tokens)
    return [step.token_id for step in steps if isinstance(step, Token)]


def _agreed(engine: Engine, tokenizer: Tokenizer, answer: GoldenAnswer) -> int:
    """Return how many tokens are chosen again, each behind those before it.

    Raises:
        ValueError: Prompt and answer do not fit the context, or a token is unknown.
    """
    prompt_ids, expected = _prompt_ids(tokenizer, answer.prompt), list(answer.token_ids)
    num_agreed = start = 0
    while start < len(expected):
        left = expected[start:]
        found = _written(engine, [*prompt_ids, *expected[:start]], len(left))
        same = next(
            (i for i, (one, other) in enumerate(zip(found, left, strict=False)) if one != other),
            len(found),
        )
        num_agreed += same
        start += same + 1
    return num_agreed
