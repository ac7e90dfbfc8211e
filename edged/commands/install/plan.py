"""The steps of an installation, in order.

Rule: only ``steps`` touch the machine; this module decides which.
"""

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from json import loads
from pathlib import Path
from urllib.parse import unquote, urlsplit

import edged
from edged.commands.install.configuration import Settings, configuration_text, drop_in_text
from edged.commands.install.layout import UNIT_FILES, USER, InstallError, Layout
from edged.commands.install.steps import Command, File, Folder, Link, Model, Step
from edged.commands.install.wishes import Wishes

_BACKOFF_VERSION = 254
"""The first systemd that knows the keys of ``edged-backoff.conf``."""
START_LIMIT_S = 200.0
"""For a stop and one attempt of a start, as in the unit; a start that lacks something goes on."""
SHORTCUT = Path("/usr/local/bin/edged")
"""So that `edged` is found by a shell; the Debian package has /usr/bin/edged."""


def program_steps(layout: Layout, source: str | None) -> list[Step]:
    """Make the environment of the program, unless the same version is there.

    Args:
        layout: Where.
        source: What pip installs: a wheel, a checkout or a requirement; by default what this
            program was installed from.

    Raises:
        InstallError: If it would have to be made inside another root, where it cannot run.
    """
    program = layout.prefix / "bin" / "edged"
    if layout.is_packaged or _version_of(layout.inside(program)) == edged.__version__:
        return []
    if layout.root != Path("/"):
        raise InstallError(
            f"{layout.inside(program)}: not there, or another version; install the package into"
            f" {layout.root} first (or run this inside it, with chroot)"
        )
    prefix = str(layout.prefix)
    pip = [f"{prefix}/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    return [
        Command(
            "make an environment",
            [f"{sys.base_prefix}/bin/python3", "-m", "venv", prefix],
            is_done=(layout.prefix / "bin" / "python").exists,
        ),
        Command("install the program", [*pip, "--upgrade", source or _own_source()]),
    ]


def system_steps(layout: Layout) -> list[Step]:
    """Make the user, the folders and the unit."""
    root = layout.inside("/")
    steps: list[Step] = []
    if not layout.is_packaged:
        unit = _unit_file(layout.unit_file).replace("/opt/edged/", f"{layout.prefix}/")
        steps += [
            Link(layout.inside(SHORTCUT), layout.prefix / "bin" / "edged"),
            File(layout.inside(layout.units / layout.unit_file), unit),
        ]
    if _systemd_version() >= _BACKOFF_VERSION:
        path = layout.inside(layout.drop_ins / "20-backoff.conf")
        steps.append(File(path, _unit_file("edged-backoff.conf")))
    return [
        *steps,
        Command(
            f"make the user {USER}",
            ["systemd-sysusers", f"--root={root}", str(UNIT_FILES / "edged.sysusers")],
            is_done=lambda: has_user(layout),
        ),
        Folder(layout.inside("/etc/edged")),
        Folder(layout.inside(layout.password.parent), 0o700),
        Folder(layout.inside(layout.models)),
    ]


def service_steps(
    layout: Layout, settings: Settings, wishes: Wishes, *, is_config_ours: bool
) -> list[Step]:
    """Bring the model, the configuration and the secrets."""
    steps: list[Step] = []
    if wishes.model is not None and layout.inside(settings.model) != wishes.model.resolve():
        steps.append(Model(wishes.model, layout.inside(settings.model)))
    if wishes.broker is not None and wishes.broker.password is not None:
        secret = wishes.broker.password + "\n"
        steps.append(File(layout.inside(layout.password), secret, 0o600))
    if wishes.authority is not None and settings.has_authority:
        steps.append(File(layout.inside(layout.authority), wishes.authority))
    if is_config_ours:
        text = configuration_text(layout, settings)
        steps.append(File(layout.inside(layout.configuration), text))
    drop_in = layout.inside(layout.drop_ins / "10-install.conf")
    return [*steps, File(drop_in, drop_in_text(layout, settings))]


def start_steps(layout: Layout, *, is_changed: bool, is_started: bool) -> list[Step]:
    """Have systemd take it up: at every boot, and now if ``is_started``."""
    if not layout.is_live:
        root = f"--root={layout.inside('/')}"
        wanted = layout.inside(layout.units / "multi-user.target.wants" / layout.unit)
        enable = ["systemctl", root, "enable", layout.unit]
        return [Command("start it at every boot", enable, is_done=wanted.is_symlink)]

    def is_already(verb: str) -> bool:
        return succeeds(["systemctl", "--quiet", verb, layout.unit])

    start = ["systemctl", "restart", layout.unit]
    steps: list[Step] = [
        Command(
            "have systemd read it", ["systemctl", "daemon-reload"], is_done=lambda: not is_changed
        ),
        Command(
            "start it at every boot",
            ["systemctl", "enable", layout.unit],
            is_done=lambda: is_already("is-enabled"),
        ),
    ]
    if is_started:
        steps.append(
            Command(
                "start it and wait for its first answer",
                start,
                is_done=lambda: not is_changed and is_already("is-active"),
                limit_s=START_LIMIT_S,
            )
        )
    return steps


def has_user(layout: Layout) -> bool:
    """Tell whether the service's user exists in the installed system."""
    passwd = layout.inside("/etc/passwd")
    return passwd.exists() and f"\n{USER}:" in "\n" + passwd.read_text("utf-8")


def succeeds(words: Sequence[str]) -> bool:
    """Run a program for its exit status alone."""
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _unit_file(name: str) -> str:
    return (UNIT_FILES / name).read_text("utf-8")


def _systemd_version() -> int:
    try:
        result = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return 0
    words = result.stdout.split()
    return int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0


def _version_of(program: Path) -> str | None:
    """Read which version lies beside a program, without running it."""
    found = program.parent.parent.glob("lib/python3*/site-packages/edged-*.dist-info")
    names = [path.name.removeprefix("edged-").removesuffix(".dist-info") for path in found]
    return names[0] if names and program.exists() else None


def _own_source() -> str:
    """Name what pip installed this program from: a checkout, a wheel, or its version."""
    named = f"edged=={edged.__version__}"
    try:
        origin = distribution("edged").read_text("direct_url.json")
    except PackageNotFoundError:
        return named
    address = urlsplit(loads(origin)["url"]) if origin else None
    is_here = (
        address is not None and address.scheme == "file" and Path(unquote(address.path)).exists()
    )
    return unquote(address.path) if address is not None and is_here else named
