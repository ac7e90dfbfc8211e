"""Teaching a writer: adapters, their training and its checkpoints, PEFT's folder, the command."""

import argparse
import json
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("optimum")

from safetensors.torch import load_file  # noqa: E402

from edged import cli  # noqa: E402
from edged.builder import adapter_gate  # noqa: E402
from edged.builder.lora import LINEARS, AdapterForm, attach, load_state, state_of  # noqa: E402
from edged.builder.peft import WEIGHTS, read_peft  # noqa: E402
from edged.builder.peft_folder import trained, write_peft  # noqa: E402
from edged.builder.progress import Progress  # noqa: E402
from edged.builder.trunk import Trunk  # noqa: E402
from edged.builder.writer import asides as writer_asides  # noqa: E402
from edged.builder.writer import choice  # noqa: E402
from edged.builder.writer import command as writer_command  # noqa: E402
from edged.builder.writer.asides import asides_of  # noqa: E402
from edged.builder.writer.choice import ChoiceTeacher  # noqa: E402
from edged.builder.writer.material import Material, read_material  # noqa: E402
from edged.builder.writer.model import teaching_bytes  # noqa: E402
from edged.builder.writer.prompts import Prompts, rows_to_learn  # noqa: E402
from edged.builder.writer.results import calibrated, compare_exact  # noqa: E402
from edged.builder.writer.rows import Batch, Row, batch_of, batches, joined  # noqa: E402
from edged.builder.writer.training import Course, Epoch, Trainer  # noqa: E402
from edged.bundle.folder import write_manifest  # noqa: E402
from edged.bundle.manifest import ADAPTED_MODEL  # noqa: E402
from edged.commands import teach as teach_options  # noqa: E402
from edged.engine.loading import load_engine, load_graph  # noqa: E402
from edged.engine.steps import EngineSettings  # noqa: E402
from edged.engine.tokenizer import Tokenizer  # noqa: E402
from edged.errors import BuildError, UsageError  # noqa: E402
from edged.protocol.request import ChatMessage  # noqa: E402
from edged.specialists.adapter import AdaptedModel  # noqa: E402
from edged.specialists.choice import Powers  # noqa: E402
from edged.specialists.dialogues import Dialogue, Turn  # noqa: E402
from edged.specialists.folder import BaseModel  # noqa: E402
from edged.specialists.wording import wording_of_tools  # noqa: E402
from edged.specialists.writer import (  # noqa: E402
    DEFAULT_TEMPLATE,
    PEFT,
    WRITER,
    Writer,
    read_writer,
    tokens_allowed,
)
from edged.specialists.written import Asked, Written  # noqa: E402
from tests.builder.adapted_bundle import AdaptedBundle, write_adapted_bundle  # noqa: E402
from tests.builder.conftest import TinyExport  # noqa: E402
from tests.builder.tiny_families import tiny_model  # noqa: E402
from tests.tiny_graphs import TinyConfig  # noqa: E402
from tests.unit.lessons import LAYOUT, WIDTH  # noqa: E402

FORM = AdapterForm(4, 8.0, LINEARS, (1,))
COURSE = Course(epochs=3, rate=5e-3, batch_rows=4, save_every_s=0.0)
PROMPT_TOKENS = 5


def rows(count: int = 16) -> list[Row]:
    """Rows whose answer repeats the prompt's second token, and then ends."""
    made = []
    for index in range(count):
        ids = (1, 10 + index % 6, 30, *[40] * (index % 3), 31, 10 + index % 6, 2)
        is_answer = [False] * (len(ids) - 2) + [True, True]
        made.append(Row(ids, tuple(is_answer)))
    return made


def adapted(form: AdapterForm = FORM) -> Any:  # noqa: ANN401
    model = tiny_model("llama")
    attach(model, form, seed=0)
    return model


def trainer(model: Any, **options: Any) -> Trainer:  # noqa: ANN401
    return Trainer(model, Trunk(model, FORM.layers[0]), rows(), 4, COURSE, **options)


def ignore(share: float, epoch: Epoch | None) -> None:
    pass


def test_an_adapter_that_was_not_trained_changes_nothing() -> None:
    ids = torch.tensor([[1, 10, 30, 40]])
    with torch.inference_mode():
        assert torch.equal(adapted()(ids).logits, tiny_model("llama")(ids).logits)


