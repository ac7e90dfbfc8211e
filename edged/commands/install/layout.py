"""Where everything of an installation lies.

Rule: every path of ours is named here, so that what is put down can be taken away again.
"""

import argparse
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from edged.errors import EdgedError, ExitCode, UsageError

# The environment of the program where there is no Debian package.
LOCAL_PREFIX = Path("/opt/edged")
# The Debian package's own.
PACKAGE_PREFIX = Path("/usr/lib/edged")
# So that `edged` is found by a shell; the Debian package has /usr/bin/edged.
SHORTCUT = Path("/usr/local/bin/edged")
# Where an administrator's units are.
MODELS = Path("/var/lib/edged-models")
UNITS = Path("/etc/systemd/system")
# The unit and the files beside it: from the wheel, or from the checkout that is installed.
USER = "edged"
_SHIPPED = Path(__file__).with_name("systemd")
UNIT_FILES = _SHIPPED if _SHIPPED.is_dir() else Path(__file__).resolve().parents[3] / "systemd"
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_RESERVED = ("edged", "credentials")


class InstallError(EdgedError):
    """The machine does not let us install or uninstall; the message says what to do."""

    exit_code = ExitCode.CANNOT_CREATE


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one installed service, as the installed system sees them."""

    root: Path = Path("/")
    """The system that is installed into; another folder for an image."""
    prefix: Path = LOCAL_PREFIX
    """The environment of the program."""
    instance: str | None = None
    """Name of one of several services; None for the only one."""

    def __post_init__(self) -> None:
        """Refuse a name that systemd or a file system would read otherwise.

        Raises:
            InstallError: If it cannot stand in a unit's name, or is ours.
        """
        name = self.instance
        if name is not None and (_INSTANCE.fullmatch(name) is None or name in _RESERVED):
            raise InstallError(f"--instance: expected 1 to 32 of a-z, 0-9 and -, not {name!r}")

    def inside(self, path: Path | str) -> Path:
        """Give the place, from here, of a path of the installed system."""
        return self.root / str(path).lstrip("/")

    @property
    def is_live(self) -> bool:
        """Whether this is the running system, whose systemd can be told."""
        return self.root == Path("/") and Path("/run/systemd/system").is_dir()

    @property
    def is_packaged(self) -> bool:
        """Whether program, units, user and folders belong to the Debian package."""
        return self.prefix == PACKAGE_PREFIX

    @property
    def unit(self) -> str:
        """The service's name for systemctl."""
        return "edged.service" if self.instance is None else f"edged@{self.instance}.service"

    @property
    def unit_file(self) -> str:
        """The unit's file, a template for instances."""
        return "edged.service" if self.instance is None else "edged@.service"

    @property
    def configuration(self) -> Path:
        """The configuration."""
        return Path("/etc/edged") / f"{self.instance or 'edged'}.yaml"

    @property
    def authority(self) -> Path:
        """The certificate authority of the broker."""
        return Path("/etc/edged") / f"{self.instance or 'edged'}-ca.pem"

    @property
    def password(self) -> Path:
        """The password at the broker, readable by root only."""
        return Path(f"/etc/edged/credentials/mqtt-password{self._suffix}")

    @property
    def credential(self) -> Path:
        """The same as the service sees it."""
        return Path("/run/credentials") / self.unit / "mqtt-password"

    @property
    def state(self) -> Path:
        """What the service itself writes."""
        return Path(f"/var/lib/edged{self._suffix}")

    @property
    def runtime(self) -> Path:
        """What it writes until it stops."""
        return Path(f"/run/edged{self._suffix}")

    @property
    def drop_ins(self) -> Path:
        """What changes the unit for this machine."""
        return UNITS / f"{self.unit}.d"

    @property
    def wanted(self) -> Path:
        """The link that starts it at every boot."""
        return UNITS / "multi-user.target.wants" / self.unit

    @property
    def _suffix(self) -> str:
        return "" if self.instance is None else f"-{self.instance}"


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say where, for both commands."""
    parser.add_argument("--instance", metavar="NAME", help="one of several services: edged@NAME")
    parser.add_argument(
        "--prefix",
        type=Path,
        metavar="DIR",
        help=f"environment of the program (default: the Debian package's, else {LOCAL_PREFIX})",
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="another system, not this one"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it would do; change nothing"
    )


def read_layout(arguments: argparse.Namespace) -> Layout:
    """Read the options that ``add_layout_arguments`` has declared.

    Raises:
        UsageError: If a folder is not absolute.
        InstallError: If the instance cannot be called so, or this is not root and the system is
            the running one.
    """
    prefix = arguments.prefix
    if prefix is None:
        prefix = PACKAGE_PREFIX if Path(sys.prefix) == PACKAGE_PREFIX else LOCAL_PREFIX
    if not prefix.is_absolute():
        raise UsageError("--prefix: must be an absolute path")
    layout = Layout(arguments.root.resolve(), prefix, arguments.instance)
    if layout.root == Path("/") and os.geteuid() != 0 and not arguments.dry_run:
        raise InstallError("this needs root: sudo, or --dry-run to see what it would do")
    return layout
