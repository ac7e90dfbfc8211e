"""Where everything of an installation lies.

Rule: every path of ours is named here, so that what is put down can be taken away again.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edged.errors import EdgedError, ExitCode

LOCAL_PREFIX = Path("/opt/edged")
"""Where ``edged install`` makes an environment."""
PACKAGE_PREFIX = Path("/usr/lib/edged")
"""Where the Debian package has its own."""
USER = "edged"
_SHIPPED = Path(__file__).with_name("systemd")
UNIT_FILES = _SHIPPED if _SHIPPED.is_dir() else Path(__file__).resolve().parents[3] / "systemd"
"""The unit and the files beside it: from the wheel, or from the checkout that is installed."""
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class InstallError(EdgedError):
    """The machine does not let us install or uninstall; the message says what to do."""

    exit_code = ExitCode.CANNOT_CREATE


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one installed service."""

    root: Path = Path("/")
    """The system that is installed into; another folder for an image in the making."""
    prefix: Path = LOCAL_PREFIX
    """The environment of the program, as the installed system sees it."""
    instance: str | None = None
    """Name of one of several services; None for the only one."""

    def __post_init__(self) -> None:
        """Refuse a name that systemd or a file system would read otherwise.

        Raises:
            InstallError: If it is none that can stand in a unit's name, or is taken by us.
        """
        if self.instance is None:
            return
        if _INSTANCE.fullmatch(self.instance) is None or self.instance in ("edged", "credentials"):
            raise InstallError(
                f"--instance: expected 1 to 32 of a-z, 0-9 and -, not {self.instance!r}"
            )

    def inside(self, path: Path | str) -> Path:
        """Give the place, from here, of a path of the installed system."""
        return self.root / str(path).lstrip("/")

    @property
    def is_live(self) -> bool:
        """Whether this is the running system, whose systemd can be told."""
        return self.root == Path("/") and Path("/run/systemd/system").is_dir()

    @property
    def is_packaged(self) -> bool:
        """Whether program and units belong to the Debian package."""
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
        """The configuration, as the installed system sees it."""
        return Path("/etc/edged") / f"{self.instance or 'edged'}.yaml"

    @property
    def authority(self) -> Path:
        """The certificate authority of the broker."""
        return Path("/etc/edged") / f"{self.instance or 'edged'}-ca.pem"

    @property
    def password(self) -> Path:
        """The password at the broker, readable by root only."""
        name = "mqtt-password" if self.instance is None else f"mqtt-password-{self.instance}"
        return Path("/etc/edged/credentials") / name

    @property
    def credential(self) -> Path:
        """The same as the service sees it."""
        return Path("/run/credentials") / self.unit / "mqtt-password"

    @property
    def models(self) -> Path:
        """The folder of all bundles."""
        return Path("/var/lib/edged-models")

    @property
    def state(self) -> Path:
        """What the service itself writes."""
        return Path("/var/lib") / self._own_name

    @property
    def runtime(self) -> Path:
        """What it writes until it stops."""
        return Path("/run") / self._own_name

    @property
    def units(self) -> Path:
        """Where an administrator's units are."""
        return Path("/etc/systemd/system")

    @property
    def drop_ins(self) -> Path:
        """What changes the unit for this machine."""
        return self.units / f"{self.unit}.d"

    @property
    def _own_name(self) -> str:
        return "edged" if self.instance is None else f"edged-{self.instance}"


def need_root(layout: Layout) -> None:
    """Refuse to touch the running system as somebody who may not.

    Raises:
        InstallError: If this is not root and the system is the running one.
    """
    if layout.root == Path("/") and os.geteuid() != 0:
        raise InstallError("this needs root: sudo, or --dry-run to see what it would do")
