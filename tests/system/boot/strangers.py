"""What listens on a machine besides the broker; runs in it, with Debian's Python.

strangers.py               listen, answer each DNS query with 127.0.0.1, until it is stopped
strangers.py reach         try to reach each of them; print what happened as JSON
strangers.py run OPTIONS   be `edged run` with a library that tries that while the model is loaded
"""

import fcntl
import functools
import json
import os
import select
import socket
import struct
import sys
import threading

LAN = "10.9.0.1"
TCP = {
    "the broker": ("127.0.0.1", 1883),
    "another port of its address": ("127.0.0.1", 2000),
    "another loopback address": ("127.0.0.2", 1883),
    "the local network": (LAN, 1883),
}
UDP = {
    "another port by a datagram": ("127.0.0.1", 2000),
    "a DNS query": ("127.0.0.53", 53),
    "a DNS query in the local network": (LAN, 53),
}
# A name and no file for the abstract one.
UNIX = {
    "an abstract socket": "\0strangers",
    "D-Bus": "/run/dbus/system_bus_socket",
    "a socket in /run": "/run/strangers",
    "the resolver's socket": "/run/systemd/resolve/io.systemd.Resolve",
}
# How a connection to another port is tried besides ``connect`` of TCP.
BY_MPTCP, BY_FAST_OPEN = "another port by MPTCP", "another port by TCP Fast Open"
QUERY = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\6broker\4test\0\0\1\0\1"
RESULT = "/run/edged/reached.json"


def listen() -> None:
    """Listen everywhere but where the broker and D-Bus do."""
    with socket.socket() as sock:  # a second address of the loopback interface
        request = struct.pack("16sH2x4s8x", b"lo:1", socket.AF_INET, socket.inet_aton(LAN))
        fcntl.ioctl(sock, 0x8916, request)  # SIOCSIFADDR
    kept = [socket.create_server(place) for name, place in TCP.items() if name != "the broker"]
    kept += [listen_locally(path) for name, path in UNIX.items() if name != "D-Bus"]
    servers = [socket.socket(type=socket.SOCK_DGRAM) for _ in UDP]
    for server, place in zip(servers, UDP.values(), strict=True):
        server.bind(place)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    while kept:
        for server in select.select(servers, [], [])[0]:
            query, client = server.recvfrom(512)
            server.sendto(answer(query), client)


def listen_locally(path: str) -> socket.socket:
    """Listen on a socket that everybody may open."""
    if not path.startswith("\0"):
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - plain
    os.umask(0)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server


def answer(query: bytes) -> bytes:
    """Answer a DNS query: 127.0.0.1 for an IPv4 address, nothing for others."""
    end = query.index(b"\0", 12) + 5
    question, is_ipv4 = query[12:end], query[end - 4 : end - 2] == b"\0\1"
    header = query[:2] + b"\x81\x80\0\1" + struct.pack(">HHH", is_ipv4, 0, 0)
    record = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 60, 4) + socket.inet_aton("127.0.0.1")
    return header + question + (record if is_ipv4 else b"")


def reach() -> "dict[str, str]":
    """Try each; return ``open`` or the kind of error."""
    tries = {name: functools.partial(connect, socket.AF_INET, place) for name, place in TCP.items()}
    tries[BY_MPTCP] = functools.partial(connect_by_mptcp)
    tries[BY_FAST_OPEN] = functools.partial(connect_by_fast_open)
    tries |= {name: functools.partial(connect, socket.AF_UNIX, path) for name, path in UNIX.items()}
    tries |= {name: functools.partial(ask, place) for name, place in UDP.items()}
    reached = {}
    for name, attempt in tries.items():
        try:
            attempt()
        except OSError as error:
            reached[name] = type(error).__name__
        else:
            reached[name] = "open"
    return reached


def connect(family: int, place: object) -> None:
    """Connect; a dropped packet is an error, too."""
    with socket.socket(family) as sock:
        sock.settimeout(2)
        sock.connect(place)  # type: ignore[arg-type] # of the family


def connect_by_mptcp() -> None:
    """Connect with a protocol that becomes TCP where the other side lacks it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as sock:
        sock.settimeout(2)
        sock.connect(TCP["another port of its address"])


def connect_by_fast_open() -> None:
    """Connect with the first data."""
    with socket.socket() as sock:
        sock.sendto(b"x", socket.MSG_FASTOPEN, TCP["another port of its address"])


def ask(place: "tuple[str, int]") -> None:
    """Send a query, and wait for its answer."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.sendto(QUERY, place)
        sock.recv(512)


def run_taken_over() -> int:
    """Be ``edged run``: what is loaded with the model is not edged's any more."""
    # Here: Debian's Python has neither.
    from edged import cli  # noqa: PLC0415
    from edged.daemon import loader, run  # noqa: PLC0415

    def load(config):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - the loader's types
        def write() -> None:
            with open(RESULT, "w", encoding="utf-8") as file:  # noqa: PTH123 - plain
                json.dump(reach(), file)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        return loader.load(config)

    run.serve = functools.partial(run.serve, load_model=load)
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    if sys.argv[1:] == ["reach"]:
        print(json.dumps(reach()))
    elif sys.argv[1:]:
        sys.exit(run_taken_over())
    else:
        listen()
