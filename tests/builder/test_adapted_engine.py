"""Answers with adapters, decoded together; what one computed is reused for itself alone."""

import json
import queue
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged.bundle.folder import Bundle
from edged.daemon.preparer import Preparer
from edged.daemon.specialist_folders import Adaptable, SpecialistFolders
from edged.daemon.worker import Worker
from edged.engine.decoding import Decoding
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings, PromptOrigin, Token
from edged.engine.tokenizer import Tokenizer
from edged.engine.writer_prompts import Prompted, WriterPrompts
from edged.engine.writer_runner import WriterRunner
from edged.errors import BundleError
from edged.node.effects import Prepare
from edged.node.request_state import RequestState
from edged.protocol.request import ChatMessage, SamplingParams
from edged.protocol.wire import Delivery
from edged.specialists.adapter import AdaptedModel, Adapter
from edged.specialists.choice import ChoiceHead, Powers
from edged.specialists.features import TOPIC, Layout, Pooling, Template
from edged.specialists.folder import HeadDescription, Specialist, TaughtHead
from edged.specialists.head import Head, Scaler
from edged.specialists.installed import Installed
from edged.specialists.lesson import taught
from edged.specialists.writer import Writer
from tests.builder.adapted_bundle import AdaptedBundle, write_adapted_bundle
from tests.builder.conftest import TinyExport
from tests.fakes import LIMITS, CharacterStream, FakeClock
from tests.make_request import make_request
from tests.tiny_graphs import TinyConfig
from tests.unit.lessons import lesson

PROMPT = np.random.default_rng(0).integers(3, 150, 30).tolist()
NUM_TOKENS = 12
DELIVERY = Delivery("t", b"", qos=1, packet_id=7, connection_epoch=2)


def engine_of(bundle: Bundle, num_slots: int = 4, num_prefixes: int = 0) -> Engine:
    settings = EngineSettings(
        128,
        num_threads=1,
        prefill_chunk_tokens=8,
        num_slots=num_slots,
        num_prefixes=num_prefixes,
        model_path=bundle.adapted_path,
    )
    return load_engine(bundle, settings)


def begin(engine: Engine, adapter: Adapter | None, user: str | None = None) -> Decoding:
    origin = PromptOrigin(user, adapter=adapter)
    return engine.start(PROMPT, SamplingParams(), max_tokens=NUM_TOKENS, origin=origin)


def run(engine: Engine, *answers: Decoding) -> list[list[int]]:
    """Decode until all are over; return their tokens."""
    tokens: dict[Decoding, list[int]] = {one: [] for one in answers}
    while any(not one.is_over for one in answers):
        for one, steps in engine.step().outcomes.items():
            tokens[one] += [step.token_id for step in steps if isinstance(step, Token)]
    for one in answers:
        engine.end(one)
    return list(tokens.values())


def alone(adapted: AdaptedBundle, adapter: Adapter | None) -> list[int]:
    engine = engine_of(adapted.bundle)
    return run(engine, begin(engine, adapter))[0]


def test_specialists_and_the_plain_model_answer_together_as_alone(adapted: AdaptedBundle) -> None:
    given = [adapted.adapter(0, 0.5), None, adapted.adapter(1, 0.5), adapted.adapter(0, 0.5)]
    expected = [alone(adapted, one) for one in given]
    engine = engine_of(adapted.bundle)
    assert run(engine, *(begin(engine, one) for one in given)) == expected
    assert expected[0] == expected[3]
    assert len({tuple(tokens) for tokens in expected[:3]}) == 3


def test_what_an_adapter_computed_is_reused_for_itself_alone(adapted: AdaptedBundle) -> None:
    """Of one content, whatever object it is: a reload reads it again."""
    one, other = adapted.adapter(0, 0.5), adapted.adapter(1, 0.5)
    expected = {
        key: alone(adapted, one_of) for key, one_of in (("1", one), ("2", other), ("", None))
    }
    engine = engine_of(adapted.bundle, num_slots=1)
    for key, adapter, is_reused in [
        ("1", one, False),
        ("1", adapted.adapter(0, 0.5), True),
        ("2", other, False),
        ("", None, False),
        ("", None, True),
        ("1", one, False),
    ]:
        answer = begin(engine, adapter)
        assert bool(answer.num_cached) is is_reused
        assert run(engine, answer) == [expected[key]]


def test_a_paused_answer_goes_on_with_its_adapter(adapted: AdaptedBundle) -> None:
    adapter = adapted.adapter(0, 0.5)
    expected, engine = alone(adapted, adapter), engine_of(adapted.bundle, num_slots=1)
    first, tokens = begin(engine, adapter), list[int]()
    while len(tokens) < 4:
        steps = engine.step().outcomes.get(first, ())
        tokens += [step.token_id for step in steps if isinstance(step, Token)]
    engine.end(first)
    run(engine, begin(engine, None))
    origin = PromptOrigin(None, len(tokens), adapter)
    rest = engine.start(
        [*PROMPT, *tokens], SamplingParams(), max_tokens=NUM_TOKENS - len(tokens), origin=origin
    )
    assert tokens + run(engine, rest)[0] == expected


