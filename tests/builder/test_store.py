"""The build cache: complete entries or none, and every hash is checked."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.builder.store import (
    RECORD_NAME,
    disk_errors,
    hash_file,
    hash_files,
    new_entry,
    open_entry,
    seal,
)
from edged.bundle.disk import take_name
from edged.errors import BuildError


def make(folder: Path) -> None:
    with new_entry(folder, 10) as partial:
        (partial / "a").write_bytes(b"one")
        (partial / "b").write_bytes(b"two")
        seal(partial, {"fact": 1})


def test_a_sealed_entry_is_opened(tmp_path: Path) -> None:
    make(tmp_path / "entry")
    assert open_entry(tmp_path / "entry") == {"fact": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_an_entry_is_replaced_as_a_whole(tmp_path: Path) -> None:
    make(tmp_path / "entry")
    with new_entry(tmp_path / "entry", 10) as partial:
        (partial / "c").write_bytes(b"three")
        seal(partial, {"fact": 2})
    assert open_entry(tmp_path / "entry") == {"fact": 2}
    assert not (tmp_path / "entry" / "a").exists()


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    make(tmp_path / "other")
    (tmp_path / "entry").symlink_to("other")
    make(tmp_path / "entry")
    assert not (tmp_path / "entry").is_symlink()
    assert open_entry(tmp_path / "other") == {"fact": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"entry", "other"}


def test_a_failed_entry_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with new_entry(tmp_path / "entry", 10) as partial:
            (partial / "a").write_bytes(b"half")
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_the_record_of_an_older_version_is_read(tmp_path: Path) -> None:
    make(tmp_path / "entry")
    record = tmp_path / "entry" / RECORD_NAME
    document = json.loads(record.read_bytes())
    del document["sha256"]
    record.write_text(json.dumps(document), encoding="utf-8")
    assert open_entry(tmp_path / "entry") == {"fact": 1}


def test_of_two_builds_at_once_one_entry_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one puts its entry there just before this one does."""
    entry, kept, rename = tmp_path / "entry", tmp_path / "kept", os.rename
    make(kept)

    def late(path: Path, target: Path, **at: int) -> None:
        if target == entry:
            shutil.copytree(kept, entry)
        rename(path, target, **at)

    monkeypatch.setattr(os, "rename", late)
    make(entry)
    assert open_entry(entry) == {"fact": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"entry", "kept"}


def test_what_a_killed_build_left_is_removed_and_not_what_another_one_writes(
    tmp_path: Path,
) -> None:
    with new_entry(tmp_path / "entry", 10) as partial:
        left = partial.with_name(f"{partial.name[:-1]}~")
        left.mkdir()
        (left / "half").write_bytes(b"half")
        make(tmp_path / "entry")
        assert {path.name for path in tmp_path.iterdir()} == {"entry", partial.name}
        seal(partial, {"fact": 2})
    assert open_entry(tmp_path / "entry") == {"fact": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_what_cannot_be_replaced_stays(tmp_path: Path) -> None:
    make(tmp_path / "entry")
    with pytest.raises(FileNotFoundError):
        take_name(tmp_path / "none", tmp_path / "entry")
    assert open_entry(tmp_path / "entry") == {"fact": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_an_entry_is_there_at_each_moment_of_its_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, or without power, a build leaves the old one or the new one."""
    entry, found = tmp_path / "entry", []
    make(entry)

    def watched(change: Callable[..., object]) -> Callable[..., None]:
        def changed(*given: object, **options: object) -> None:
            change(*given, **options)
            found.append(open_entry(entry))

        return changed

    for module, name in ((os, "rename"), (os, "replace"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    make(entry)
    assert found
    assert None not in found


@pytest.mark.parametrize("damage", ["flip", "grow", "extra", "missing", "record", "none"])
def test_a_damaged_entry_is_not_opened(tmp_path: Path, damage: str) -> None:
    make(tmp_path / "entry")
    first, record = tmp_path / "entry" / "a", tmp_path / "entry" / RECORD_NAME
    match damage:
        case "flip":
            first.write_bytes(b"onf")
        case "grow":
            first.write_bytes(b"one more")
        case "extra":
            (tmp_path / "entry" / "c").write_bytes(b"")
        case "missing":
            first.unlink()
        case "record":
            record.write_bytes(record.read_bytes()[:-9])
        case _:
            record.unlink()
    assert open_entry(tmp_path / "entry") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b'{"files": [1], "facts": {}}',
        lambda _: b'{"files": {}, "facts": [1]}',
        lambda _: b"[" * 200_000,
        lambda text: text.replace(b'"fact": 1', b'"fact": 3'),
    ],
)
def test_a_damaged_record_is_not_read(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    with new_entry(tmp_path / "entry", 10) as partial:
        seal(partial, {"fact": 1})
    record = tmp_path / "entry" / RECORD_NAME
    record.write_bytes(damage(record.read_bytes()))
    assert open_entry(tmp_path / "entry") is None


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"one")
    one, two = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest()
    counts: list[int] = []
    assert hash_file(tmp_path / "a", counts.append) == one
    assert counts == [3]
    lines = hashlib.sha256(f"{one}  a\n{two}  b\n".encode()).hexdigest()
    assert hash_files(tmp_path, ["b", "a"]) == hash_files(tmp_path, ["a", "b"]) == lines


def test_too_little_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(BuildError, match=rf"{tmp_path}: the disk is full: .* 10000000.00 GB"),
        new_entry(tmp_path / "entry", 10**16),
    ):
        pytest.fail("the block must not run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full: this step needs about 2.00 GB"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "cannot be written .*Read-only.* XDG_CACHE_HOME"),
        (errno.EACCES, "cannot be written .*Permission denied"),
    ],
)
def test_a_full_or_read_only_disk_is_named(tmp_path: Path, number: int, message: str) -> None:
    def write() -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(BuildError, match=message), disk_errors(tmp_path, 2 * 10**9):
        write()


def test_other_errors_of_the_disk_are_raised_unchanged(tmp_path: Path) -> None:
    def write() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output error"), disk_errors(tmp_path, 1):
        write()


def test_a_disk_that_fills_up_while_writing_leaves_nothing(small_disk: Path) -> None:
    """There is as much space as estimated, and the estimate is too small."""
    with (
        pytest.raises(BuildError, match=f"{small_disk}: the disk is full"),
        new_entry(small_disk / "entry", 10) as partial,
    ):
        (partial / "a").write_bytes(bytes(100_000))
    assert list(small_disk.iterdir()) == []
    make(small_disk / "entry")
    assert open_entry(small_disk / "entry") == {"fact": 1}
