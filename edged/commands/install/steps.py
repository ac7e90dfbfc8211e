"""The kinds of steps of a plan.

Rule: ``todo`` only looks; ``apply`` is called after it said that there is something to do.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edged.bundle.folder import open_bundle
from edged.commands.install.layout import InstallError
from edged.errors import BundleError


class Step(Protocol):
    """One thing that must be so afterwards."""

    def todo(self) -> str | None:
        """Say in one line what is to be done; None when it is done already."""
        ...

    def apply(self) -> None:
        """Do it; an ``InstallError`` or ``OSError`` when that fails."""
        ...


@dataclass(frozen=True, slots=True)
class File:
    """A file with exactly this content and mode."""

    path: Path
    content: str
    mode: int = 0o644

    def todo(self) -> str | None:
        """Compare content and mode."""
        try:
            is_same = self.path.read_text("utf-8") == self.content
            has_mode = self.path.stat().st_mode & 0o777 == self.mode
        except FileNotFoundError:
            return f"write {self.path}"
        except PermissionError:
            return f"write {self.path}, unless it is so already (only root can tell)"
        return None if is_same and has_mode else f"change {self.path}"

    def apply(self) -> None:
        """Replace it as a whole; a secret is never readable in between."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self.mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, self.mode)  # whatever the umask
            file.write(self.content)
            file.flush()
            os.fsync(descriptor)
        partial.replace(self.path)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link; something else that has its name is left alone."""

    path: Path
    target: Path

    def todo(self) -> str | None:
        """See where it points."""
        if self.path.exists() and not self.path.is_symlink():
            return None
        is_same = self.path.is_symlink() and self.path.readlink() == self.target
        return None if is_same else f"link {self.path} to {self.target}"

    def apply(self) -> None:
        """Make it point there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(self.target)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder with this mode."""

    path: Path
    mode: int = 0o755

    def todo(self) -> str | None:
        """See whether it is there, and who may enter."""
        if not self.path.is_dir():
            return f"make {self.path}"
        has_mode = self.path.stat().st_mode & 0o777 == self.mode
        return None if has_mode else f"set the mode of {self.path} to {self.mode:o}"

    def apply(self) -> None:
        """Make it with its parents."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(self.mode)


@dataclass(frozen=True, slots=True)
class Model:
    """A verified copy of a bundle."""

    source: Path
    target: Path

    def todo(self) -> str | None:
        """Compare the manifests, and the files of the copy with its own; reads them all."""
        wanted = open_bundle(self.source, verify=False)
        try:
            if open_bundle(self.target).sha256 == wanted.sha256:
                return None
        except BundleError:
            pass
        return f"copy the model {wanted.model_id} to {self.target}"

    def apply(self) -> None:
        """Copy beside the place, verify every byte, then put it there."""
        partial = self.target.with_name(f".{self.target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(self.source, partial, copy_function=shutil.copyfile)
        partial.chmod(0o755)
        for path in partial.iterdir():
            path.chmod(0o644)
        open_bundle(partial)
        if self.target.exists():
            shutil.rmtree(self.target)
        partial.rename(self.target)


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run, unless what it brings is there."""

    what: str
    words: Sequence[str]
    is_done: Callable[[], bool] = lambda: False
    limit_s: float | None = None
    """How long its end is waited for; what it has set going goes on."""

    def todo(self) -> str | None:
        """Ask ``is_done``."""
        return None if self.is_done() else f"{self.what}: {' '.join(self.words)}"

    def apply(self) -> None:
        """Run it and wait for its end.

        Raises:
            InstallError: If it cannot be started or fails, with the end of what it said; or if it
                takes too long.
        """
        try:
            result = subprocess.run(
                self.words, capture_output=True, text=True, check=False, timeout=self.limit_s
            )
        except subprocess.TimeoutExpired as error:
            words = " ".join(self.words)
            late = f"{words}: not complete after {self.limit_s:.0f} s, and goes on"
            raise InstallError(f"{self.what}: {late}") from error
        except OSError as error:
            raise InstallError(f"{self.what}: {self.words[0]}: {error.strerror}") from error
        if result.returncode != 0:
            said = (result.stderr.strip() or result.stdout.strip())[-800:]
            raise InstallError(f"{self.what}: {' '.join(self.words)} failed: {said}")


@dataclass(frozen=True, slots=True)
class Gone:
    """A file or folder that must not be there."""

    path: Path

    def todo(self) -> str | None:
        """See whether it is there."""
        is_there = self.path.exists() or self.path.is_symlink()
        return f"remove {self.path}" if is_there else None

    def apply(self) -> None:
        """Remove it and all below."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()


def carry_out(steps: Sequence[Step], *, is_dry_run: bool) -> int:
    """Do what is to be done, in order, with a line for each; return how many steps that were.

    Raises:
        InstallError: If a step fails; what went before stays, and a second run goes on from there.
    """
    num_done = 0
    for step in steps:
        line = step.todo()
        if line is None:
            continue
        num_done += 1
        print(f"would {line}" if is_dry_run else line)
        if not is_dry_run:
            try:
                step.apply()
            except OSError as error:
                raise InstallError(f"{line}: {error.strerror or error}") from error
    return num_done
