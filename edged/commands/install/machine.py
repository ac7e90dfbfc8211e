"""What an installation does to the machine, with a line for each change."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from edged.bundle.folder import open_bundle
from edged.commands.install.layout import InstallError
from edged.errors import BundleError


class Machine:
    """Brings about what is not so already; a change that fails leaves those before it.

    Args:
        is_dry_run: Say what would be changed and change nothing.
    """

    def __init__(self, *, is_dry_run: bool) -> None:
        self._is_dry_run = is_dry_run
        self.num_changes = 0

    def write(self, path: Path, content: str, mode: int = 0o644) -> None:
        """Have a file with exactly this content and mode.

        Raises:
            InstallError: It cannot be written.
        """
        line = f"write {path}"
        try:
            if path.read_text("utf-8") == content and path.stat().st_mode & 0o777 == mode:
                return
            line = f"change {path}"
        except FileNotFoundError:
            pass
        except PermissionError:
            line += ", unless it is so already (only root can tell)"
        self._change(line, lambda: _replace(path, content, mode))

    def copy_model(self, source: Path, target: Path) -> None:
        """Have a verified copy of a bundle; reads all its files.

        Raises:
            BundleError: The bundle is none.
            InstallError: It cannot be copied.
        """
        wanted = open_bundle(source, verify=False)
        try:
            if open_bundle(target).sha256 == wanted.sha256:
                return
        except BundleError:
            pass
        line = f"copy the model {wanted.model_id} to {target}"
        self._change(line, lambda: _copy_bundle(source, target))

    def remove(self, path: Path) -> None:
        """Have no such file or folder.

        Raises:
            InstallError: It cannot be removed.
        """
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder or path.exists() or path.is_symlink():
            remove = shutil.rmtree if is_folder else Path.unlink
            self._change(f"remove {path}", lambda: remove(path))

    def run(self, what: str, words: Sequence[str], limit_s: float | None = None) -> None:
        """Run a program and wait for its end.

        Args:
            what: What it is for.
            words: The program and its arguments.
            limit_s: How long its end is waited for; what it has set going goes on.

        Raises:
            InstallError: It cannot be started or fails, with the end of what it said; or it takes
                too long.
        """
        line = f"{what}: {' '.join(words)}"
        self._change(line, lambda: _run(line, words, limit_s))

    def _change(self, line: str, change: Callable[[], None]) -> None:
        self.num_changes += 1
        print(f"would {line}" if self._is_dry_run else line)
        if not self._is_dry_run:
            try:
                change()
            except OSError as error:
                raise InstallError(f"{line}: {error.strerror or error}") from error


def succeeds(*words: str) -> bool:
    """Run a program for its exit status alone."""
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _replace(path: Path, content: str, mode: int) -> None:
    """Replace a file as a whole; a secret is never readable in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)


def _copy_bundle(source: Path, target: Path) -> None:
    """Copy beside the place, verify every byte, then put it there."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=shutil.copyfile)
    partial.chmod(0o755)
    for path in partial.iterdir():
        path.chmod(0o644)
    open_bundle(partial)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)


def _run(line: str, words: Sequence[str], limit_s: float | None) -> None:
    try:
        result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{line}: not complete after {limit_s:.0f} s, and goes on") from error
    if result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip())[-800:]
        raise InstallError(f"{line} failed: {said}")
