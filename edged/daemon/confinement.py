"""What the process forbids itself and its children for good, by Landlock (landlock(7)).

Rule: as much as the kernel can, without an error where it cannot. It is done on the main thread
before there is another one: a thread passes it on to those that it starts, and to no other.
"""

import ctypes
import errno
import ipaddress
import logging
import os

from edged.config.keys import BrokerConfig
from edged.daemon.socket_filter import refuse_other_sockets
from edged.errors import ConfigError

_LOG = logging.getLogger(__name__)

# linux/landlock.h; the system calls have the same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_NET_PORT = 2
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT_SOCKET, _SCOPE_SIGNAL = 1, 2
_PR_SET_NO_NEW_PRIVS = 38
# The first versions of Landlock with rules for ports (Linux 6.7), and with scopes (6.12).
PORTS_ABI, SCOPES_ABI = 4, 6
_DNS_PORT = 53
_LOCALHOST = ("127.0.0.1", "::1")


class _Ruleset(ctypes.Structure):
    """``struct landlock_ruleset_attr``; an older kernel takes it if what it lacks is zero."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _NetPort(ctypes.Structure):
    """``struct landlock_net_port_attr``."""

    _fields_ = (("allowed_access", ctypes.c_uint64), ("port", ctypes.c_uint64))


class Confinement:
    """The limits of one process: set once, then only compared."""

    def __init__(self) -> None:
        self._ports: frozenset[int] | None = None
        self._is_in_force = False

    def apply(self, broker: BrokerConfig) -> None:
        """Forbid everything but this broker, the first time; log what the kernel can forbid.

        Raises:
            ConfigError: If this process has forbidden itself this broker's port before.
        """
        ports = allowed_ports(broker)
        if self._ports is None:
            self._ports = ports
            self._is_in_force = _restrict(ports)
            if self._is_in_force and not refuse_other_sockets(has_datagrams=_DNS_PORT in ports):
                _LOG.warning("datagrams, MPTCP and TCP Fast Open cannot be refused here")
            abi = landlock_abi() if self._is_in_force else 0
            _LOG.info("this process may reach: %s", describe(abi, ports))
        elif self._is_in_force and not ports <= self._ports:
            raise ConfigError(
                f"broker.port: this process may connect to TCP port {_named(self._ports)} only;"
                " for another broker run `edged install`, then `systemctl restart edged`"
            )


def broker_addresses(host: str) -> tuple[str, ...]:
    """Return the addresses of a host that is known without a name server; none for a name."""
    if host.lower() == "localhost":
        return _LOCALHOST
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ()
    return (str(getattr(address, "ipv4_mapped", None) or address),)


def allowed_ports(broker: BrokerConfig) -> frozenset[int]:
    """Return the TCP ports that a connection to the broker needs."""
    # A name server's long answer comes over TCP.
    is_address = bool(broker_addresses(broker.host))
    return frozenset({broker.port} if is_address else {broker.port, _DNS_PORT})


def landlock_abi() -> int:
    """Return the version of Landlock that the kernel has; 0 without it."""
    no_rules, no_size = None, ctypes.c_size_t(0)
    return max(0, _call(_CREATE_RULESET, no_rules, no_size, _CREATE_RULESET_VERSION))


def describe(abi: int, ports: frozenset[int]) -> str:
    """Say in a line what a process may reach under this version of Landlock."""
    if abi < PORTS_ABI:
        return "each port and abstract socket (limits take Linux 6.7 and 6.12 with Landlock)"
    port = f"TCP port {_named(ports)} only"
    if abi < SCOPES_ABI:
        return f"{port}, and each abstract socket (a limit takes Linux 6.12 with Landlock)"
    return f"{port}, and no abstract socket"


def _restrict(ports: frozenset[int]) -> bool:
    """Restrict this thread and what it starts; return whether the ports are limited."""
    abi = landlock_abi()
    if abi < PORTS_ABI:
        return False
    scoped = _SCOPE_ABSTRACT_SOCKET | _SCOPE_SIGNAL if abi >= SCOPES_ABI else 0
    # systemd may be notified through an abstract socket, which is then needed.
    if os.environ.get("NOTIFY_SOCKET", "").startswith("@"):
        scoped &= ~_SCOPE_ABSTRACT_SOCKET
    ruleset = _Ruleset(0, _BIND_TCP | _CONNECT_TCP, scoped)
    size = ctypes.c_size_t(ctypes.sizeof(ruleset))
    ruleset_fd = _call(_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    if ruleset_fd < 0:
        return False
    try:
        # paho binds its socket to "any port" before it connects.
        rules = [_NetPort(_BIND_TCP, 0), *(_NetPort(_CONNECT_TCP, port) for port in ports)]
        for rule in rules:
            if _call(_ADD_RULE, ruleset_fd, _RULE_NET_PORT, ctypes.byref(rule), 0) < 0:
                return False
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # A reload keeps the process and its limits, and adds a layer: when no more fit (E2BIG),
        # those that are there hold.
        is_restricted = _call(_RESTRICT_SELF, ruleset_fd, 0) >= 0
        return is_restricted or ctypes.get_errno() == errno.E2BIG
    finally:
        os.close(ruleset_fd)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return int(libc.syscall(ctypes.c_long(number), *arguments))


def _named(ports: frozenset[int]) -> str:
    return " and ".join(str(port) for port in sorted(ports))