def test_a_model_without_such_linears_is_refused() -> None:
    with pytest.raises(UsageError, match="no layer of this model has a linear qkv"):
        attach(tiny_model("llama"), AdapterForm(4, 8.0, ("qkv",), (1,)), seed=0)
    with pytest.raises(UsageError, match="layer 2 is not in a model of 2 layers"):
        attach(tiny_model("llama"), AdapterForm(4, 8.0, LINEARS, (2,)), seed=0)


def test_what_lies_below_the_adapters_is_computed_once() -> None:
    model = adapted()
    batch = batch_of(rows(), [0, 1, 5], 0)
    cut, whole = Trunk(model, 1), Trunk(model, 0)
    cut.keep(batch)
    calls: list[int] = []
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(0))
    with torch.inference_mode():
        found = cut.logits(batch)
        assert calls == []
        expected = whole.logits(batch)
    assert found.shape == (6, expected.shape[1])  # two tokens of each answer
    assert torch.allclose(found, expected, rtol=0.01, atol=0.02)


def test_rows_of_like_lengths_are_together_and_each_is_there_once() -> None:
    made = batches(rows(), range(16), 4, seed=3)
    assert sorted(index for batch in made for index in batch) == list(range(16))
    for batch in made:
        lengths = {len(rows()[index].ids) for index in batch}
        assert max(lengths) - min(lengths) <= 1
    assert made == batches(rows(), range(16), 4, seed=3)
    assert made != batches(rows(), range(16), 4, seed=4)
    with pytest.raises(ValueError, match="must have an answer"):
        Row((1, 2), (True, False))


def test_rows_that_begin_alike_are_one_and_none_sees_another() -> None:
    common = tuple(range(10, 22))
    alone = [Row((*common, 30 + n, 40, 50 + n), (False,) * 14 + (True,), 12) for n in range(5)]
    apart = Row((9, 8, 7, 6), (False, False, True, True), 2)
    made = joined([*alone, apart], 3, seed=1)
    assert sorted(row.num_dialogues for row in made) == [1, 2, 3]
    assert sum(len(row.ids) for row in made) == 4 + 2 * len(common) + 5 * 3
    trunk = Trunk(adapted(), 0)
    one = joined(alone[:3], 3, seed=1)
    together = batch_of(one, [0], 0)
    order = (together.targets[together.targets >= 0] - 50).tolist()
    assert sorted(order) == [0, 1, 2]
    each = batch_of(alone, order, 0)
    with torch.inference_mode():
        found, expected = trunk.logits(together), trunk.logits(each)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)
    assert [len(one) for one in batches(made, range(len(made)), 3, seed=1)] in ([1, 2], [2, 1])


def test_dialogues_of_a_row_are_not_chosen_for_being_alike() -> None:
    common = tuple(range(10, 22))
    kinds = [first for first in (30, 31, 32, 33) for _ in range(8)]
    alone = [Row((*common, kind, 40), (False,) * 13 + (True,), 12) for kind in kinds]
    made = joined(alone, 8, seed=1)
    assert [row.num_dialogues for row in made] == [8] * 4
    assert all(len(set(row.ids[len(common) :])) > 2 for row in made)


def test_a_row_of_several_dialogues_is_no_longer_than_attention_to_them_allows() -> None:
    def row(num_before: int) -> Row:
        return Row(
            (*range(num_before), *range(100)), (False,) * (num_before + 99) + (True,), num_before
        )

    lengths = [len(joined([row(n)] * 64, 64, seed=1)[0].ids) for n in (0, 16, 400)]
    assert lengths == [100, 16 + 100, 400 + 700]


def test_what_is_taught_is_learned() -> None:
    model = adapted()
    course = Course(epochs=12, rate=2e-2, batch_rows=4, patience=12, fewest_apart=4)
    ran = Trainer(model, Trunk(model, 1), rows(), 4, course).run(ignore)
    assert ran[-1].loss < 0.3 * ran[0].loss
    best = max(ran, key=lambda one: (one.held_out_exact, -one.held_out_loss))
    again = Trainer(model, Trunk(model, 1), rows(), 4, course)
    assert again._measure() == pytest.approx((best.held_out_loss, best.held_out_exact), rel=0.01)


