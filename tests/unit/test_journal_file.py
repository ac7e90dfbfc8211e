"""The crash journal's file: pages at once, the disk on a thread, and no disk is no obstacle."""

import errno
import os
import queue
import threading
from pathlib import Path

import pytest

from edged.daemon.journal_file import FILE_NAME, PAGE_BYTES, JournalFile
from tests.damages import CONTENTS, OTHERS

LIMIT_S = 10.0


@pytest.fixture
def synced() -> queue.SimpleQueue[int]:
    return queue.SimpleQueue()


def test_pages_are_read_by_the_next_process_as_they_were_written(
    tmp_path: Path, synced: queue.SimpleQueue[int]
) -> None:
    file = JournalFile(tmp_path, synced.put)
    assert file.read() == (b"", b"")
    file.write(1, b"intake")
    assert JournalFile(tmp_path, synced.put).read() == (b"", b"intake")
    file.write(0, b"starts, a long page" * 10)
    file.write(0, b"starts")
    assert JournalFile(tmp_path, synced.put).read() == (b"starts", b"intake")
    assert (tmp_path / FILE_NAME).stat().st_size == 2 * PAGE_BYTES


def test_without_a_folder_there_is_nothing_to_wait_for(synced: queue.SimpleQueue[int]) -> None:
    file = JournalFile(None, synced.put)
    file.write(0, b"starts")
    assert file.read() is None
    assert not file.sync(1)
    assert synced.empty()


def test_a_power_cut_loses_nothing_of_what_was_synced(
    tmp_path: Path, synced: queue.SimpleQueue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written pages survive the process at once; only a sync makes them survive a power cut."""
    on_disk: list[bytes] = []
    path = tmp_path / FILE_NAME
    monkeypatch.setattr("os.fdatasync", lambda _file: on_disk.append(path.read_bytes()))
    file = JournalFile(tmp_path, synced.put)
    file.write(0, b"starts")
    file.write(1, b"intake")
    assert on_disk == []
    assert file.sync(7)
    assert synced.get(timeout=LIMIT_S) == 7
    assert on_disk[-1].split() == [b"starts", b"intake"]


def test_one_sync_serves_all_that_were_asked_for_meanwhile(
    tmp_path: Path, synced: queue.SimpleQueue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: queue.SimpleQueue[int] = queue.SimpleQueue()
    may_end = threading.Semaphore(0)

    def slow_sync(file: int) -> None:
        begun.put(file)
        assert may_end.acquire(timeout=LIMIT_S)

    monkeypatch.setattr("os.fdatasync", slow_sync)
    file = JournalFile(tmp_path, synced.put)
    file.sync(1)
    begun.get(timeout=LIMIT_S)
    for key in (2, 3, 4):
        assert file.sync(key)
    may_end.release(2)
    assert [synced.get(timeout=LIMIT_S) for _ in range(4)] == [1, 2, 3, 4]
    begun.get(timeout=LIMIT_S)
    assert begun.empty(), "more than two syncs"


@pytest.mark.parametrize("damage", OTHERS)
def test_a_disk_that_takes_nothing_costs_one_line_until_it_works_again(
    tmp_path: Path,
    synced: queue.SimpleQueue[int],
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / FILE_NAME
    OTHERS[damage](path)
    file = JournalFile(tmp_path, synced.put)
    for key in (1, 2):
        file.write(0, b"starts")
        assert file.sync(key)
        assert synced.get(timeout=LIMIT_S) == key, "a request would never start"
    assert caplog.text.count("state.folder: the crash journal cannot be written") == 1
    CONTENTS["nothing"](path)
    file.write(0, b"starts")
    assert file.read() == (b"starts", b"")
    OTHERS[damage](path)
    file.write(0, b"starts")
    assert caplog.text.count("state.folder: the crash journal cannot be written") == 2


@pytest.mark.parametrize("damage", OTHERS)
def test_what_is_no_file_is_neither_waited_for_nor_written(
    tmp_path: Path, synced: queue.SimpleQueue[int], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE_NAME
    OTHERS[damage](path)
    file = JournalFile(tmp_path, synced.put)
    assert file.read() == (b"", b"")
    file.write(0, b"starts")
    assert not path.is_file()
    assert caplog.text.count("cannot be read, and is started anew") == 1


def test_a_file_that_is_too_long_is_repaired_and_said_once(
    tmp_path: Path, synced: queue.SimpleQueue[int], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE_NAME
    CONTENTS["huge"](path)
    for _ in range(2):
        file = JournalFile(tmp_path, synced.put)
        assert file.read() == (b"", b"")
        file.write(1, b"")
    assert path.stat().st_size == 2 * PAGE_BYTES
    assert caplog.text.count("cannot be read") == 1


def test_a_disk_that_cannot_be_read_now_costs_the_journal_nothing_that_is_on_it(
    tmp_path: Path, synced: queue.SimpleQueue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    JournalFile(tmp_path, synced.put).write(0, b"starts")

    def fail(_path: Path, _max_bytes: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("edged.daemon.journal_file.read_plain", fail)
        assert JournalFile(tmp_path, synced.put).read() == (b"", b"")
    assert JournalFile(tmp_path, synced.put).read() == (b"starts", b"")


def test_the_file_is_its_owners_alone(tmp_path: Path, synced: queue.SimpleQueue[int]) -> None:
    """It has identifiers of requests."""
    JournalFile(tmp_path, synced.put).write(0, b"starts")
    assert os.stat(tmp_path / FILE_NAME).st_mode & 0o077 == 0  # noqa: PTH116 - as ``os.open`` made it
