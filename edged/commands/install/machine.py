"""Changes to the machine, with a line of output for each."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from edged.bundle.folder import open_bundle
from edged.commands.install.layout import InstallError
from edged.errors import BundleError


class Machine:
    """Makes changes if they are needed; a failed change does not revert earlier ones.

    Args:
        is_dry_run: Print changes without making them.
    """

    def __init__(self, *, is_dry_run: bool) -> None:
        self._is_dry_run = is_dry_run
        self.num_changes = 0

    def write(self, path: Path, content: str, mode: int = 0o644) -> None:
        """Ensure that a file has this content and mode.

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
            line += ", unless unchanged (only root can read it)"
        self._change(line, lambda: _replace(path, content, mode))

    def copy_model(self, source: Path, target: Path) -> None:
        """Ensure a verified copy of a bundle; reads all its files.

        Raises:
            BundleError: The source is not a valid bundle.
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
        """Ensure that a file or folder does not exist.

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
            what: Its purpose, for the line of output.
            words: The program and its arguments.
            limit_s: Timeout; a service that it started continues.

        Raises:
            InstallError: It cannot be started, takes too long, or fails; with the end of its
                output.
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
    """Run a program; return whether it exits with 0."""
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _replace(path: Path, content: str, mode: int) -> None:
    """Replace a file atomically; a secret is never readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)  # independent of the umask
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)


def _copy_bundle(source: Path, target: Path) -> None:
    """Copy next to the target, verify every byte, then rename."""
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
        raise InstallError(
            f"{line}: not complete after {limit_s:.0f} s; it continues in the background"
        ) from error
    if result.returncode != 0:
        output = (result.stderr.strip() or result.stdout.strip())[-800:]
        raise InstallError(f"{line} failed: {output}")