def test_an_epoch_learns_from_each_dialogue_of_rows_that_hold_several() -> None:
    common = tuple(range(10, 22))
    alone = [Row((*common, 30 + n, 40, 50 + n), (False,) * 14 + (True,), 12) for n in range(9)]
    made = joined(alone, 3, seed=1)
    model = adapted()
    seen: list[int] = []

    class SeenTrunk(Trunk):
        def keep(self, batch: Batch) -> None:
            seen.extend(batch.indices)
            super().keep(batch)

    course = Course(epochs=2, batch_rows=3)
    ran = Trainer(model, SeenTrunk(model, 1), made, 0, course).run(ignore)
    assert [one.number for one in ran] == [1, 2]
    assert sorted(seen) == sorted([*range(len(made)), *range(len(made))])


@pytest.mark.parametrize(("epochs", "num_kept"), [(1, 4), (2, 16)])
def test_what_lies_below_is_kept_for_a_later_epoch_alone(epochs: int, num_kept: int) -> None:
    model = adapted()
    trunk = Trunk(model, 1)
    course = Course(epochs=epochs, batch_rows=4)
    Trainer(model, trunk, rows(), 4, course).run(ignore)
    assert len(trunk._kept) == num_kept
    need, once = (
        teaching_bytes(model.config, rows(), one, 1, torch.float32)
        for one in (course, replace(course, epochs=1))
    )
    assert (need > once) == (epochs > 1)


@pytest.mark.parametrize(("need_bytes", "is_returned"), [(0, True), (1 << 50, False)])
def test_memory_beyond_what_was_said_is_returned(
    need_bytes: int, is_returned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = []
    monkeypatch.setattr(writer_command, "return_freed", lambda: returned.append(1))
    writer_command._train(trainer(adapted()), Progress(), need_bytes)
    assert bool(returned) == is_returned


def test_it_ends_where_nothing_gets_better() -> None:
    model = adapted()
    course = Course(epochs=9, rate=1e-9, batch_rows=4, patience=2, fewest_apart=4)
    trained = Trainer(model, Trunk(model, 1), rows(), 4, course)
    worse = iter(range(1, 99))
    trained._measure = lambda: (float(next(worse)), 0.0)  # type: ignore[method-assign]
    assert [one.number for one in trained.run(ignore)] == [1, 2, 3]


def test_the_last_epoch_counts_where_too_few_examples_are_kept_apart_to_tell() -> None:
    model = adapted()
    course = Course(epochs=5, batch_rows=4, patience=2, fewest_apart=5)
    trained = Trainer(model, Trunk(model, 1), rows(), 4, course)
    worse = iter(range(1, 99))
    trained._measure = lambda: (float(next(worse)), 0.0)  # type: ignore[method-assign]
    seen: list[dict[str, Any]] = []

    def note(share: float, epoch: Epoch | None) -> None:
        if epoch is not None:
            seen.append({name: one.clone() for name, one in state_of(model).items()})

    assert [one.number for one in trained.run(note)] == [1, 2, 3, 4, 5]
    assert all(torch.equal(one, seen[-1][name]) for name, one in state_of(model).items())


class KilledError(Exception):
    """In place of a signal."""


@pytest.mark.parametrize("killed_at", [1, 4, 7])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, killed_at: int
) -> None:
    expected = adapted()
    epochs = trainer(expected).run(ignore)

    count = 0

    def kill(share: float, epoch: Epoch | None) -> None:
        nonlocal count
        count += 1
        if count == killed_at:
            raise KilledError

    path = tmp_path / "teaching" / "x.pt"
    with pytest.raises(KilledError):
        trainer(adapted(), checkpoint=path, fingerprint="a").run(kill)
    left = 9 - killed_at
    model, steps = adapted(), []
    second = trainer(model, checkpoint=path, fingerprint="a")
    assert second.run(lambda share, _: steps.append(share)) == epochs
    assert len(steps) == left
    for name, tensor in state_of(expected).items():
        assert torch.equal(tensor, state_of(model)[name])
    second.forget()
    assert not path.exists()


