"""Changes to the machine, with a line of output for each."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from edged.bundle.disk import remove
from edged.bundle.folder import copy_bundle, open_bundle
from edged.commands.install import files
from edged.commands.install.layout import InstallError
from edged.errors import BundleError


class Machine:
    """Makes changes if they are needed; a failed change does not revert earlier ones.

    Args:
        is_dry_run: Print changes without making them.
        root: Of the system that is changed; all paths are below it.
        note: A file that is made before the first change, and tells the next command of it.
    """

    def __init__(
        self, *, is_dry_run: bool, root: Path = Path("/"), note: Path | None = None
    ) -> None:
        self._is_dry_run = is_dry_run
        self._root = root
        self._note = note
        self.num_changes = 0

    def is_changed_since(self, started_us: Callable[[], int]) -> bool:
        """Tell whether this command changed anything, or an earlier one after the service started.

        Args:
            started_us: Returns when that was, by the clock of ``time.monotonic``.
        """
        if self.num_changes > 0:
            return True
        if self._note is None or not self._note.exists():
            return False
        noted = self._note.read_text("ascii")
        # Empty where a command was killed as it wrote it.
        return not noted or int(noted) > started_us()

    def forget_changes(self) -> None:
        """Note that the running service has all changes."""
        if self._note is not None and not self._is_dry_run:
            self._note.unlink(missing_ok=True)

    def write(self, path: Path, content: str, mode: int = 0o644) -> None:
        """Ensure that a file has this content and mode.

        Raises:
            InstallError: It cannot be written.
        """
        line, data = f"write {path}", content.encode()
        try:
            with files.opened_folder(self._root, path.parent) as folder_fd:
                os.stat(path.name, dir_fd=folder_fd, follow_symlinks=False)
                line = f"change {path}"
                if files.read_plain(path.name, folder_fd) == (data, mode):
                    return
        except PermissionError:
            line += ", unless unchanged (only root can read it)"
        except OSError:
            pass  # it is missing, or no regular file
        self._change_in(path, line, lambda fd: files.replace_file(fd, path.name, data, mode))

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
        copy = partial(copy_bundle, source)
        self._change_in(target, line, lambda fd: files.replace_folder(fd, target.name, copy))

    def remove(self, path: Path, owner: int | None = None) -> None:
        """Ensure that a file or folder does not exist, unless it is another user's than ``owner``.

        Raises:
            InstallError: It cannot be removed.
        """
        try:
            with files.opened_folder(self._root, path.parent) as folder_fd:
                status = os.stat(path.name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if owner is not None and status.st_uid != owner:
            print(f"{path} stays: it is not the service's")
            return
        self._change_in(path, f"remove {path}", lambda fd: remove(path.name, fd))

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

    def _change_in(self, path: Path, line: str, change: Callable[[int], object]) -> None:
        """Make a change in the folder of ``path``, which is made if it is missing."""

        def change_folder() -> None:
            with files.opened_folder(self._root, path.parent, is_made=True) as folder_fd:
                change(folder_fd)

        self._change(line, change_folder)

    def _change(self, line: str, change: Callable[[], None]) -> None:
        self.num_changes += 1
        print(f"would {line}" if self._is_dry_run else line)
        if not self._is_dry_run:
            try:
                if self._note is not None:
                    self._note.parent.mkdir(parents=True, exist_ok=True)
                    self._note.write_text(str(time.monotonic_ns() // 1000), "ascii")
                change()
            except OSError as error:
                raise InstallError(f"{line}: {error.strerror or error}") from error


def succeeds(*words: str) -> bool:
    """Run a program; return whether it exits with 0."""
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


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
