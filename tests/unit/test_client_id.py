"""The client identifier: one that others cannot guess, and those of before."""

import logging
import os
import re
import stat
from pathlib import Path

import pytest

from edged.config.keys import Config
from edged.config.load import load_config
from edged.daemon.client_id import FILE_NAME, ClientIds, client_ids, forget_former, passing_id

PLAIN = "edged-kitchen"
SECRET = re.compile(rf"{PLAIN}-[0-9a-f]{{16}}")


def config(folder: Path | None = None, text: str = "") -> Config:
    overrides = {"model.path": "m", "node": "kitchen"}
    if folder is not None:
        overrides["state.folder"] = str(folder)
    return load_config(text, "edged.yaml", overrides=overrides)


def test_a_configured_identifier_is_used_as_it_is_and_for_nothing_else(tmp_path: Path) -> None:
    given = config(tmp_path, "broker: {client_id: me}")
    assert client_ids(given, "p") == ClientIds("me")
    assert passing_id(given, "doctor") == "me-doctor"
    assert list(tmp_path.iterdir()) == []


def test_without_password_and_folder_it_stays_as_it_was() -> None:
    assert client_ids(config(), None) == ClientIds(PLAIN)
    assert client_ids(config(), "") == ClientIds(PLAIN)


def test_a_password_gives_the_same_one_at_each_start_and_another_node_another() -> None:
    ids = client_ids(config(), "p")
    assert SECRET.fullmatch(ids.own)
    assert ids.former == (PLAIN,)
    assert client_ids(config(), "p") == ids
    others = [
        client_ids(config(), "q"),
        client_ids(config(text="prefix: home"), "p"),
        client_ids(config(text="broker: {username: edged}"), "p"),
    ]
    assert len({ids.own, *(other.own for other in others)}) == 4


def test_the_derivation_is_the_documented_one() -> None:
    """Another one would be a change of every node's identifier."""
    given = config(text="broker: {username: edged}")
    assert client_ids(given, "secret").own == "edged-kitchen-4d792ba0b72adda2"


def test_a_secret_in_the_folder_is_made_once_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    given = config(tmp_path)
    ids = client_ids(given, None)
    assert SECRET.fullmatch(ids.own)
    assert ids.former == (PLAIN,)
    file = tmp_path / FILE_NAME
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert client_ids(given, None) == ids, "its messages are not taken in yet"
    forget_former(given, ids._replace(former=()))
    assert client_ids(given, None) == ClientIds(ids.own)
    assert file.read_text() == f"{ids.own}\n"


def test_another_password_leaves_a_session_to_take_in(tmp_path: Path) -> None:
    given = config(tmp_path)
    first = client_ids(given, "p")
    forget_former(given, first._replace(former=()))
    second = client_ids(given, "q")
    assert second.former == (first.own,)
    third = client_ids(given, None)
    assert third == (second.own, (first.own,)), "what is in the folder is as good as a new one"
    assert client_ids(given, "p") == (first.own, (second.own,))


def test_the_identifiers_kept_are_bounded(tmp_path: Path) -> None:
    for number in range(6):
        ids = client_ids(config(tmp_path), f"p{number}")
    assert len(ids.former) == 3
    assert len((tmp_path / FILE_NAME).read_text().splitlines()) == 4


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_one_that_others_could_read_is_taken_in_and_not_used_again(
    tmp_path: Path, mode: int
) -> None:
    given, file = config(tmp_path), tmp_path / FILE_NAME
    first = client_ids(given, None)
    forget_former(given, first._replace(former=()))
    file.chmod(mode)
    second = client_ids(given, None)
    assert second.own != first.own
    assert second.former == (first.own,)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_of_another_nodes_folder_no_session_is_taken(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("edged-attic-0123456789abcdef\nedged-attic\n#+\n\n")
    ids = client_ids(config(tmp_path), None)
    assert SECRET.fullmatch(ids.own)
    assert ids.former == (PLAIN,)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "long", "binary"])
def test_whatever_else_is_there_is_replaced_or_said(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    file, other = tmp_path / FILE_NAME, tmp_path / "other"
    other.write_text(f"{PLAIN}-0123456789abcdef\n")
    if kind == "link":
        file.symlink_to(other)
    elif kind == "folder":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.write_bytes(b"\n" * 100_000 if kind == "long" else b"\xff\0" * 50)
    ids = client_ids(config(tmp_path), None)
    assert other.read_text() == f"{PLAIN}-0123456789abcdef\n"
    if kind == "folder":
        assert ids == ClientIds(PLAIN)
        assert "cannot be written" in caplog.text
    else:
        assert SECRET.fullmatch(ids.own)
        assert ids.own != f"{PLAIN}-0123456789abcdef"
        assert file.read_text().splitlines() == [ids.own, PLAIN]


def test_a_folder_that_cannot_be_written_is_said_and_the_identifier_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = config(tmp_path / "none")
    with caplog.at_level(logging.WARNING):
        assert client_ids(given, None) == ClientIds(PLAIN)
    assert f"{tmp_path}/none/client-id: cannot be written: " in caplog.text
    assert "correct state.folder" in caplog.text
    assert f"{PLAIN}, which others can guess; correct state.folder" in caplog.text
    # From a password it does not depend on the folder; what is there is taken in at each start.
    ids = client_ids(given, "p")
    assert ids == client_ids(config(), "p")
    forget_former(given, ids)


def test_what_was_left_half_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f"{FILE_NAME}.new").write_text("half")
    ids = client_ids(config(tmp_path), None)
    assert (tmp_path / FILE_NAME).read_text().splitlines() == [ids.own, PLAIN]


def test_connections_beside_the_nodes_own_have_one_of_their_own_each_time() -> None:
    first, second = (passing_id(config(), "doctor") for _ in range(2))
    assert first != second
    assert re.fullmatch(rf"{PLAIN}-[0-9a-f]{{16}}-doctor", first)