def test_a_checkpoint_of_another_run_or_half_of_one_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    expected = adapted()
    trainer(expected, checkpoint=path, fingerprint="a").run(ignore)
    for content in (path.read_bytes(), path.read_bytes()[:1000], b""):
        path.write_bytes(content)
        model = adapted()
        trainer(model, checkpoint=path, fingerprint="b").run(ignore)
        for name, tensor in state_of(expected).items():
            assert torch.equal(tensor, state_of(model)[name])


def test_pefts_folder_is_written_and_read(tmp_path: Path) -> None:
    model = adapted()
    state = {name: torch.rand_like(one) for name, one in state_of(model).items()}
    write_peft(tmp_path, FORM, state, "tiny")
    names = load_file(tmp_path / WEIGHTS)
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" in names
    assert names["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"].shape == (64, 4)
    form, read = trained(read_peft(tmp_path))
    # PEFT's scale, alpha / rank, is in B.
    assert form == replace(FORM, alpha=4.0)
    load_state(model, read)
    for name, one in state.items():
        scale = 2.0 if "lora_B" in name else 1.0
        assert torch.equal(scale * one, state_of(model)[name])
    read.pop(min(read))
    with pytest.raises(UsageError, match="is missing, or not of"):
        load_state(model, read)


def test_what_an_adapter_leaves_out_of_its_layers_is_zero(tmp_path: Path) -> None:
    state = {name: torch.rand_like(one) for name, one in state_of(adapted()).items()}
    both = AdapterForm(4, 8.0, LINEARS, (0, 1))
    lower = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    write_peft(
        tmp_path,
        both,
        state | {f"{lower}{kind}.weight": torch.ones(shape) for kind, shape in _LOWER},
        "tiny",
    )
    form, read = trained(read_peft(tmp_path))
    assert (form.layers, form.targets) == ((0, 1), LINEARS)
    load_state(adapted(both), read)
    assert read[f"{lower}B.weight"].any()
    assert not read["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"].any()


_LOWER = (("A", (4, 64)), ("B", (64, 4)))


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"room": {"type": "string", "enum": ["hall", "attic"]}},
            },
        },
    }
    for name in ("on", "off")
]


@pytest.fixture(scope="module")
def base(tiny_export: TinyExport, tmp_path_factory: pytest.TempPathFactory) -> AdaptedBundle:
    """Return a bundle that takes adapters, whose tokenizer can say the examples."""
    vocab_size = TinyConfig().vocab_size
    folder = tmp_path_factory.mktemp("taught")
    export = tiny_export("llama", vocab_size=vocab_size)
    made = write_adapted_bundle(export, folder, vocab_size, max_model_len=256)
    tiny_model("llama", vocab_size=vocab_size).save_pretrained(folder / "weights")
    return made


