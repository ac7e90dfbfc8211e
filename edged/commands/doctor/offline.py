"""Check that a running daemon is connected to its broker only.

Rule: the findings come from the kernel's tables, not from edged's own view.
"""

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edged.commands.doctor.finding import Finding, failure, good
from edged.config.keys import BrokerConfig

_LISTENING = "0A"
_TABLES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
_TELEMETRY_OFF = {"ORT_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True, slots=True)
class Socket:
    """One internet socket of a process."""

    kind: str
    """``tcp``, ``udp`` or ``raw``."""
    is_listening: bool
    local: str
    remote: str
    """``address:port``; port 0 where there is no peer."""


def check_offline(pid: int, broker: BrokerConfig, proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Check the sockets and the environment of a process.

    Args:
        pid: The daemon.
        broker: The only peer it may have.
        proc: The proc file system.
    """
    folder = proc / str(pid)
    try:
        sockets = list(_sockets(folder))
        environment = (folder / "environ").read_bytes().decode("utf-8", "replace").split("\0")
    except PermissionError:
        yield failure("offline", f"no permission to read process {pid}", "run this as root: sudo")
        return
    yield from _judge(sockets, _addresses(broker))
    wanted = [f"{name}={value}" for name, value in _TELEMETRY_OFF.items()]
    if missing := [line for line in wanted if line not in environment]:
        # edged sets it before it loads the library; the kernel shows the initial environment only.
        yield good("telemetry", f"{missing[0]} is set by edged itself, not by the service")
    else:
        yield good("telemetry", f"disabled: {', '.join(wanted)}")


def _judge(sockets: list[Socket], allowed: set[str]) -> Iterator[Finding]:
    listening = [item for item in sockets if item.is_listening]
    if listening:
        yield failure(
            "listening",
            f"it listens on {', '.join(item.local for item in listening)}",
            "report this: edged opens no listening socket",
        )
    else:
        yield good("listening", "no listening socket")
    connected = [item for item in sockets if item.kind == "tcp" and not item.is_listening]
    strange = [item.remote for item in connected if item.remote not in allowed]
    if strange:
        yield failure(
            "connections",
            f"connected to {', '.join(strange)}, which is not the broker",
            "report this, with the output of: ss --processes --tcp",
        )
    else:
        where = ", ".join(sorted({item.remote for item in connected})) or "none at the moment"
        yield good("connections", f"to the broker only: {where}", connections=len(connected))
    datagrams = [item for item in sockets if item.kind != "tcp"]
    if datagrams:
        yield failure(
            "datagrams",
            f"{datagrams[0].kind} socket at {datagrams[0].local} to {datagrams[0].remote}",
            "report this: edged sends none, and uses DNS only while it connects",
        )
    else:
        yield good("datagrams", "no datagram socket: no DNS query is under way")


def _addresses(broker: BrokerConfig) -> set[str]:
    """Return all addresses of the broker's name, as ``address:port``."""
    try:
        found = socket.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {_shown(str(item[4][0]), broker.port) for item in found}


def open_listener(port: int, proc: Path = Path("/proc")) -> str | None:
    """Return where this machine listens on a TCP port for others, if it does."""
    for name in ("tcp", "tcp6"):
        for fields in _lines(proc / "net" / name):
            host, _, found = _address(fields[1]).rpartition(":")
            is_own = ipaddress.ip_address(host.strip("[]")).is_loopback
            if fields[3] == _LISTENING and int(found) == port and not is_own:
                return f"{host}:{found}"
    return None


def _lines(table: Path) -> Iterator[list[str]]:
    if table.exists():
        for line in table.read_text("ascii").splitlines()[1:]:
            yield line.split()


def _sockets(folder: Path) -> Iterator[Socket]:
    """Yield the internet sockets among the open files of a process, as proc(5) lists them."""
    own = set()
    for link in (folder / "fd").iterdir():
        try:
            target = link.readlink()
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.name.startswith("socket:["):
            own.add(target.name[8:-1])
    for name in _TABLES:
        for fields in _lines(folder / "net" / name):
            if fields[9] in own:
                kind = name.rstrip("6")
                is_listening = kind == "tcp" and fields[3] == _LISTENING
                yield Socket(kind, is_listening, _address(fields[1]), _address(fields[2]))


def _address(text: str) -> str:
    """Read ``0100007F:075B``: 32-bit words in the machine's order, the port in hexadecimal."""
    words, _, port = text.partition(":")
    raw = b"".join(int(words[i : i + 8], 16).to_bytes(4, "little") for i in range(0, len(words), 8))
    return _shown(str(ipaddress.ip_address(raw)), int(port, 16))


def _shown(host: str, port: int) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    is_v6 = isinstance(address, ipaddress.IPv6Address)
    return f"[{address}]:{port}" if is_v6 else f"{address}:{port}"
