"""A writer's folder: what is read of it, and what a stranger's may not do."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from edged.commands import teach
from edged.errors import BundleError, BundleUnavailableError, UnavailableError
from edged.protocol.request import ChatMessage
from edged.specialists.folder import Result
from edged.specialists.wording import WordingKind
from edged.specialists.writer import (
    ADAPTER,
    ADAPTER_FILES,
    MAX_WRITER_BYTES,
    WRITER,
    WriterDescription,
    adapter_sha256,
    heard,
    messages_of,
    read_writer,
    write_writer,
)
from tests.unit.lessons import BASE

TOOLS = json.dumps([{"type": "function", "function": {"name": "stop"}}])
RESULT = Result(0.9, 0.8, 0.95, 0.02, 40, 0.95, 0.8, 0.97, None)
DESCRIPTION = WriterDescription(
    1, "rooms", BASE, "Answer.", TOOLS, False, False, (), 1.5, 2.0, 0.7, RESULT, ""
)


def write(folder: Path, description: WriterDescription = DESCRIPTION) -> WriterDescription:
    (folder / ADAPTER).mkdir(exist_ok=True)
    for name in ADAPTER_FILES:
        (folder / ADAPTER / name).write_text(name)
    description = replace(description, adapter_sha256=adapter_sha256(folder))
    write_writer(folder, description)
    return description


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = write(tmp_path)
    assert read_writer(tmp_path, BASE) == written
    assert written.wording.read("stop") == {"name": "stop", "arguments": {}}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"schema": ""}, WordingKind.TEXT),
        ({"schema": '{"type": "integer"}'}, WordingKind.COMPACT),
        ({"schema": '{"$ref": "#"}'}, WordingKind.JSON),
        ({"is_list": True, "has_text": True, "grounded": (".a",)}, WordingKind.COMPACT),
    ],
)
def test_the_wording_is_that_of_the_description(
    tmp_path: Path, changes: dict[str, Any], kind: WordingKind
) -> None:
    written = write(tmp_path, replace(DESCRIPTION, **changes))
    wording = read_writer(tmp_path, BASE).wording
    assert (wording.kind, wording.grounded) == (kind, written.grounded)


def test_confidence_grows_with_the_probability_of_the_answer() -> None:
    confidence = [DESCRIPTION.confidence(one) for one in (-1e9, -3.0, -0.5, 0.0)]
    assert confidence == sorted(confidence)
    assert 0 < confidence[0] < 1e-9
    assert confidence[-1] == pytest.approx(0.8808, abs=1e-3)


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
        ({"schema": "7"}, "schema must be an object, or a list of functions"),
        ({"slope": 1e9}, "slope is not a number that could be"),
        ({"extra": 1}, "extra is not a known key"),
    ],
)
def test_a_folder_that_could_do_harm_is_refused(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    written = write(tmp_path)
    (tmp_path / WRITER).write_text(json.dumps(asdict(written) | change))
    with pytest.raises(BundleError, match=rf"{complaint}.*; teach it again"):
        read_writer(tmp_path, BASE)


def damaged(folder: Path) -> None:
    (folder / ADAPTER / ADAPTER_FILES[1]).write_text("other")


def removed(folder: Path) -> None:
    (folder / ADAPTER / ADAPTER_FILES[1]).unlink()


def huge(folder: Path) -> None:
    (folder / WRITER).write_bytes(b" " * (MAX_WRITER_BYTES + 1))


def missing(folder: Path) -> None:
    (folder / WRITER).unlink()


@pytest.mark.parametrize(
    ("damage", "kind", "complaint"),
    [
        (damaged, BundleError, "adapter is not what writer.json says"),
        (removed, BundleUnavailableError, "cannot be read"),
        (huge, BundleError, "larger than 1048576 bytes"),
        (missing, BundleUnavailableError, "cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], kind: type[Exception], complaint: str
) -> None:
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(kind, match=complaint):
        read_writer(tmp_path, BASE)


def test_a_writer_of_another_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(BundleError, match="taught to another model"):
        read_writer(tmp_path, replace(BASE, source="c" * 64))


def test_the_messages_of_a_dialogue_and_what_was_heard() -> None:
    messages = messages_of("Answer.", ["on", "and off"], ["on room=hall"])
    assert messages == (
        ChatMessage("system", "Answer."),
        ChatMessage("user", "on"),
        ChatMessage("assistant", "on room=hall"),
        ChatMessage("user", "and off"),
    )
    assert heard(messages) == "on\non room=hall\nand off"
    assert messages_of("", ["on"], []) == (ChatMessage("user", "on"),)


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
