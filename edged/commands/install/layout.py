"""The paths of an installation.

Rule: every path is defined here, so that uninstalling removes all that was installed.
"""

import argparse
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from edged.errors import EdgedError, ExitCode, UsageError

# The environment of the program without the Debian package.
LOCAL_PREFIX = Path("/opt/edged")
# The environment in the Debian package.
PACKAGE_PREFIX = Path("/usr/lib/edged")
# The command on the PATH; the Debian package has /usr/bin/edged.
SHORTCUT = Path("/usr/local/bin/edged")
MODELS = Path("/var/lib/edged-models")
UNITS = Path("/etc/systemd/system")  # those of an administrator
USER = "edged"
# The units in the wheel, or in a checkout installed with `pip install --editable`.
_SHIPPED = Path(__file__).with_name("systemd")
UNIT_FILES = _SHIPPED if _SHIPPED.is_dir() else Path(__file__).resolve().parents[3] / "systemd"
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
# Their configuration or state would be in the place of another.
_RESERVED = ("edged", "credentials", "models")


class InstallError(EdgedError):
    """Installing or uninstalling failed; the message says what to do."""

    exit_code = ExitCode.CANNOT_CREATE


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one service, as seen in the target system."""

    root: Path = Path("/")
    """Root folder of the target system; another folder for an image."""
    prefix: Path = LOCAL_PREFIX
    """The environment of the program."""
    instance: str | None = None
    """Name of one of several services; None for the default one."""

    def __post_init__(self) -> None:
        """Check the name of the instance.

        Raises:
            InstallError: If it is not valid in the name of a unit, or is reserved.
        """
        name = self.instance
        if name is not None and not is_instance(name):
            raise InstallError(f"--instance: expected 1 to 32 of a-z, 0-9 and -, not {name!r}")

    def inside(self, path: Path | str) -> Path:
        """Return the path on this machine of a path in the target system."""
        return self.root / str(path).lstrip("/")

    @property
    def is_live(self) -> bool:
        """Whether the target is the running system, with systemd."""
        return self.root == Path("/") and Path("/run/systemd/system").is_dir()

    @property
    def is_packaged(self) -> bool:
        """Whether program, units, user and folders belong to the Debian package."""
        return self.prefix == PACKAGE_PREFIX

    @property
    def unit(self) -> str:
        """Name of the unit."""
        return "edged.service" if self.instance is None else f"edged@{self.instance}.service"

    @property
    def unit_file(self) -> str:
        """File name of the unit, or of the template for instances."""
        return "edged.service" if self.instance is None else "edged@.service"

    @property
    def configuration(self) -> Path:
        """The configuration file."""
        return Path("/etc/edged") / f"{self.instance or 'edged'}.yaml"

    @property
    def authority(self) -> Path:
        """CA certificate of the broker."""
        return Path("/etc/edged") / f"{self.instance or 'edged'}-ca.pem"

    @property
    def password(self) -> Path:
        """File with the broker password, readable by root only."""
        return Path(f"/etc/edged/credentials/mqtt-password{self._suffix}")

    @property
    def credential(self) -> Path:
        """The password file in the view of the service."""
        return Path("/run/credentials") / self.unit / "mqtt-password"

    @property
    def state(self) -> Path:
        """State folder of the service."""
        return Path(f"/var/lib/edged{self._suffix}")

    @property
    def runtime(self) -> Path:
        """Runtime folder, removed when the service stops."""
        return Path(f"/run/edged{self._suffix}")

    @property
    def note(self) -> Path:
        """There while the running service lacks what was installed; gone after a boot."""
        return Path("/run") / f"{self.unit}.changed"

    @property
    def store(self) -> Path:
        """Folder of the models and specialists that ``edged model`` installs."""
        return MODELS / f"store{self._suffix}"

    @property
    def drop_ins(self) -> Path:
        """Folder of drop-ins for the unit."""
        return UNITS / f"{self.unit}.d"

    @property
    def wanted(self) -> Path:
        """Link that starts the unit at boot."""
        return UNITS / "multi-user.target.wants" / self.unit

    @property
    def _suffix(self) -> str:
        return "" if self.instance is None else f"-{self.instance}"


def is_instance(name: str) -> bool:
    """Return whether a service may have this name: it is valid and not reserved."""
    return _INSTANCE.fullmatch(name) is not None and name not in _RESERVED


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the common options of both commands."""
    parser.add_argument("--instance", metavar="NAME", help="one of several services: edged@NAME")
    parser.add_argument(
        "--prefix",
        type=Path,
        metavar="DIR",
        help=f"environment of the program (default: the Debian package's, else {LOCAL_PREFIX})",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="root of another system, such as an image",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what it would do; change nothing"
    )


def read_layout(arguments: argparse.Namespace) -> Layout:
    """Read the options of ``add_layout_arguments``.

    Raises:
        UsageError: If a folder is not absolute.
        InstallError: If the name of the instance is invalid, or the user is not root and the target
            is the running system.
    """
    prefix = arguments.prefix
    if prefix is None:
        prefix = PACKAGE_PREFIX if Path(sys.prefix) == PACKAGE_PREFIX else LOCAL_PREFIX
    if not prefix.is_absolute():
        raise UsageError("--prefix: must be an absolute path")
    layout = Layout(arguments.root.resolve(), prefix, arguments.instance)
    if layout.root == Path("/") and os.geteuid() != 0 and not arguments.dry_run:
        raise InstallError("root is required: use sudo, or --dry-run to see what it would do")
    return layout
