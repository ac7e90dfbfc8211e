"""The real int8 model in the engine: correct answers, reference tokens, no side effects."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from edged.bundle.folder import Bundle
from edged.engine.grammar import compile_format
from edged.engine.loading import load_graph
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings, Token
from edged.engine.tokenizer import Tokenizer
from edged.protocol.request import ChatMessage, FormatType, OutputFormat, SamplingParams
from tests.requirements import require

CAPITAL = "What is the capital of France? Answer in one sentence."
PROMPTS = (
    CAPITAL,
    "Is the boiler ok if the water is 62 degrees?",
    "Name three colours.",
    "Write a haiku about a pump.",
    "What does code E18 on a washing machine mean?",
    "Translate 'good morning' to French.",
    "2 + 2 =",
    "List the days of the week.",
    "Explain what a relay does in one sentence.",
    "Turn on the kitchen light.",
    "Summarise: the tank is at 80 %, the valve is open, the flow is 3 l/min.",
    "Why is the sky blue?",
    "Give me a JSON object with a key 'on'.",
    "What is 17 times 3?",
    "Who wrote Hamlet?",
    "How long do I boil an egg?",
    "The motor draws 12 A at 24 V. What is its power?",
    "Say hello in Spanish.",
    "Which gas do plants take in?",
    "Correct this sentence: he go to school.",
)


def answer(
    engine: Engine, tokenizer: Tokenizer, prompt: str, sampling: SamplingParams, max_tokens: int
) -> str:
    """Return the text of one answer."""
    stream = tokenizer.detokenizer()
    prompt_ids = tokenizer.encode_chat((ChatMessage("user", prompt),))
    steps = engine.generate(prompt_ids, sampling, max_tokens=max_tokens)
    tokens = (step for step in steps if isinstance(step, Token) and not step.is_stop)
    return "".join(stream.push(token.token_id) for token in tokens) + stream.flush()


def token_ids(engine: Engine, prompt_ids: Sequence[int], count: int) -> list[int]:
    steps = engine.generate(prompt_ids, SamplingParams(), max_tokens=count)
    return [step.token_id for step in steps if isinstance(step, Token)]


def test_the_model_knows_the_capital_of_france(engine: Engine, tokenizer: Tokenizer) -> None:
    text = answer(engine, tokenizer, CAPITAL, SamplingParams(), 32)
    assert text == "The capital of France is Paris."


def test_the_manifest_shows_the_gate_passed(real_bundle: Bundle) -> None:
    quality = real_bundle.manifest.quality
    assert quality.passed
    assert quality.tokens >= 4000
    assert quality.mean_kl <= quality.limits.mean_kl <= 0.010
    assert quality.perplexity_ratio <= quality.limits.perplexity_ratio <= 1.010
    assert quality.argmax_agreement >= quality.limits.argmax_agreement >= 0.95


def test_the_fused_fp32_graph_chooses_the_tokens_of_the_export(
    real_bundle: Bundle, tokenizer: Tokenizer
) -> None:
    """Greedy token ids on 10 prompts, from the fused graph and from Optimum's export."""
    from edged.builder.export import find_export  # noqa: PLC0415 - needs the build extra
    from edged.builder.pipeline import default_cache  # noqa: PLC0415
    from edged.builder.recipe import load_recipe  # noqa: PLC0415
    from tests.system.model.conftest import RECIPE  # noqa: PLC0415

    sha256 = load_recipe(RECIPE).source.sha256 or ""
    export = find_export(sha256, default_cache())
    assert export is not None, "the build leaves its export in the cache"
    fused_path = default_cache() / "fused" / sha256 / "model.onnx"
    stop_ids = real_bundle.manifest.stop_token_ids
    engines = [
        Engine(
            load_graph(path, is_fused=is_fused, max_model_len=256), stop_ids, EngineSettings(256)
        )
        for path, is_fused in ((fused_path, True), (export.model_path, False))
    ]
    for prompt in PROMPTS[::2]:
        prompt_ids = tokenizer.encode_chat((ChatMessage("user", prompt),))
        fused, exported = (token_ids(engine, prompt_ids, 12) for engine in engines)
        assert fused == exported, prompt


