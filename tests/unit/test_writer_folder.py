"""A writer's folder: what is read of it, and what a stranger's may not do."""

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged.commands import teach
from edged.errors import BundleError, BundleUnavailableError, UnavailableError
from edged.protocol.request import Answer, ChatMessage, FinishReason
from edged.specialists.adapter import (
    MAX_BYTES,
    AdaptedModel,
    AdapterPart,
    ProductShape,
    adapter_bytes,
)
from edged.specialists.choice import ChoiceHead, Powers
from edged.specialists.demanded import Demands
from edged.specialists.features import Layout
from edged.specialists.folder import ARRAYS
from edged.specialists.folder import DESCRIPTION as HEAD
from edged.specialists.lesson import taught
from edged.specialists.wording import WordingKind
from edged.specialists.writer import (
    ADAPTER,
    CHOICE,
    MAX_WRITER_BYTES,
    WRITER,
    Writer,
    WriterAnswers,
    WriterDescription,
    heard,
    messages_of,
    read_writer,
    tokens_allowed,
    write_writer,
)
from tests.unit.lessons import LAYOUT, drawn, lesson, number_lesson
from tests.unit.test_specialist_folder import after_a_cut, full_disk, power_cuts
from tests.unit.writers import BASE, DESCRIPTION, writer

SHAPE = {"1.mlp.down_proj": ProductShape(inputs=6, inners=1, blocks=1, rank=1, width=4)}
PART = AdapterPart(
    np.ones((6, 1), np.int8),
    np.ones(1, np.float32),
    np.ones((1, 1, 4), np.int8),
    np.ones((1, 1, 4), np.float32),
)
ADAPTER_BYTES = adapter_bytes({"1.mlp.down_proj": PART})
OTHER_BYTES = adapter_bytes({"1.mlp.down_proj": replace(PART, up_scales=PART.up_scales * 2)})


def write(folder: Path, description: WriterDescription = DESCRIPTION) -> WriterDescription:
    write_writer(folder, description, ADAPTER_BYTES)
    return replace(description, adapter_sha256=hashlib.sha256(ADAPTER_BYTES).hexdigest())


def read(folder: Path) -> Writer:
    return read_writer(folder, BASE, SHAPE)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = write(tmp_path)
    found = read(tmp_path)
    assert found.description == written
    assert found.adapter.key == written.adapter_sha256
    assert found.wording.read("stop") == {"name": "stop", "arguments": {}}
    size = {"size_bytes": found.adapter.size_bytes}
    assert found.info() == {"name": "rooms", "kind": "json", "accuracy": 0.9} | size
    write(tmp_path, replace(DESCRIPTION, schema=""))
    assert read(tmp_path).info()["kind"] == "text"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"schema": ""}, WordingKind.TEXT),
        ({"schema": '{"type": "integer"}'}, WordingKind.COMPACT),
        ({"schema": '{"$ref": "#"}'}, WordingKind.JSON),
        ({"is_list": True, "has_text": True, "grounded": (".a",)}, WordingKind.COMPACT),
        ({"grounded": (".a", ".b"), "demands": Demands((".b",), (".a",))}, WordingKind.COMPACT),
    ],
)
def test_the_wording_is_that_of_the_description(
    tmp_path: Path, changes: dict[str, Any], kind: WordingKind
) -> None:
    written = write(tmp_path, replace(DESCRIPTION, **changes))
    wording = read(tmp_path).wording
    assert (wording.kind, wording.grounded) == (kind, written.grounded)
    assert wording.demands == written.demands


def test_confidence_grows_with_the_probability_of_the_answer() -> None:
    confidence = [DESCRIPTION.confidence(one) for one in (-1e9, -3.0, -0.5, 0.0)]
    assert confidence == sorted(confidence)
    assert 0 < confidence[0] < 1e-9
    assert confidence[-1] == pytest.approx(0.8808, abs=1e-3)


