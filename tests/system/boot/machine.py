"""A Debian that boots in its own namespaces, with systemd as its first process.

It shares only the kernel with the host: processes, mounts, network, host name and control groups
are its own and are removed when it stops.
"""

import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

INIT = Path(__file__).with_name("init.sh")
BOOT_TIMEOUT_S = 60.0
# "degraded", too: some of its services cannot run in a container.
COMPLETE = "systemctl is-system-running --wait | grep --quiet --extended-regexp 'running|degraded'"
_numbers = itertools.count()
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}


def cgroup_folders() -> list[Path]:
    """Find the control group folders: of version 2, and of version 1 if that controls memory."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    unified = [Path(place) for _, place, kind, *_ in mounts if kind == "cgroup2"]
    older = [
        Path(place)
        for _, place, kind, options, *_ in mounts
        if kind == "cgroup" and "memory" in options.split(",")
    ]
    return [*unified[:1], *older[:1]]


def missing() -> str | None:
    """Return what this host lacks to boot a machine; None if nothing."""
    if os.geteuid() != 0:
        return "not root"
    if absent := [name for name in ("unshare", "nsenter", "setpriv") if not shutil.which(name)]:
        return f"{absent} not installed (apt-get install util-linux)"
    groups = cgroup_folders()
    if not groups or not all(os.access(folder, os.W_OK) for folder in groups):
        return "cgroup version 2 is not mounted, or read-only"
    if "overlay" not in Path("/proc/filesystems").read_text("utf-8"):
        return "the kernel has no overlay file system here (modprobe overlay)"
    if subprocess.run([*_UNSHARE, "--cgroup", "true"], check=False).returncode:
        return "no namespaces may be made here (unshare)"
    return None


@dataclass
class Machine:
    """One system: read-only folders and an overlay of its own."""

    lower: Sequence[Path]
    """The system's files, never written to; an earlier folder hides what is in a later one."""
    work: Path
    """An empty folder for what the machine writes."""
    _process: subprocess.Popen[bytes] | None = None
    _groups: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        name = f"edged-boot-{os.getpid()}-{next(_numbers)}"
        self._groups = [folder / name for folder in cgroup_folders()]

    def file(self, path: str) -> Path:
        """Return the path of a file of the machine before it boots; create its folder."""
        place = self.work / "upper" / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def boot(self, until: str = COMPLETE) -> None:
        """Start systemd; return when all units are started, or ``until`` succeeds."""
        for group in self._groups:
            group.mkdir()
        # Enter the groups first: the namespace is rooted at its first process.
        joins = [f"echo $$ > {group}/cgroup.procs" for group in self._groups]
        enter = " && ".join([*joins, 'exec "$@"'])
        # Killed with this process: a machine must not outlive its tests.
        tied = ("setpriv", "--pdeathsig", "KILL")
        lower = ":".join(map(str, self.lower))
        command = [*tied, *_UNSHARE, "--cgroup", "bash", str(INIT), lower, str(self.work)]
        with (self.work / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", enter, "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        pause = threading.Event()
        for _ in range(int(BOOT_TIMEOUT_S / 0.2)):
            if self._process.poll() is not None:
                break
            if self.run(until).returncode == 0:
                return
            pause.wait(0.2)
        log = (self.work / "console.log").read_text("utf-8", "replace")
        raise RuntimeError(f"the machine did not boot: {log[-2000:]}")

    def _init_pid(self) -> str:
        assert self._process is not None
        pid = self._process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()[0]

    def run(self, script: str, *, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run shell commands in the machine, in /src; stop at the first that fails."""
        try:
            target = self._init_pid()
        except (OSError, IndexError):
            return subprocess.CompletedProcess(script, 255, "", "the machine is not running")
        place = f"/proc/{target}/root"
        command = ["nsenter", "--target", target, "--all", f"--root={place}", f"--wd={place}/src"]
        return subprocess.run(
            [*command, "sh", "-ec", script],
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def cut_power(self) -> None:
        """Kill every process at once, as a power failure does, and remove the control groups.

        Files stay; ``boot`` starts the machine again.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        every = [group for folder in self._groups for group in (folder, *folder.rglob("*/"))]
        pause = threading.Event()
        for group in sorted(every, key=lambda path: len(path.parts), reverse=True):
            for _ in range(100):  # a group is busy until its last process is gone
                try:
                    group.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    pause.wait(0.05)
                else:
                    break
