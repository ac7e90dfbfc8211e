"""A file that is replaced as a whole: who may read it, and what may be in its place."""

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.daemon.atomic_file import AtomicFile
from tests.damages import DAMAGES, OTHERS
from tests.requirements import require

NOBODY = 65534


@pytest.fixture(params=[0o077, 0o000], ids=["umask 077", "umask 000"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, as ``/run/edged``; those of pytest are its user's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("is_public", "mode"), [(True, 0o644), (False, 0o600)])
def test_the_umask_has_no_say_in_who_may_read_it(folder: Path, is_public: bool, mode: int) -> None:
    file = AtomicFile(folder / "edged.prom", "key", is_public=is_public)
    for content in (b"1", b"2"):
        file.write(content)
        assert stat.S_IMODE((folder / "edged.prom").stat().st_mode) == mode


@pytest.mark.usefixtures("umask")
def test_another_user_reads_what_is_public_and_nothing_else(folder: Path) -> None:
    require(os.geteuid() == 0, "becoming another user needs root")
    for name, is_public in (("edged.prom", True), ("state.json", False)):
        AtomicFile(folder / name, "key", is_public=is_public).write(b"figures")
        read = subprocess.run(
            ["cat", folder / name],
            user=NOBODY,
            group=NOBODY,
            extra_groups=(),
            capture_output=True,
            check=False,
        )
        assert read.stdout == (b"figures" if is_public else b"")


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_in_the_place_of_the_new_file_is_neither_written_nor_waited_for(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.json"
    DAMAGES[damage](path.with_name("state.json.new"))
    file = AtomicFile(path, "key")
    for _ in range(2):
        file.write(b"content")
    if damage == "a folder":
        assert caplog.text.count("key: cannot be written") == 1
    else:
        assert path.read_bytes() == b"content"
        assert not caplog.messages


@pytest.mark.parametrize("damage", OTHERS)
def test_what_is_in_the_place_of_the_file_is_replaced_unless_it_is_a_folder(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.json"
    OTHERS[damage](path)
    AtomicFile(path, "key").write(b"content")
    if damage == "a folder":
        assert caplog.text.count("key: cannot be written") == 1
    else:
        assert path.read_bytes() == b"content"
