"""The three processes of a measurement of the wire: a broker, a node without a model, an echo."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from edged.commands import local_broker
from edged.config.broker_url import parse_broker_url
from edged.errors import EdgedError, ExitCode, UsageError

NODE = "bench"
ECHO_TOPIC = "edged-bench/echo"
_START_LIMIT_S = 30.0
_POLL_S = 0.25
_SERVING = "STATUS=serving"


class WireError(EdgedError):
    """The wire cannot be measured; the message says what is missing."""

    exit_code = ExitCode.UNAVAILABLE


@contextlib.contextmanager
def broker(url: str | None, folder: Path) -> Iterator[str]:
    """Yield the URL of a broker: the given one's, or a Mosquitto of our own.

    Raises:
        UsageError: The URL is none.
        WireError: No URL is given and Mosquitto is not installed.
    """
    if url is not None:
        try:
            parse_broker_url(url)
        except ValueError as error:
            raise UsageError(f"--broker: {error}") from error
        yield url
        return
    if local_broker.MOSQUITTO is None:
        raise WireError("no broker: `apt install mosquitto`, or give --broker URL")
    with local_broker.running(local_broker.mosquitto(folder)) as started:
        yield started.url


@contextlib.contextmanager
def node(url: str, folder: Path) -> Iterator[None]:
    """Run a node whose engine answers at once, connected; nothing of it is kept on disk.

    Raises:
        WireError: It does not come to serve.
    """
    config = folder / "edged.yaml"
    config.write_text(json.dumps(_configuration(url, folder)), encoding="utf-8")  # JSON is YAML
    config.chmod(0o600)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(folder / "notify"))
        process = subprocess.Popen(
            [sys.executable, "-m", "edged.commands.bench.wire_node", str(config)],
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
            stderr=subprocess.DEVNULL,
        )
        with _ended(process):
            if not _is_serving(notices, process):
                raise WireError("the node does not connect to the broker; `edged run` tells why")
            yield


@contextlib.contextmanager
def echo(url: str) -> Iterator[None]:
    """Run the echo, subscribed.

    Raises:
        WireError: It does not come to listen.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "edged.commands.bench.wire_echo", url, ECHO_TOPIC],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with _ended(process):
        if process.stdout is None or not process.stdout.readline():
            raise WireError("the echo does not connect to the broker; is it there?")
        yield


def _configuration(url: str, folder: Path) -> dict[str, object]:
    address = parse_broker_url(url)
    own = {
        "host": address.host,
        "port": address.port,
        "tls": address.is_tls,
        "username": address.username,
        "password": address.password,
    }
    return {
        "node": NODE,
        "model": {"path": str(folder)},
        "broker": {key: value for key, value in own.items() if value is not None},
        "log": {"level": "warning"},
    }


def _is_serving(notices: socket.socket, process: "subprocess.Popen[bytes]") -> bool:
    notices.settimeout(_POLL_S)
    limit_s = time.monotonic() + _START_LIMIT_S
    while process.poll() is None and time.monotonic() < limit_s:
        with contextlib.suppress(TimeoutError):
            if _SERVING in notices.recv(4096).decode():
                return True
    return False


@contextlib.contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()  # the node publishes that it is offline
        try:
            process.wait(_START_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
