"""What a process forbids itself, by the kernel's word; each in a process of its own."""

import socket
import subprocess
import sys

import pytest

from edged.config.keys import BrokerConfig
from edged.daemon.confinement import (
    PORTS_ABI,
    SCOPES_ABI,
    allowed_ports,
    broker_addresses,
    describe,
    landlock_abi,
)
from tests.requirements import require

# Prints what a thread of the confined process, and its child, reach: by ports given as arguments.
ATTEMPTS = """
import contextlib, ctypes, os, socket, subprocess, sys, threading
import edged.daemon.run
from edged.config.keys import BrokerConfig
from edged.daemon.confinement import Confinement
from edged.errors import ConfigError

port, other, name = int(sys.argv[1]), int(sys.argv[2]), "\\0" + sys.argv[3]
print(len(os.listdir("/proc/self/task")))
for _ in range(20):  # a reload adds a layer, and 16 are the most
    confinement = Confinement()
    confinement.apply(BrokerConfig(port=port))
with contextlib.suppress(ConfigError):
    confinement.apply(BrokerConfig(port=other))
    print("another broker")
confinement.apply(BrokerConfig(port=port, keepalive_s=60))

def attempt(family, place):
    with socket.socket(family) as sock:
        try:
            if family == socket.AF_INET:
                sock.bind(("", 0))  # as paho does
            sock.connect(place)
        except PermissionError:
            return "refused"
    return "open"

def attempt_send(kind, protocol, *flags):
    try:
        with socket.socket(socket.AF_INET, kind, protocol) as sock:
            (sock.connect if not flags else lambda at: sock.sendto(b"x", *flags, at))(
                ("127.0.0.1", other)
            )
    except PermissionError:
        return "refused"
    return "open"

def everything():
    for place in ("127.0.0.1", port), ("127.0.0.1", other):
        print(attempt(socket.AF_INET, place))
    print(attempt(socket.AF_UNIX, name))
    print(attempt_send(socket.SOCK_STREAM, 262))  # MPTCP
    print(attempt_send(socket.SOCK_STREAM, 0, socket.MSG_FASTOPEN))
    print(attempt_send(socket.SOCK_DGRAM, 0, 0))
    print(attempt_send(socket.SOCK_RAW, socket.IPPROTO_UDP, 0))
    print("%d" % ctypes.CDLL(None).syscall(425, 1, bytes(120)))  # io_uring_setup
    ctypes.set_errno(0)
    ctypes.CDLL(None, use_errno=True).syscall(0x40000000 + 41, 2, 2, 0)  # socket, of x32
    print(ctypes.get_errno())
    a, b = socket.socketpair()
    a.send(b"x")
    print(b.recv(1).decode())
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", 1 << 15))
        except OSError as error:
            print(type(error).__name__)

thread = threading.Thread(target=everything)
thread.start()
thread.join()
print(subprocess.run([sys.executable, "-c", sys.argv[4]]).returncode != 0)
child = f"import socket; socket.create_connection(('127.0.0.1', {other}))"
print(subprocess.run([sys.executable, "-c", child], stderr=subprocess.DEVNULL).returncode)
"""

# Opens a socket for datagrams by a system call of i386, which a kernel for x86-64 may have as well.
BY_I386 = """
import ctypes, mmap, sys

code = mmap.mmap(-1, 4096, prot=7)
# push rbx; mov eax, edi; mov ebx, esi; mov esi, edx; mov edx, ecx; mov ecx, esi; int 0x80; pop rbx
code.write(bytes.fromhex("53 89f8 89f3 89d6 89ca 89f1 cd80 5b c3"))
start = ctypes.addressof(ctypes.c_char.from_buffer(code))
sys.exit(ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_long] * 4)(start)(359, 2, 2, 0) < 0)
"""


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("localhost", ("127.0.0.1", "::1")),
        ("Localhost", ("127.0.0.1", "::1")),
        ("10.0.0.2", ("10.0.0.2",)),
        ("FE80::1%eth0", ("fe80::1",)),
        ("::ffff:10.0.0.2", ("10.0.0.2",)),
        ("broker.local", ()),
        ("10.1", ()),
    ],
)
def test_only_a_host_that_needs_no_look_up_has_addresses(
    host: str, addresses: tuple[str, ...]
) -> None:
    assert broker_addresses(host) == addresses
    dns = set() if addresses else {53}
    assert allowed_ports(BrokerConfig(host=host, port=8883)) == {8883, *dns}


def test_what_the_kernel_cannot_limit_is_said() -> None:
    ports = frozenset({1883, 53})
    assert describe(PORTS_ABI - 1, ports).startswith("each port and abstract socket")
    assert describe(PORTS_ABI, ports).startswith("TCP port 53 and 1883 only, and each abstract")
    assert describe(SCOPES_ABI, ports) == "TCP port 53 and 1883 only, and no abstract socket"


def test_every_thread_and_child_reaches_the_broker_s_port_only() -> None:
    require(landlock_abi() >= SCOPES_ABI, "a kernel with Landlock for scopes (Linux 6.12)")
    with (
        socket.create_server(("127.0.0.1", 0)) as broker,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        ports = [str(server.getsockname()[1]) for server in (broker, other)]
        name = f"edged-test-{ports[0]}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        command = [sys.executable, "-c", ATTEMPTS, *ports, name, BY_I386]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused = ["refused"] * 6
    assert done.stdout.split() == [
        "1",
        "open",
        *refused,
        "-1",
        "1",
        "x",
        "PermissionError",
        "True",
        "1",
    ]


def test_a_filter_more_than_fit_changes_nothing() -> None:
    script = """
import ctypes
from edged.daemon.socket_filter import refuse_other_sockets
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
print({refuse_other_sockets(has_datagrams=False) for _ in range(2000)})
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    require(done.stdout != "{False}\n", "this architecture has no filter")
    assert done.stdout == "{True}\n", done.stderr
