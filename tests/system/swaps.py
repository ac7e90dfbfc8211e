"""Steps of ``edged install`` as root, while another user swaps files and folders for links.

    python -m tests.system.swaps STEP FOLDER SWAPPED

Python reports each call that names a file before it is made. A step is repeated, with a swap before
the first call, before the second, and so on: whatever lies between a check and a use, one of the
repetitions has the swap there. ``FOLDER`` has ``original``, a bundle, and ``outside``, secrets of
root's; an assertion says what went wrong.

A process of its own: what listens to these reports does so until the end, and meanwhile Python 3.11
refuses now and then to trace a new thread, which then does not start.
"""

import contextlib
import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from edged.commands.install.machine import Machine
from edged.errors import EdgedError

SECRET = "only root may read this"  # noqa: S105 - of nobody
_watch: Callable[[], None] | None = None


def _on_event(event: str, _arguments: object) -> None:
    global _watch  # noqa: PLW0603 - a hook cannot be removed, only be given nothing to do
    if _watch is not None and (event == "open" or event.startswith("os.")):
        watch, _watch = _watch, None  # what it does itself is not reported to it
        watch()
        _watch = watch


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


def copy_a_model(folder: Path, swapped: str) -> None:
    """Nothing but the checked bundle is copied."""
    original, outside = folder / "original", folder / "outside"
    bundle, root = folder / "bundle", folder / "system"
    target = root / "var/lib/edged-models/tiny"
    partial = target.with_name(".tiny.partial")

    def prepare() -> tuple[Path, Path]:
        for each in (bundle, root, bundle.with_name("swapped-away")):
            if each.is_symlink():
                each.unlink()
            shutil.rmtree(each, ignore_errors=True)
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


def write_a_file(folder: Path, swapped: str) -> None:
    """Nothing outside of the target system is written or removed."""
    root, outside = folder / "system", folder / "outside"
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


def replace_a_model(folder: Path, _swapped: str) -> None:
    """A model does not replace a folder outside of the target system."""
    original, outside = folder / "original", folder / "outside"
    root = folder / "system"
    target = root / "var/lib/edged-models/tiny"
    (outside / "tiny").mkdir()
    (outside / "tiny" / "kept").write_text(SECRET, "utf-8")
    before = contents(outside)

    def prepare() -> tuple[Path, Path]:
        shutil.rmtree(root, ignore_errors=True)
        target.mkdir(parents=True)
        return target.parent, outside

    def check() -> None:
        assert contents(outside) == before

    step = lambda: Machine(is_dry_run=False, root=root).copy_model(original, target)  # noqa: E731
    assert repeat_with_a_swap(prepare, step, check) > 20


STEPS = {step.__name__: step for step in (copy_a_model, write_a_file, replace_a_model)}

if __name__ == "__main__":
    sys.addaudithook(_on_event)
    STEPS[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