def test_a_kept_prefix_serves_its_adapter_alone(adapted: AdaptedBundle) -> None:
    adapter, prefix = adapted.adapter(0, 0.5), PROMPT[:16]
    expected = {key: alone(adapted, key) for key in (adapter, None)}
    computing = engine_of(adapted.bundle, num_prefixes=1)
    data = computing.make_prefix(prefix, adapter)
    loading = engine_of(adapted.bundle, num_prefixes=1)
    assert loading.load_prefix(prefix, data, adapter)
    for engine in (computing, loading):
        plain, own = begin(engine, None), begin(engine, adapter)
        assert (plain.num_cached, own.num_cached) == (0, 16)
        assert run(engine, plain, own) == [expected[None], expected[adapter]]


def test_a_bundle_without_adapted_branches_serves_the_plain_model(
    adapted: AdaptedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(adapted.bundle)
    monkeypatch.setattr(engine, "adapter_shape", {})
    with pytest.raises(ValueError, match="takes no adapters; rebuild it with `edged build`"):
        begin(engine, adapted.adapter())
    assert run(engine, begin(engine, None)) == [alone(adapted, None)]


def test_hidden_states_are_read_of_the_plain_model_alone(adapted: AdaptedBundle) -> None:
    engine = engine_of(adapted.bundle)
    reader = Pooling(0, 30, 5, 64)
    with pytest.raises(ValueError, match="read without an adapter"):
        engine.start(
            PROMPT,
            SamplingParams(),
            max_tokens=1,
            origin=PromptOrigin(adapter=adapted.adapter()),
            reader=reader,
        )
    assert run(engine, begin(engine, None)) == [alone(adapted, None)]


def test_sixteen_are_installed_at_once_and_exchanged(
    adapted: AdaptedBundle, tmp_path: Path
) -> None:
    """A folder of another model, or of a name that is taken, is left out with its reason."""
    engine, checked = engine_of(adapted.bundle), list[str]()
    model = AdaptedModel.of(adapted.bundle.manifest)
    folders = [tmp_path / f"writer-{index}" for index in range(16)]
    for index, folder in enumerate(folders):
        adapted.write_writer(folder, index)

    def check(writer: Writer) -> None:
        checked.append(writer.description.name)
        if writer.description.template == "{%":
            raise BundleError("template: is none")

    served = SpecialistFolders(adaptable=Adaptable(model, engine.adapter_shape, check))
    served.read(folders)
    assert len(served.installed.writers) == 16
    assert served.problems == {}
    assert not served.is_changed(folders)
    size_bytes = served.installed.size_bytes
    writers = served.installed.writers.values()
    assert size_bytes == sum(one.adapter.size_bytes for one in writers)
    assert served.installed.held_bytes(4) > size_bytes
    assert [one["name"] for one in served.info()] == [folder.name for folder in folders] == checked
    adapted.write_writer(folders[1], 1, name="writer-0")
    other = AdaptedModel("f" * 64, model.tokenizer, model.form)
    adapted.write_writer(folders[2], 2, base=other)
    adapted.write_writer(folders[3], 3, template="{%")
    assert served.is_changed(folders)
    served.read(folders[:4])
    assert list(served.installed.writers) == ["writer-0"]
    assert "the name writer-0 is taken" in served.problems["writer-1"]
    assert "taught to another model" in served.problems["writer-2"]
    assert "writer-3: template: is none" in served.problems["writer-3"]
    SpecialistFolders().read(folders[:1])  # a node without a model


def test_a_request_that_names_a_writer_is_answered_with_its_adapter(
    adapted: AdaptedBundle,
) -> None:
    writer, engine = adapted.writer("home", schema=""), engine_of(adapted.bundle)
    expected = {name: alone(adapted, one) for name, one in (("home", writer.adapter), (None, None))}
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    preparer = Preparer(
        lambda _: PROMPT,
        lambda _: None,
        LIMITS,
        events.put,
        lambda: Installed(writers={"home": writer}),
        lambda *_: Prompted(PROMPT, None),
    )
    worker = Worker(engine, CharacterStream, events.put, FakeClock())
    worker.start_thread()
    try:
        for key, name in enumerate(("home", None)):
            request = make_request(specialist=name, deadline_s=1e6)
            state = RequestState(key, 0.0, delivery=DELIVERY, fingerprint="")
            state.accept(request)
            prepared = preparer.prepare(Prepare(key, request, None))
            state.prompt_ids, state.decider = prepared.prompt_ids, prepared.decider
            state.max_tokens = NUM_TOKENS
            worker.start(state.new_generation())
            finished = events.get(timeout=30)
            assert finished.outcome.text == "".join(map(chr, expected[name]))
            assert ("specialist" in finished.outcome.detail) is (name == "home")
            state.forget_content()
            assert state.decider is None
        refused = preparer.prepare(Prepare(2, make_request(specialist="none"), None)).rejected
        assert refused is not None
        assert "none is not installed on this node; it has home" in refused.message
    finally:
        assert worker.stop(30)


def test_the_probability_of_an_answer_has_the_same_bits_alone_and_in_company(
    adapted: AdaptedBundle,
) -> None:
    one, other = adapted.adapter(0, 0.5), adapted.adapter(1, 0.5)

    def weigh(*given: Adapter | None) -> list[list[float]]:
        engine = engine_of(adapted.bundle)
        answers = [begin(engine, adapter) for adapter in given]
        weights: dict[Decoding, list[float]] = {answer: [] for answer in answers}
        while any(not answer.is_over for answer in answers):
            for answer, steps in engine.step().outcomes.items():
                found = [step.log_probability for step in steps if isinstance(step, Token)]
                weights[answer] += found
        return list(weights.values())

    alone_, together = weigh(one)[0], weigh(one, None, other, one)
    assert together[0] == together[3] == alone_
    assert together[1] == [0.0] * NUM_TOKENS
    assert all(-6 < weight < 0 for weight in alone_)


CALLS = [{"type": "function", "function": {"name": name}} for name in ("on", "off")]


def preferring(choice: str, layout: Layout) -> ChoiceHead:
    """Return a head that prefers a choice, more or less by what it reads."""
    made = taught(lesson(), lambda _: None)
    said = HeadDescription(None, ("off", "on"), ((TOPIC, 0),), 1.0)
    random = np.random.default_rng(3).standard_normal((layout.hidden_size, 1))
    head = Head(
        random.astype(np.float32),
        np.full(1, -100.0, np.float32),
        np.array([[1.0], [-1.0]], np.float32) * (1 if choice == "off" else -1),
    )
    width = layout.hidden_size
    scaler = Scaler(np.zeros(width, np.float32), np.ones(width, np.float32))
    description = replace(
        made.description, heads=(said,), num_layers=layout.num_layers, hidden_size=width
    )
    return ChoiceHead.of(
        Specialist(description, (TaughtHead(said, scaler, head),), None), Powers(8.0, 8.0)
    )


def test_a_writer_with_a_head_answers_in_company_as_alone(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    """What the head reads and prefers depends on the prompt alone."""
    export = tiny_export("llama", vocab_size=TinyConfig().vocab_size)
    adapted = write_adapted_bundle(export, tmp_path, TinyConfig().vocab_size)
    tokenizer, engine = Tokenizer.load(adapted.bundle), engine_of(adapted.bundle)
    home = adapted.writer("home", schema=json.dumps(CALLS))
    said = (ChatMessage("user", "hello"),)
    own = WriterRunner(engine, tokenizer, home).write(said, {})
    layout, other = Layout(*engine.hidden_shape), "off" if own.text == "on" else "on"
    home = replace(home, choice=preferring(other, layout))
    template = Template(lambda text: [3 + ord(one) % 150 for one in text[-9:]], [1])
    installed = Installed(template, layout.width, writers={"home": home})

    def answer(*names: str | None) -> list[Any]:
        engine, events = engine_of(adapted.bundle), queue.SimpleQueue[Any]()
        prepare = WriterPrompts(tokenizer, engine.max_model_len).prepare
        preparer = Preparer(
            lambda _: PROMPT, lambda _: None, LIMITS, events.put, lambda: installed, prepare
        )
        worker = Worker(engine, tokenizer.detokenizer, events.put, FakeClock())
        for key, name in enumerate(names):
            request = make_request(specialist=name, messages=said, deadline_s=1e6)
            state = RequestState(key, 0.0, delivery=DELIVERY, fingerprint="")
            state.accept(request)
            prepared = preparer.prepare(Prepare(key, request, None))
            assert len(prepared.runs) == (1 if name is None else 2)
            state.prompt_ids, state.decider = prepared.prompt_ids, prepared.decider
            state.max_tokens = NUM_TOKENS
            worker.start(state.new_generation())
        worker.start_thread()  # with all of them waiting, so that they run together
        found = [events.get(timeout=30) for _ in names]
        assert worker.stop(30)
        return [one.outcome for one in sorted(found, key=lambda one: one.generation.key)]

    (alone_,) = answer("home")
    assert alone_.text == other
    assert answer("home", None, "home", None)[::2] == [alone_, alone_]
