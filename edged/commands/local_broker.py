"""A real broker as a child process on a free loopback port, for the demo and the tests.

Rule: it keeps its port across ``stop()`` and ``start()``, and writes only into its folder. Where
the process that started it is killed, Mosquitto runs on.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Path of Mosquitto, which Debian keeps off a user's PATH; None if it is not installed.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
MOSQUITTO = shutil.which("mosquitto", path=_PATH)
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.02
_MOSQUITTO = """\
listener {port} 127.0.0.1
set_tcp_nodelay true
allow_anonymous {anonymous}
max_queued_messages 1000
log_dest stderr
log_type error
log_type warning
log_type notice
"""
_IOTCORE = """\
id = 0
[router]
id = 0
max_connections = 64
max_outgoing_packet_count = 200
max_segment_size = 10485760
max_segment_count = 10
[{version}.1]
name = "{version}-1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
    [{version}.1.connections]
    connection_timeout_ms = 60000
    max_payload_size = 262144
    max_inflight_count = 100
    dynamic_filters = true
"""
_IOTCORE_MAIN = "from iotcore._serve import main; main()"

_LISTENER_PORTS = range(20_000, 32_768)
"""Below those that the system gives to outgoing connections, so that none takes the port before
its broker does, or while it is restarted."""


def free_port(preferred: int = 0) -> int:
    """Return a loopback TCP port without a listener, ``preferred`` if it is free.

    Raises:
        OSError: none of 32 others is free either.
    """
    # Not ``random``: processes that test at the same time seed it alike.
    others = secrets.SystemRandom().sample(_LISTENER_PORTS, 32)
    for port in (preferred or others.pop(), *others):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As brokers do: a connection in TIME_WAIT does not block a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no TCP port of 127.0.0.1 is free between 20000 and 32767")


def is_listening(port: int) -> bool:
    """Return whether a loopback port accepts connections."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@dataclass
class Broker:
    """One broker process."""

    name: str
    """``mosquitto`` or ``iotcore``."""
    port: int
    command: Sequence[str]
    protocol: str = "5"
    """The MQTT version to use with it: ``5`` or ``3.1.1``."""
    host: str = "127.0.0.1"
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL for ``--broker``, without credentials."""
        return f"mqtt://{self.host}:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process if needed, and return when it accepts connections.

        Raises:
            RuntimeError: If it does not listen in time.
        """
        if self.is_running:
            return
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        pause = threading.Event()
        for _ in range(int(START_TIMEOUT_S / _POLL_S)):
            if self._process.poll() is not None:
                break
            if is_listening(self.port):
                return
            pause.wait(_POLL_S)
        self.stop()
        raise RuntimeError(f"{self.name} did not listen on {self.url}: {' '.join(self.command)}")

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Stop the process (SIGKILL for a crash) and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(sig)
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Stop and start the process."""
        self.stop()
        self.start()


@contextlib.contextmanager
def running(broker: Broker) -> Iterator[Broker]:
    """Start ``broker`` and stop it at the end."""
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def mosquitto(
    folder: Path,
    *,
    protocol: str = "5",
    is_persistent: bool = False,
    users: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
    port: int = 0,
) -> Broker:
    """Configure a Mosquitto in ``folder`` without starting it.

    Args:
        folder: For its configuration, passwords and persistent state.
        protocol: The MQTT version to use; Mosquitto supports all.
        is_persistent: Whether queued messages survive ``restart()``.
        users: Name to password; if given, anonymous clients are refused.
        extra: Further lines of its configuration.
        port: Used if it is free, else another one.

    Raises:
        RuntimeError: If Mosquitto is not installed.
    """
    if MOSQUITTO is None:
        raise RuntimeError("mosquitto is not installed: apt install mosquitto")
    port = free_port(port)
    lines = [_MOSQUITTO.format(port=port, anonymous="false" if users else "true")]
    if os.geteuid() == 0:
        lines.append("user root")  # else it switches to an account that cannot write to the folder
    if is_persistent:
        lines += ["persistence true", f"persistence_location {folder}/"]
    if users:
        passwords = folder / "passwords"
        passwords.write_text("".join(f"{name}:{word}\n" for name, word in users.items()))
        passwords.chmod(0o600)
        subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
        lines.append(f"password_file {passwords}")
    config = folder / f"mosquitto-{port}.conf"
    config.write_text("\n".join([*lines, *extra, ""]))
    return Broker("mosquitto", port, [MOSQUITTO, "-c", str(config)], protocol)


def iotcore(folder: Path, *, protocol: str = "3.1.1", port: int = 0) -> Broker:
    """Configure the broker of the ``iotcore`` wheel; it does not persist sessions."""
    port = free_port(port)
    version = "v5" if protocol == "5" else "v4"
    config = folder / f"iotcore-{port}.toml"
    config.write_text(_IOTCORE.format(version=version, port=port))
    options = f'{{"config_path": "{config}", "listen": "127.0.0.1", "port": {port}}}'
    command = [sys.executable, "-P", "-c", _IOTCORE_MAIN, options]
    return Broker("iotcore", port, command, protocol)