NAMELESS = '{"type": "object", "required": [{}]}'
SERVICE = '{"name": "light.turn_on", "parameters": {"type": "object", "properties": null}}'


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "format 2 is not known"),
        ({"name": "Rooms!"}, "name must match"),
        ({"escalate": "rooms"}, "escalate 'rooms' must be another specialist"),
        ({"template": "x" * 9000}, "template has more than 8192 characters"),
        ({"schema": "x" * 300_000}, "schema has more than 262144 characters"),
        ({"schema": "{"}, "Expecting property name"),
        ({"schema": "[7]"}, r"\[0\]: must be"),
        ({"schema": f'[{{"name": "a", "parameters": {NAMELESS}}}]'}, "a list of names"),
        ({"schema": f'{{"x-home": [{{"function": {SERVICE}}}]}}'}, "properties must be an object"),
        ({"schema": "7"}, "schema must be an object, or a list of functions"),
        ({"slope": 1e9}, "slope is not a number that could be"),
        ({"max_tokens": 0}, "max_tokens is not from 1 to 512"),
        ({"max_tokens": 10**9}, "max_tokens is not from 1 to 512"),
        ({"extra": 1}, "extra is not a known key"),
    ],
)
def test_a_folder_that_could_do_harm_is_refused(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    written = write(tmp_path)
    (tmp_path / WRITER).write_text(json.dumps(asdict(written) | change))
    with pytest.raises(BundleError, match=rf"{complaint}.*; teach it again"):
        read(tmp_path)


POWERS = Powers(3.0, 0.5)
CHOOSING = AdaptedModel("a" * 64, "b" * 64, "int8-w8a8/static/int8")


def write_choice(folder: Path) -> ChoiceHead:
    head = ChoiceHead.of(taught(lesson(), lambda _: None), POWERS)
    write_writer(folder, replace(DESCRIPTION, base=CHOOSING), ADAPTER_BYTES, head)
    return head


def read_choice(folder: Path) -> ChoiceHead | None:
    return read_writer(folder, CHOOSING, SHAPE, LAYOUT).choice


def test_the_head_of_a_choice_is_read_with_its_writer(tmp_path: Path) -> None:
    written, features = write_choice(tmp_path), drawn(1, seed=4)[0][0]
    found = read_choice(tmp_path)
    assert found is not None
    assert found.powers == POWERS
    shares = [one.preferences(features).shares for one in (found, written)]
    assert shares[0] == pytest.approx(shares[1], abs=0.01)
    assert found.specialist.gate is None
    size_bytes = read_writer(tmp_path, CHOOSING, SHAPE).info()["size_bytes"]
    # Taught anew without one, it has none.
    write_writer(tmp_path, replace(DESCRIPTION, base=CHOOSING), ADAPTER_BYTES)
    assert read_choice(tmp_path) is None
    assert not (tmp_path / CHOICE).exists()
    alone = read_writer(tmp_path, CHOOSING, SHAPE).info()["size_bytes"]
    assert size_bytes == alone + found.specialist.size_bytes
    # As earlier versions wrote it.
    assert "choice" not in json.loads((tmp_path / WRITER).read_text())


def of_numbers(folder: Path) -> None:
    head = ChoiceHead(taught(number_lesson(), lambda _: None), POWERS)
    write_writer(folder, replace(DESCRIPTION, base=CHOOSING), ADAPTER_BYTES, head)


def said_otherwise(folder: Path) -> None:
    path = folder / CHOICE / HEAD
    path.write_text(path.read_text() + " ")


def too_strong(folder: Path) -> None:
    tree = json.loads((folder / WRITER).read_text())
    tree["choice"]["powers"]["word"] = 1e6
    (folder / WRITER).write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (said_otherwise, "specialist.json is not what writer.json says; teach it again"),
        (lambda folder: (folder / CHOICE / ARRAYS).write_bytes(b"no"), "arrays.npz is not what"),
        (lambda folder: (folder / CHOICE / ARRAYS).unlink(), "cannot be read"),
        (of_numbers, "must choose one of some labels; teach it again"),
        (too_strong, "choice.powers is not from 0 to 8; teach it again"),
    ],
)
def test_a_damaged_head_of_a_choice_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    write_choice(tmp_path)
    damage(tmp_path)
    with pytest.raises((BundleError, BundleUnavailableError), match=complaint):
        read_choice(tmp_path)