def test_the_same_seed_gives_the_same_answer(engine: Engine, tokenizer: Tokenizer) -> None:
    def sampled(seed: int) -> str:
        sampling = SamplingParams(temperature=1.0, top_k=50, top_p=0.95, seed=seed)
        return answer(engine, tokenizer, "Tell me a story.", sampling, 24)

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_a_cached_prefix_is_not_computed_again(engine: Engine, tokenizer: Tokenizer) -> None:
    prompt_ids = tokenizer.encode_chat((ChatMessage("user", CAPITAL),))
    first = token_ids(engine, prompt_ids, 8)
    steps = engine.generate(prompt_ids, SamplingParams(), max_tokens=8)
    prefilled = next(iter(steps))
    again = [step.token_id for step in steps if isinstance(step, Token)]
    assert getattr(prefilled, "cached_tokens", 0) == len(prompt_ids) - 1
    assert again == first


def test_a_choice_and_a_schema_constrain_the_real_model(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    prompt_ids = tokenizer.encode_chat((ChatMessage("user", "Is Paris in France?"),))

    def held(output_format: OutputFormat) -> str:
        constraint = compile_format(tokenizer, output_format)
        stream = tokenizer.detokenizer()
        steps = engine.generate(prompt_ids, SamplingParams(), max_tokens=48, constraint=constraint)
        tokens = (step for step in steps if isinstance(step, Token) and not step.is_stop)
        return "".join(stream.push(token.token_id) for token in tokens)

    assert held(OutputFormat(FormatType.CHOICE, choices=("yes", "no"))) in ("yes", "no")
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "sure": {"type": "boolean"}},
        "required": ["city", "sure"],
        "additionalProperties": False,
    }
    members = json.loads(held(OutputFormat(FormatType.JSON_SCHEMA, schema=schema)))
    assert set(members) == {"city", "sure"}


def test_an_answer_cancelled_during_prefill_does_not_change_the_next_one(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    """A cancel between two chunks: the consumer stops iterating."""
    long_ids = tokenizer.encode_chat((ChatMessage("user", "valve " * 300),))
    steps = engine.generate(long_ids, SamplingParams(), max_tokens=8)
    assert len(list(islice(steps, 2))) == 2
    steps.close()
    text = answer(engine, tokenizer, CAPITAL, SamplingParams(), 32)
    assert text == "The capital of France is Paris."


SCRIPT = """
import sys
from pathlib import Path
from edged.bundle.folder import open_bundle
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings, Token
from edged.protocol.request import ChatMessage, SamplingParams
from edged.engine.tokenizer import Tokenizer

bundle = open_bundle(Path(sys.argv[1]))
engine = load_engine(bundle, EngineSettings(max_model_len=256))
tokenizer = Tokenizer.load(bundle)
prompt_ids = tokenizer.encode_chat((ChatMessage("user", sys.argv[2]),))
answer, steps = engine.start(prompt_ids, SamplingParams(), max_tokens=32), []
while not answer.is_over:
    steps += engine.step().outcomes[answer]
tokens = [step.token_id for step in steps if isinstance(step, Token) and not step.is_stop]
stream = tokenizer.detokenizer()
print("".join(stream.push(token) for token in tokens))
"""


def test_the_libraries_open_no_connection_and_write_nothing_to_the_home_folder(
    real_bundle: Bundle, tmp_path: Path
) -> None:
    """ONNX Runtime's wheels contain telemetry: no connection is attempted, no device id stored."""
    require(shutil.which("strace"), "strace is not installed (apt install strace)")
    trace, home = tmp_path / "trace", tmp_path / "home"
    home.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME") and "COV" not in name
    }
    shown = subprocess.run(
        [
            *("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace)),
            *(sys.executable, "-c", SCRIPT, str(real_bundle.folder), CAPITAL),
        ],
        env=environment | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.stdout == "The capital of France is Paris.\n", shown.stderr
    lines = trace.read_text().splitlines()
    assert [line for line in lines if "AF_INET" in line] == []
    assert list(home.rglob("*")) == []


def test_the_serving_process_loads_no_build_tool(real_bundle: Bundle) -> None:
    tools = ("torch", "transformers", "optimum", "onnx", "onnx_ir", "huggingface_hub")
    code = f"{SCRIPT}\nprint([name for name in {tools!r} if name in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code, str(real_bundle.folder), "2 + 2 ="],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines()[-1] == "[]"