@pytest.fixture
def teach(
    base: AdaptedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Return what runs ``edged teach`` on a tiny bundle and the weights of a tiny model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # A model of two layers with random weights loses more in 8 bits than one that was trained.
    monkeypatch.setattr(adapter_gate, "MAX_MEAN_KL", 1.0)
    fused = tmp_path / "cache" / "edged" / "fused"
    fused.mkdir(parents=True)
    (fused / base.bundle.manifest.source.sha256).symlink_to(base.reference)
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    lines = [
        {
            "prompt": f"{word} in the {room} please {index}",
            "answer": {"name": word, "arguments": {"room": room}},
        }
        for index in range(6)
        for word in ("on", "off")
        for room in ("hall", "attic")
    ]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def run(*options: object) -> int:
        paths = ["--model", base.bundle.folder, "--weights", base.scratch / "weights"]
        output = ["--output", tmp_path / "rooms"]
        words = ["teach", tmp_path / "examples.jsonl", *paths, *output, *options]
        return cli.main([str(word) for word in words])

    return run


def test_a_file_becomes_a_writer(
    base: AdaptedBundle,
    tmp_path: Path,
    teach: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tools = ("--tools", tmp_path / "tools.json")
    options = ("--rank", 4, "--epochs", 2, "--variations", 2, "--threads", 1)
    assert teach(*tools, *options) == 0
    printed = capsys.readouterr()
    assert "44 examples to learn from" in printed.out
    assert "MiB of memory" in printed.out
    assert "% right (" in printed.out
    assert re.search(r"KL to fp32 0\.\d+ over the tokens of answers, 0\.\d+ with", printed.out)
    assert "epoch 2: loss" in printed.err
    model = AdaptedModel.of(base.bundle.manifest)
    shape = load_graph(base.bundle.adapted_path, is_fused=True, max_model_len=8).adapter_shape
    found = read_writer(tmp_path / "rooms", model, shape)
    assert found.description.name == "rooms"
    assert 0 < found.description.mean_kl < 1
    assert found.wording.write({"name": "on", "arguments": {"room": "hall"}}) == "on room=hall"
    assert found.wording.grounded == ("|0.arguments.room", "|1.arguments.room")
    form, state = trained(read_peft(tmp_path / "rooms" / PEFT))
    assert (form.rank, form.layers) == (4, (1,))
    assert any(tensor.abs().max() > 0 for name, tensor in state.items() if "lora_B" in name)
    assert not list((tmp_path / "cache").rglob("*.pt"))
    # Gone on from it with steps of no size, it is the same.
    begin = ("--begin", tmp_path / "rooms" / PEFT, "--rate", 1e-12, "--epochs", 1, "--rank", 4)
    assert teach(*tools, *begin, "--variations", 1, "--output", tmp_path / "further") == 0
    further = trained(read_peft(tmp_path / "further" / PEFT))[1]
    assert all(torch.allclose(further[name], tensor, atol=1e-6) for name, tensor in state.items())
    # Trained elsewhere, it is brought onto the bundle, measured and described just the same.
    adapter = ("--adapter", tmp_path / "rooms" / PEFT, "--output", tmp_path / "other")
    assert teach(*tools, *adapter, "--escalate", "model") == 0
    other = read_writer(tmp_path / "other", model, shape)
    assert other.adapter.key == found.adapter.key
    assert (found.description.escalate, other.description.escalate) == (None, "model")
    tokenizer = Tokenizer.load(base.bundle)
    texts = (f"{word} room={room}" for word in ("on", "off") for room in ("hall", "attic"))
    longest = max(len(tokenizer.encode(text)) for text in texts) + 1
    assert other.description.max_tokens == found.description.max_tokens == tokens_allowed(longest)


class Telling:
    """A reader whose features say what was asked for, or nothing."""

    is_possible, layout = True, LAYOUT

    def __init__(self, *, says_all: bool = True) -> None:
        self._says_all = says_all

    def read(self, text: str) -> np.ndarray:
        kind = text.split(maxsplit=1)[0] if self._says_all else "?"
        centre = np.random.default_rng(len(kind)).standard_normal(WIDTH)
        noise = np.random.default_rng(sum(text.encode())).standard_normal(WIDTH)
        return (centre + 0.3 * noise).astype(np.float32)


MANY_ROOMS = {"type": "string", "enum": ["hall", "attic", "bath", "office", "cellar"]}
CHOOSING = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"room": MANY_ROOMS},
                "required": ["room"],
            },
        },
    }
    for name in ("on", "off")
]


def choosing(
    base: AdaptedBundle,
    reader: Any,  # noqa: ANN401
    **changes: Any,  # noqa: ANN401
) -> tuple[ChoiceTeacher, Material]:
    """Return what makes heads, and what it is given."""
    tokenizer = Tokenizer.load(base.bundle)
    wording = wording_of_tools(CHOOSING, [])
    dialogues = [
        Dialogue((Turn(f"{word} {index}", {"name": word, "arguments": {"room": room}}),), index, "")
        for index, (word, room) in enumerate(product(("on", "off"), ("hall", "attic") * 6))
    ]
    dialogues = [replace(one, group=f"line {one.line}") for one in dialogues]
    material = replace(Material(dialogues, dialogues[::5], [], wording), **changes)
    settings = EngineSettings(256, num_threads=1, model_path=base.bundle.adapted_path)
    prompts = Prompts(tokenizer, material.wording, "Say it.")
    engine, of_bundle = load_engine(base.bundle, settings), BaseModel.of(base.bundle.manifest)
    return ChoiceTeacher(engine, tokenizer, prompts, material, of_bundle, reader), material


def with_choice(base: AdaptedBundle, reader: Any, **changes: Any) -> Writer:  # noqa: ANN401
    """Return a writer that was not taught, with a head for its choices if that is better."""
    teacher, material = choosing(base, reader, **changes)
    said = base.description("rooms", schema=json.dumps(CHOOSING))
    writer = Writer(said, material.wording, base.adapter())
    return teacher.with_choice(writer, Progress())


