"""What prompts begin with is there at the first request, also after a boot."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from edged.bundle.folder import Bundle, open_bundle
from edged.config.keys import Config, ModelConfig, RequestConfig, StateConfig
from edged.daemon.memory_plan import divide_memory, prefix_room, with_prefixes
from edged.daemon.warm_prefixes import FOLDER, keep_prefixes, planned_tokens, system_prompts
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings, Prefilled, Token
from edged.engine.tokenizer import Tokenizer
from edged.protocol.request import ChatMessage, SamplingParams
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot
from tests.tiny_model import MAX_MODEL_LEN, write_tiny_bundle

OWN, OTHER = "be brief", "be polite"


@pytest.fixture(scope="module", params=[True, False], ids=["fused", "portable"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("tiny")
    return open_bundle(write_tiny_bundle(folder, fused=request.param))


@pytest.fixture(scope="module")
def tokenizer(bundle: Bundle) -> Tokenizer:
    return Tokenizer.load(bundle)


def config(folder: Path | None, *texts: str) -> Config:
    own, *others = texts or (None,)
    return Config(
        model=ModelConfig(path=Path("m"), warm_prompts=tuple(others)),
        request=RequestConfig(system_prompt=own),
        state=StateConfig(folder=folder),
    )


def ready(
    bundle: Bundle, tokenizer: Tokenizer, settings: Config, max_tokens: int = 10_000
) -> Engine:
    num_prefixes = len(system_prompts(settings))
    engine = load_engine(
        bundle, EngineSettings(MAX_MODEL_LEN, num_threads=1, num_prefixes=num_prefixes)
    )
    keep_prefixes(settings, bundle, engine, tokenizer, max_tokens)
    return engine


def ask(engine: Engine, tokenizer: Tokenizer, system: str) -> tuple[int, list[int]]:
    """How many tokens of a prompt were there, and the answer."""
    messages = (ChatMessage("system", system), ChatMessage("user", "is it on?"))
    steps = list(engine.generate(tokenizer.encode_chat(messages), SamplingParams(), max_tokens=6))
    assert isinstance(steps[0], Prefilled)
    return steps[0].cached_tokens, [s.token_id for s in steps if isinstance(s, Token)]


def test_the_first_request_finds_its_beginning_computed(
    tmp_path: Path, bundle: Bundle, tokenizer: Tokenizer
) -> None:
    cold = ask(ready(bundle, tokenizer, config(None)), tokenizer, OWN)
    assert cold[0] == 0
    for _ in range(2):  # the second one reads the files
        warm = ready(bundle, tokenizer, config(tmp_path, OWN, OTHER))
        for text in (OWN, OTHER, OWN):
            num_cached, answer = ask(warm, tokenizer, text)
            assert num_cached > len(text)
            if text == OWN:
                assert answer == cold[1]


def test_after_a_boot_nothing_is_computed(
    tmp_path: Path, bundle: Bundle, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(bundle, tokenizer, config(tmp_path, OWN))
    monkeypatch.setattr(Engine, "make_prefix", lambda *_: pytest.fail("computed again"))
    assert ask(ready(bundle, tokenizer, config(tmp_path, OWN)), tokenizer, OWN)[0] > len(OWN)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:40] + b"\xff" + b[41:]])
def test_a_damaged_file_is_made_anew(
    tmp_path: Path,
    bundle: Bundle,
    tokenizer: Tokenizer,
    caplog: pytest.LogCaptureFixture,
    damage: object,
) -> None:
    want = ask(ready(bundle, tokenizer, config(tmp_path, OWN)), tokenizer, OWN)
    (path,) = (tmp_path / FOLDER).iterdir()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    caplog.set_level(logging.WARNING)
    assert ask(ready(bundle, tokenizer, config(tmp_path, OWN)), tokenizer, OWN) == want
    assert "damaged" in caplog.text


def test_a_state_that_cannot_be_written_stops_nothing(
    tmp_path: Path, bundle: Bundle, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    engine = ready(bundle, tokenizer, config(tmp_path / "missing", OWN))
    assert ask(engine, tokenizer, OWN)[0] > len(OWN)
    assert "state.folder: cannot be written" in caplog.text


def test_what_is_not_configured_any_more_is_removed(
    tmp_path: Path, bundle: Bundle, tokenizer: Tokenizer
) -> None:
    ready(bundle, tokenizer, config(tmp_path, OWN, OTHER))
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    ready(bundle, tokenizer, config(tmp_path, OTHER))
    assert len(list((tmp_path / FOLDER).iterdir())) == 1
    ready(bundle, tokenizer, config(tmp_path))
    assert not list((tmp_path / FOLDER).iterdir())


def test_a_prefix_outlives_memory_pressure(bundle: Bundle, tokenizer: Tokenizer) -> None:
    engine = ready(bundle, tokenizer, config(None, OWN))
    engine.release()
    assert ask(engine, tokenizer, OWN)[0] > len(OWN)


def test_prefixes_are_planned_for() -> None:
    assert planned_tokens(config(None)) == 0
    assert planned_tokens(config(None, "x" * 300)) == 132
    assert system_prompts(config(None, OWN, OTHER, OWN)) == (OWN, OTHER)


def test_a_prefix_that_does_not_fit_is_left_out_and_named(
    bundle: Bundle, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    settings = config(None, OWN, "be kind " * 20, OTHER)
    engine = ready(bundle, tokenizer, settings, max_tokens=150)
    assert [ask(engine, tokenizer, text)[0] > len(text) for text in (OWN, OTHER)] == [True, True]
    (line,) = caplog.messages
    assert line.startswith("model.warm_prompts: 1")
    assert "do not fit into budget.memory" in line
    ready(bundle, tokenizer, settings, max_tokens=0)
    assert "request.system_prompt: " in caplog.text


@pytest.mark.parametrize("text", ["be brief " * 12, "简" * 40, "🙂" * 30])
def test_the_cache_is_planned_with_the_tokens_that_are_counted(
    bundle: Bundle, tokenizer: Tokenizer, text: str
) -> None:
    """In some scripts a character has several tokens; the estimate is for three a token."""
    settings = config(None, text)
    reservation = divide_memory(settings, bundle, MemorySnapshot(50 << 20, 4000 << 20))
    room = prefix_room(settings, bundle, reservation)
    engine = load_engine(bundle, EngineSettings(MAX_MODEL_LEN, num_threads=1, num_prefixes=1))
    num_tokens = keep_prefixes(settings, bundle, engine, tokenizer, room)
    assert num_tokens > planned_tokens(settings), "a byte is a token of this tokenizer"
    plan = with_prefixes(settings, bundle, reservation, num_tokens).plan
    without = divide_memory(config(None), bundle, MemorySnapshot(50 << 20, 4000 << 20)).plan
    kv_bytes = bundle.manifest.model.kv_bytes_per_token
    assert plan.kv_bytes - without.kv_bytes == num_tokens * kv_bytes
    full = replace(reservation, budget=MemoryBudget(plan.total_bytes))
    assert prefix_room(settings, bundle, full) == num_tokens


def test_a_prefix_longer_than_the_context_stops_no_start(
    bundle: Bundle, tokenizer: Tokenizer
) -> None:
    engine = ready(bundle, tokenizer, config(None, "x" * MAX_MODEL_LEN))
    assert ask(engine, tokenizer, OTHER)[0] == 0
