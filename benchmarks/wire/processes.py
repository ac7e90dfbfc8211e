"""The three processes of the measurement: a broker, a node without a model, an echo."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from edged.commands import local_broker
from edged.commands.local_daemon import SERVING, NotStartedError, started, stopped
from edged.config.broker_url import parse_broker_url
from edged.errors import EdgedError, ExitCode, UsageError

NODE = "bench"
ECHO_TOPIC = "edged-bench/echo"
START_LIMIT_S = 30.0


class WireError(EdgedError):
    """The measurement cannot run; the message names what is missing."""

    exit_code = ExitCode.UNAVAILABLE


@contextlib.contextmanager
def broker(url: str | None, folder: Path) -> Iterator[str]:
    """Yield the URL of a broker: the given one, or a new Mosquitto.

    Raises:
        UsageError: The URL is invalid.
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
    with local_broker.running(local_broker.mosquitto(folder)) as own:
        yield own.url


@contextlib.contextmanager
def node(url: str, folder: Path) -> Iterator[None]:
    """Run a node whose engine answers at once, until it is connected; it writes nothing to disk.

    Raises:
        WireError: It does not connect.
    """
    config = folder / "edged.yaml"
    config.write_text(json.dumps(_configuration(url, folder)), encoding="utf-8")  # JSON is YAML
    config.chmod(0o600)
    command = [sys.executable, "-m", "benchmarks.wire.node", str(config)]
    try:
        with started(command, folder, SERVING, START_LIMIT_S):
            yield
    except NotStartedError as error:
        raise WireError("the node does not connect to the broker; is it running?") from error


@contextlib.contextmanager
def echo(url: str) -> Iterator[None]:
    """Run the echo, subscribed.

    Raises:
        WireError: It does not connect.
    """
    with (
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.wire.client", url, ECHO_TOPIC],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process,
        stopped(process),
    ):
        if process.stdout is None or not process.stdout.readline():
            raise WireError("the echo does not connect to the broker; is it running?")
        yield


def _configuration(url: str, folder: Path) -> dict[str, object]:
    address = parse_broker_url(url)
    broker = {
        "host": address.host,
        "port": address.port,
        "tls": address.is_tls,
        "username": address.username,
        "password": address.password,
    }
    return {
        "node": NODE,
        "model": {"path": str(folder)},
        "broker": {key: value for key, value in broker.items() if value is not None},
        "log": {"level": "warning"},
    }