def test_a_head_for_choices_is_kept_where_right_answers_are_likelier_with_it(
    base: AdaptedBundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "FEWEST_MEASURED", 1)
    reader = Telling()
    found = with_choice(base, reader).choice
    assert found is not None
    assert "it is kept, with the powers" in capsys.readouterr().out
    for word in ("on", "off"):
        shares = found.preferences(reader.read(f"{word} 99")).shares
        assert max(shares, key=lambda one: shares[one]) == word
    contrary = {"name": "off", "arguments": {"room": "hall"}}
    apart = [Dialogue((Turn("on 99", contrary),), 99, "")]
    assert with_choice(base, reader, held_out=apart).choice is None
    assert "it is left out" in capsys.readouterr().out


def test_a_head_is_kept_where_too_few_answers_tell_how_much_it_counts(
    base: AdaptedBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    contrary = {"name": "off", "arguments": {"room": "hall"}}
    apart = [Dialogue((Turn("on 99", contrary),), 99, "")]
    found = with_choice(base, Telling(), held_out=apart).choice
    assert found is not None
    assert found.powers == Powers(2.0, 1.0)
    assert "1 answers are kept apart, too few" in capsys.readouterr().out


def test_of_many_examples_no_head_is_made(
    base: AdaptedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_MOST_TAUGHT", 2)
    assert with_choice(base, Telling()).choice is None


def test_nothing_is_chosen_without_examples_apart_or_different_answers(base: AdaptedBundle) -> None:
    assert with_choice(base, Telling(), held_out=[]).choice is None
    same_ = Dialogue((Turn("on", {"name": "on", "arguments": {"room": "hall"}}),), 1, "")
    assert with_choice(base, Telling(), taught=[same_] * 3).choice is None
    turns = [Turn(f"{n} again", {"name": "off", "arguments": {"room": "hall"}}) for n in range(2)]
    alike = Dialogue(tuple(turns), 2, "2")  # both are of one group
    on = [replace(same_, line=line, group=f"{line}") for line in range(3, 9)]
    assert with_choice(base, Telling(), taught=[*on, alike]).choice is None
    impossible = Telling()
    impossible.is_possible = False
    assert with_choice(base, impossible).choice is None


NOTHING = {"name": "nothing", "arguments": {"reason": "other"}}
REASONS = {"type": "object", "properties": {"reason": {"enum": ["vague", "other"]}}}
NONE = {"type": "function", "function": {"name": "nothing", "parameters": REASONS}}


def asides(base: AdaptedBundle, *, nothing: str, reader: Any = None) -> list[Turn]:  # noqa: ANN401
    """Return everyday talk with its answer; some examples beginning with a word mean nothing."""
    on = {"name": "on", "arguments": {"room": "hall"}}
    said = [(f"on the light {n}", on) for n in range(12)]
    said += [(f"{nothing} {n}", NOTHING) for n in range(12)]
    dialogues = [Dialogue((Turn(*one),), n, f"line {n}") for n, one in enumerate(said)]
    teacher, material = choosing(
        base,
        reader or Telling(),
        taught=dialogues,
        held_out=dialogues[::5],
        wording=wording_of_tools([*CHOOSING, NONE], []),
    )
    return asides_of(teacher, material, Progress())


def test_everyday_talk_gets_the_answer_of_examples_that_mean_nothing(
    base: AdaptedBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    talk = tmp_path / "everyday.txt"
    talk.write_text("what is rain\nwhat is the capital of the attics\nwhat time is it\n")
    monkeypatch.setattr(writer_asides, "EVERYDAY", talk)
    found = asides(base, nothing="what is the")
    # The attic is a room, so it may be meant.
    assert found == [Turn("what is rain", NOTHING), Turn("what time is it", NOTHING)]
    assert asides(base, nothing="why") == []  # talk is like no example
    still = Telling(says_all=False)
    assert asides(base, nothing="what is the", reader=still) == []
    still.is_possible = False
    assert asides(base, nothing="what is the", reader=still) == []
    talk.write_text("on the attics\n")
    assert asides(base, nothing="what is the") == []
    talk.write_text("on it goes\n")
    assert asides(base, nothing="what is the") == []  # no whole answer


def test_few_examples_are_made_as_many_as_there_is_time_for(base: AdaptedBundle) -> None:
    on = {"name": "on", "arguments": {"room": "hall"}}
    said = ("on in the hall", "hall on", "on, hall", "the hall, on")
    dialogues = [Dialogue((Turn(text, on),), line, "") for line, text in enumerate(said)]
    wording = wording_of_tools(TOOLS, [on])
    prompts = Prompts(Tokenizer.load(base.bundle), wording, DEFAULT_TEMPLATE)

    def num_made(count: int, variations: int | None) -> int:
        material = Material(dialogues * count, [], [], wording)
        rows = rows_to_learn(prompts, material, variations, batch=16)
        return sum(row.num_dialogues for row in rows)

    assert num_made(1, 1) == 4
    assert num_made(1, 2) == 8
    assert num_made(1, None) == 40
    assert num_made(2000, None) == 8000


def test_everyday_talk_is_learned_where_dialogues_go_on(base: AdaptedBundle) -> None:
    on = {"name": "on", "arguments": {"room": "hall"}}
    turns = (Turn("on in the hall", on), Turn("and again", on))
    wording, tokenizer = wording_of_tools(TOOLS, [on]), Tokenizer.load(base.bundle)
    prompts = Prompts(tokenizer, wording, DEFAULT_TEMPLATE)
    aside = Turn("zzz", on)

    def is_learned(dialogue: Dialogue) -> bool:
        taught = [replace(dialogue, line=line) for line in range(20)]
        material = Material(taught, [], [], wording)
        rows = rows_to_learn(prompts, material, 10, 1, [aside])
        stream = (tokenizer.detokenizer() for _ in rows)
        texts = ("".join(map(one.push, row.ids)) for one, row in zip(stream, rows, strict=True))
        return any("zzz" in text.lower() for text in texts)

    assert is_learned(Dialogue(turns, 1, ""))
    assert not is_learned(Dialogue(turns[:1], 1, ""))


def test_corrections_are_learned_from_in_place_of_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    on = {"name": "on", "arguments": {}}
    lines = [{"prompt": f"{n}", "answer": on, "inputs": {"n": n % 2}} for n in range(40)]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    off: dict[str, Any] = {"answer": [on | {"name": "off"}], "specialist": "rooms"}
    corrections = [
        {"prompt": "7", "inputs": {"n": 1}, **off},
        {"prompt": "7", "inputs": {"n": 0}, **off},
        {"prompt": "8", "inputs": {"n": 0}, **off, "specialist": "other"},
    ]
    (tmp_path / "corrections.jsonl").write_text("".join(f"{json.dumps(c)}\n" for c in corrections))
    parser = argparse.ArgumentParser()
    teach_options.add_arguments(parser)
    words = ["examples.jsonl", "--tools", "tools.json", "--corrections", "."]
    paths = [str(tmp_path / one) if not one.startswith("--") else one for one in words]
    arguments = parser.parse_args([*paths, "--model", "m", "--output", str(tmp_path / "rooms")])
    material = read_material(arguments)
    assert f"{tmp_path}: 2 corrections of rooms" in capsys.readouterr().out
    all_ = [*material.taught, *material.held_out]
    said = [(one.turns[0].said, one.inputs["n"], one.turns[0].answer[0]["name"]) for one in all_]
    assert len(said) == 41
    assert [one for one in said if one[2] == "off"] == [("7", 1, "off"), ("7", 0, "off")]
    assert not any(one.inputs["n"] == 0 and one.turns[0].said == "7" for one in material.held_out)


def test_what_the_bundle_could_not_run_is_refused_before_it_is_trained(
    tmp_path: Path, teach: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    begin = ("--begin", tmp_path / "rooms" / PEFT)
    assert teach("--tools", tmp_path / "tools.json", *begin) != 0
    assert "--begin" in capsys.readouterr().err
    options = ("--tools", tmp_path / "tools.json", "--rank", 17)
    assert teach(*options) != 0
    printed = capsys.readouterr()
    problem = "r is 17, the bundle takes 16 at most"
    assert f"--rank or --targets: {problem}" in printed.err
    assert "epoch" not in printed.err


def test_a_writer_begins_from_the_home_specialist_beside_the_model_where_that_fits(
    base: AdaptedBundle,
    tmp_path: Path,
    teach: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "models" / "specialists" / "home" / "specialist"
    model = tmp_path / "models" / "tiny"
    shutil.copytree(base.bundle.folder, model)
    tools = ("--tools", tmp_path / "tools.json", "--model", model, "--variations", 1)
    assert teach(*tools, "--epochs", 2, "--output", home) == 0
    assert "begins from" not in capsys.readouterr().out
    unchanged = (*tools, "--epochs", 1, "--rate", 1e-12)
    for options, begins in (
        ((), True),
        (("--begin", "none"), False),
        (("--rank", 2), False),
    ):
        assert teach(*unchanged, *options) == 0
        assert (f"begins from {home}" in capsys.readouterr().out) is begins
        state = trained(read_peft(tmp_path / "rooms" / PEFT))[1]
        learned = max(float(t.abs().max()) for name, t in state.items() if "lora_B" in name)
        assert (learned > 1e-3) is begins


def test_a_bundle_of_an_earlier_version_is_refused_before_anything_is_trained(
    base: AdaptedBundle,
    tmp_path: Path,
    teach: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = tmp_path / "old"
    shutil.copytree(base.bundle.folder, old)
    (old / ADAPTED_MODEL).unlink()
    write_manifest(old, base.bundle.manifest)
    assert teach("--tools", tmp_path / "tools.json", "--model", old) != 0
    printed = capsys.readouterr()
    assert "it has no adapted.onnx, so it takes no adapters; rebuild it with" in printed.err
    assert "epoch" not in printed.err


def written(num_right: int, count: int) -> list[Written]:
    asked = Asked((ChatMessage("user", "on"),), "", Dialogue((), 1, ""))
    return [Written(asked, "", -0.01, True, index < num_right) for index in range(count)]


@pytest.mark.parametrize(
    ("count", "lost", "is_refused"),
    [(40, 0, False), (40, 1, False), (40, 2, True), (16, 3, False), (16, 4, True)],
)
def test_an_adapter_that_answers_worse_in_8_bits_is_refused(
    count: int, lost: int, *, is_refused: bool
) -> None:
    right = count - 2
    problem = f"{right - lost} of {count} held-out answers are right in 8 bits, {right} in full"
    with pytest.raises(BuildError, match=problem) if is_refused else nullcontext():
        compare_exact(written(right, count), written(right - lost, count))


@pytest.mark.parametrize(("count", "is_few"), [(29, True), (30, False)])
def test_of_few_answers_apart_only_what_is_rather_wrong_is_unsure(
    base: AdaptedBundle, count: int, *, is_few: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    said = base.description("rooms", schema=json.dumps(CHOOSING))
    found = calibrated(said, written(count // 2, count), argparse.Namespace(precision=0.95))
    assert (found.unsure_below == 0.5) is is_few
    assert ("too few to tell" in capsys.readouterr().out) is is_few
    assert found.result.num_examples == count


def test_below_the_floor_nothing_is_written(
    tmp_path: Path, teach: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--tools", tmp_path / "tools.json", "--epochs", 1, "--rate", 1e-9, "--floor", 1)
    assert teach(*options, "--variations", 1) == 64
    assert "is below --floor 100.0%: no specialist is written" in capsys.readouterr().err
    assert not (tmp_path / "rooms" / WRITER).exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "examples.jsonl: the answers are JSON; give their shape with --tools or --schema"),
        (("--tools", "none.json"), "none.json: cannot be read as JSON"),
        (("--write", "--weights", "none"), "give their shape"),
        (("--write", "--rank", "65"), "--rank: 65 is not from 1 to 64"),
        (("--write", "--name", "Rooms"), "name 'Rooms' must be"),
        (("--write", "--labels", "a,b"), "--labels: is not for answers that are written"),
        (("--write", "--review", "look.jsonl"), "--review: only with --teacher"),
        (("--write", "--teacher", "mqtt://x/y"), "--teacher: each line of"),
    ],
)
def test_what_is_missing_is_said(
    teach: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    complaint: str,
) -> None:
    assert teach(*options) == 64
    assert complaint in capsys.readouterr().err
