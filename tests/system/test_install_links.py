"""``edged install`` as root, while another user swaps files and folders for links.

Python reports each call that names a file before it is made. Each test repeats one step of an
installation and swaps before the first call, before the second, and so on: whatever lies between
a check and a use, one of the repetitions has the swap there.
"""

import contextlib
import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.cli import main
from edged.commands.install.machine import Machine
from edged.errors import EdgedError, ExitCode
from tests.tiny_model import write_tiny_bundle

SECRET = "only root may read this"  # noqa: S105 - of nobody
_watch: Callable[[], None] | None = None


def _on_event(event: str, _arguments: object) -> None:
    global _watch  # noqa: PLW0603 - a hook cannot be removed, only be given nothing to do
    if _watch is not None and (event == "open" or event.startswith("os.")):
        watch, _watch = _watch, None  # what it does itself is not reported to it
        watch()
        _watch = watch


sys.addaudithook(_on_event)


class Swapper:
    """Swap a path for a link before the call with this number; note what ``look`` returns."""

    def __init__(self, number: int, path: Path, outside: Path, look: Callable[[], None]) -> None:
        self._left = number
        self._path = path
        self._outside = outside
        self._look = look
        self.is_done = False

    def run(self, step: Callable[[], object]) -> None:
        """Run a step, which may fail with an error of its own."""
        global _watch  # noqa: PLW0603 - see above
        _watch = self._before_a_call
        try:
            with contextlib.suppress(EdgedError):
                step()
        finally:
            _watch = None

    def _before_a_call(self) -> None:
        self._look()
        self._left -= 1
        if self._left == 0 and (self._path.exists() or self._path.is_symlink()):
            self._path.rename(self._path.with_name("swapped-away"))
            self._path.symlink_to(self._outside)
        self.is_done = self.is_done or self._left == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def repeat_with_a_swap(
    prepare: Callable[[], tuple[Path, Path]],
    step: Callable[[], object],
    check: Callable[[], None],
    look: Callable[[], None] = lambda: None,
) -> int:
    """Repeat a step until it makes no call to swap before; return how often it was repeated."""
    for number in itertools.count(1):
        path, outside = prepare()
        swapper = Swapper(number, path, outside, look)
        swapper.run(step)
        check()
        if not swapper.is_done:
            return number - 1
    raise AssertionError


@pytest.fixture
def original(tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    return write_tiny_bundle(tmp_path / "original")


@pytest.fixture
def outside(tmp_path: Path, original: Path) -> Path:
    """A folder of root's with secrets under the names of a bundle, each of the right size."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for path in original.iterdir():
        size_bytes = path.stat().st_size
        (folder / path.name).write_text((SECRET * size_bytes)[:size_bytes], "utf-8")
    for name in ("edged.yaml", "secret"):
        (folder / name).write_text(SECRET, "utf-8")
    return folder


@pytest.mark.parametrize("swapped", ["", "manifest.json", "tokenizer.json", "model.onnx.data"])
def test_nothing_but_the_checked_bundle_is_copied(
    tmp_path: Path, original: Path, outside: Path, swapped: str
) -> None:
    bundle, root = tmp_path / "bundle", tmp_path / "system"
    target = root / "var/lib/edged-models/tiny"
    partial = target.with_name(".tiny.partial")

    def prepare() -> tuple[Path, Path]:
        for folder in (bundle, root, bundle.with_name("swapped-away")):
            if folder.is_symlink():
                folder.unlink()
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, bundle)
        target.parent.mkdir(parents=True)
        return bundle / swapped, outside / swapped

    def look() -> None:
        if partial.exists():
            copied = contents(partial)
            assert not any(SECRET.encode() in content for content in copied.values())
            # After the copy is verified, it is opened up to be renamed.
            assert partial.stat().st_mode & 0o077 == 0 or copied == contents(original)

    def check() -> None:
        assert not partial.exists()
        copied = contents(root)
        assert not any(SECRET.encode() in content for content in copied.values())
        assert not copied or contents(target) == contents(original)

    step = lambda: Machine(is_dry_run=False, root=root).copy_model(bundle, target)  # noqa: E731
    assert repeat_with_a_swap(prepare, step, check, look) > 20


@pytest.mark.parametrize("swapped", ["etc", "etc/edged", "etc/edged/edged.yaml"])
def test_nothing_outside_of_the_target_system_is_written_or_removed(
    tmp_path: Path, outside: Path, swapped: str
) -> None:
    root = tmp_path / "system"
    path, before = root / "etc/edged/edged.yaml", contents(outside)

    def prepare() -> tuple[Path, Path]:
        shutil.rmtree(root, ignore_errors=True)
        path.parent.mkdir(parents=True)
        path.write_text("old\n", "utf-8")
        return root / swapped, outside / "edged.yaml" if path.name in swapped else outside

    def step() -> None:
        machine = Machine(is_dry_run=False, root=root)
        machine.write(path, "new\n", 0o600)
        machine.remove(path)
        machine.remove(path.parent)

    def check() -> None:
        assert contents(outside) == before
        assert (outside / "edged.yaml").stat().st_mode & 0o777 == 0o644

    assert repeat_with_a_swap(prepare, step, check) > 10


def test_a_model_does_not_replace_a_folder_outside_of_the_target_system(
    tmp_path: Path, original: Path, outside: Path
) -> None:
    root = tmp_path / "system"
    target, before = root / "var/lib/edged-models/tiny", contents(outside)

    def prepare() -> tuple[Path, Path]:
        shutil.rmtree(root, ignore_errors=True)
        target.mkdir(parents=True)
        return target.parent, outside

    step = lambda: Machine(is_dry_run=False, root=root).copy_model(original, target)  # noqa: E731
    (outside / "tiny").mkdir()
    (outside / "tiny" / "kept").write_text(SECRET, "utf-8")
    before = contents(outside)

    def check() -> None:
        assert contents(outside) == before

    assert repeat_with_a_swap(prepare, step, check) > 20


@pytest.mark.parametrize(
    "options", [("--ca-file", "mqtts://broker"), ("--password-file", "mqtt://edged@broker")]
)
def test_a_secret_is_not_installed_through_a_link(
    tmp_path: Path,
    original: Path,
    outside: Path,
    options: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, link = tmp_path / "system", tmp_path / "mine"
    (root / "etc").mkdir(parents=True)
    link.symlink_to(outside / "secret")
    option, broker = options
    words = ["install", "--root", str(root), "--model", str(original), "--broker", broker]
    assert main([*words, option, str(link)]) == ExitCode.USAGE
    assert f"{option}: cannot be read as a plain file" in capsys.readouterr().err
    assert contents(root) == {}