def test_a_head_of_other_hidden_states_is_refused(tmp_path: Path) -> None:
    write_choice(tmp_path)
    with pytest.raises(BundleError, match="the model gives"):
        read_writer(tmp_path, CHOOSING, SHAPE, Layout(5, 9))


def damaged(folder: Path) -> None:
    other = replace(PART, down=np.zeros((6, 1), np.int8))
    (folder / ADAPTER).write_bytes(adapter_bytes({"1.mlp.down_proj": other}))


def broken(folder: Path) -> None:
    (folder / ADAPTER).write_bytes(b"other")


def removed(folder: Path) -> None:
    (folder / ADAPTER).unlink()


def linked(folder: Path) -> None:
    (folder / ADAPTER).unlink()
    (folder / ADAPTER).symlink_to("/dev/zero")


def long(folder: Path) -> None:
    (folder / ADAPTER).write_bytes(bytes(MAX_BYTES + 1))


def huge(folder: Path) -> None:
    (folder / WRITER).write_bytes(b" " * (MAX_WRITER_BYTES + 1))


def missing(folder: Path) -> None:
    (folder / WRITER).unlink()


@pytest.mark.parametrize(
    ("damage", "kind", "complaint"),
    [
        (damaged, BundleError, "adapter.safetensors is not what writer.json says"),
        (broken, BundleError, "adapter.safetensors: "),
        (removed, BundleUnavailableError, "cannot be read"),
        (linked, BundleUnavailableError, "cannot be read"),
        (long, BundleUnavailableError, "cannot be read: longer than"),
        (huge, BundleUnavailableError, "cannot be read: longer than 1048576 bytes"),
        (missing, BundleUnavailableError, "cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], kind: type[Exception], complaint: str
) -> None:
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(kind, match=complaint):
        read(tmp_path)


def test_a_writer_of_another_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    for base in (replace(BASE, source="c" * 64), replace(BASE, form="int8-w8a8/static/fp32")):
        with pytest.raises(BundleError, match="taught to another model"):
            read_writer(tmp_path, base, SHAPE)
    with pytest.raises(BundleError, match="takes no adapters; rebuild it with this version's"):
        read_writer(tmp_path, BASE, {})
    # The scaling of the norms is another matter: a build takes either.
    assert read_writer(tmp_path, replace(BASE, form="int8-w8a8/dynamic/int8"), SHAPE)


def test_an_adapter_that_is_too_large_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lower its rank"):
        write_writer(tmp_path / "large", DESCRIPTION, bytes(MAX_BYTES + 1))
    assert not (tmp_path / "large").exists()


SCHEMA = {
    "type": "object",
    "properties": {
        "room": {"type": "string", "x-inputs": {"list": "rooms", "value": "id", "say": "name"}}
    },
    "required": ["room"],
    "additionalProperties": False,
}
INPUTS = {"rooms": [{"id": str(n), "name": name} for n, name in enumerate(("hall", "den", "den"))]}


def answers(schema: object = SCHEMA, **changes: Any) -> WriterAnswers:  # noqa: ANN401
    return WriterAnswers(writer(schema, **changes), INPUTS)


def test_a_text_that_is_whole_and_sure_becomes_its_json() -> None:
    found = answers().answer("room=hall", -0.5, FinishReason.STOP)
    detail = {"specialist": "rooms", "confidence": 0.7773}
    assert found == Answer("room=hall", FinishReason.STOP, {"room": "0"}, detail=detail)
    assert answers(None).answer("hello", 0.0, FinishReason.STOP).json is None
    assert answers().adapter.key == "key"


def test_what_is_below_the_threshold_is_unsure_and_has_no_json() -> None:
    found = answers().answer("room=hall", -1.0, FinishReason.STOP)
    assert (found.finish_reason, found.json, found.text) == (FinishReason.UNSURE, None, "room=hall")
    assert found.detail["confidence"] == 0.6225
    assert found.may_leave
    assert not answers(escalate="model").answer("room=hall", -1.0, FinishReason.STOP).may_leave


def test_what_names_several_things_is_unsure_unless_the_schema_has_an_answer_to_it() -> None:
    found = answers().answer("room=den", 0.0, FinishReason.STOP)
    assert (found.finish_reason, found.json) == (FinishReason.UNSURE, None)
    found = answers(SCHEMA | {"x-ambiguous": {"room": None}}).answer(
        "room=den", 0.0, FinishReason.STOP
    )
    assert (found.finish_reason, found.json) == (FinishReason.STOP, {"room": None})


@pytest.mark.parametrize(
    "reason", [FinishReason.LENGTH, FinishReason.DEADLINE, FinishReason.CANCELLED]
)
def test_what_was_cut_off_has_neither_json_nor_confidence(reason: FinishReason) -> None:
    found = answers().answer("room=hall", 0.0, reason)
    assert found == Answer("room=hall", reason, detail={"specialist": "rooms"})


def test_the_messages_of_a_dialogue_and_what_was_heard() -> None:
    messages = messages_of(["on", "and off"], ["on room=hall"])
    assert messages == (
        ChatMessage("user", "on"),
        ChatMessage("assistant", "on room=hall"),
        ChatMessage("user", "and off"),
    )
    system = ChatMessage("system", "Answer.")
    assert heard([system, *messages]) == "on\non room=hall\nand off"


def test_an_answer_may_be_half_as_long_again_as_any_example() -> None:
    assert [tokens_allowed(longest) for longest in (1, 20, 400)] == [9, 38, 512]


def test_without_the_builders_tools_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="torch")

    monkeypatch.setattr("edged.commands.teach.importlib.import_module", absent)
    examples = tmp_path / "a.jsonl"
    examples.write_text('{"prompt": "x", "answer": {"a": {"b": 1}}}\n')
    parser = argparse.ArgumentParser()
    teach.add_arguments(parser)
    words = [str(examples), "--model", "b", "--output", str(tmp_path / "out")]
    with pytest.raises(UnavailableError, match=r"torch is not installed.*edged\[build\]"):
        teach.main(parser.parse_args(words))


@pytest.mark.parametrize("name", [ARRAYS, HEAD, ADAPTER, WRITER])
def test_a_full_disk_leaves_the_writer_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_choice(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    full_disk(monkeypatch, name)
    with pytest.raises(OSError, match="No space left"):
        write_choice(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    assert read_choice(tmp_path) is not None


def test_a_power_cut_leaves_the_old_writer_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, described = Path("/writer"), replace(DESCRIPTION, base=CHOOSING)
    head = ChoiceHead.of(taught(lesson(), lambda _: None), POWERS)
    other = ChoiceHead.of(taught(lesson(seed=2), lambda _: None), POWERS)
    found: list[float] = []
    for disk in power_cuts(
        monkeypatch,
        folder,
        lambda: write_writer(folder, described, ADAPTER_BYTES, head),
        lambda: write_writer(folder, replace(described, shift=1.0), OTHER_BYTES, other),
    ):
        copy = after_a_cut(disk, folder, tmp_path / str(len(found)))
        read = read_writer(copy, CHOOSING, SHAPE, LAYOUT)
        found.append(read.description.shift)
    assert set(found) == {DESCRIPTION.shift, 1.0}


def test_the_choice_is_removed_only_after_its_successor_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_choice(tmp_path)
    full_disk(monkeypatch, WRITER)
    with pytest.raises(OSError, match="No space left"):
        write_writer(tmp_path, replace(DESCRIPTION, base=CHOOSING), ADAPTER_BYTES)
    assert read_choice(tmp_path) is not None
