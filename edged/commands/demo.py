"""``edged demo``: specialists, a broker, a daemon and prompts to each on this machine, in seconds.

It uses what a user has, too: the bundle, ``edged teach``, ``edged run`` and ``edged ask``. Only the
bundle is kept.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil

from edged.bundle.folder import open_bundle
from edged.commands import ask, local_broker
from edged.commands.local_daemon import SERVING, NotStartedError, notify_path, started
from edged.commands.terminal import shown
from edged.errors import EdgedError, ExitCode, UsageError
from edged.specialists.adapter import AdaptedModel
from edged.specialists.writer import read_description

RECIPE = Path("models/smollm2-135m-instruct.yaml")
PROMPT = "What is the capital of France? Answer in one sentence."
EXAMPLES = Path("deploy/examples/washing-machine.csv")
REPORTED = "There is a puddle under my washing machine."
HOME = Path("models/specialists/home/specialist")
DEVICES = HOME.parent / "devices.json"
COMMAND = "turn the desk lamp off"
NODE = "demo"
# Used if it is free, so that the printed commands are the same on each run.
PORT = 18830
READY_TIMEOUT_S = 180.0
_STEPS = 7
_MAX_SHOWN = 160


class DemoError(EdgedError):
    """The demo cannot continue; the message names what is missing."""

    exit_code = ExitCode.UNAVAILABLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged demo``."""
    parser.add_argument("--prompt", default=PROMPT, help="what to ask (default: %(default)s)")
    parser.add_argument("--bundle", type=Path, help="an existing bundle, instead of building one")
    parser.add_argument(
        "--keep", action="store_true", help="keep broker and daemon running until Ctrl-C"
    )


def main(arguments: argparse.Namespace) -> int:
    """Show a prompt and its answer, a decision, and a command; return an exit status.

    Raises:
        UsageError: If the prompt is empty, or the temporary folder's path too long.
    """
    if not arguments.prompt.strip():
        raise UsageError('--prompt: empty; ask something, as in `make demo PROMPT="Hello"`')
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with tempfile.TemporaryDirectory(prefix="edged-demo-") as name:
        folder = Path(name)
        notify_path(folder)  # before the minutes of a build
        return _show(arguments, folder)


def _show(arguments: argparse.Namespace, folder: Path) -> int:
    bundle = _bundle(arguments.bundle)
    with _broker(folder) as broker:
        specialist, home = _taught(bundle, folder), _home(bundle)
        specialists = [one for one in (specialist, home) if one is not None]
        with _daemon(bundle, broker, folder, specialists) as daemon:
            _say(5, "asking", arguments.prompt)
            print()
            status = _ask(broker.url, "--stream", "--json", "--", arguments.prompt)
            print()
            if specialist is not None:
                status = status or _decide(broker.url, specialist.name)
            if home is None:
                _say(7, "act", f"left out: {HOME} is not for this model, or not here")
            else:
                status = status or _act(broker.url)
            _print_next(broker.url, specialist, home, is_kept=arguments.keep)
            if arguments.keep:
                with contextlib.suppress(KeyboardInterrupt):
                    daemon.wait()
    return status


def _end(number: int, _: object) -> NoReturn:
    """Stop broker and daemon, which outlive a terminal that is closed, and end."""
    for again in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(again, signal.SIG_IGN)
    # One that is being started just now is known to nobody else.
    for child in psutil.Process().children():
        child.terminate()
    sys.exit(128 + number)


def _say(step: int, what: str, detail: str) -> None:
    print(f"[{step}/{_STEPS}] {what:<7} {shown(detail)}", flush=True)


def _bundle(given: Path | None) -> Path:
    """Return the bundle to use; build the default one if needed.

    Raises:
        DemoError: If the recipe is missing, or the build failed.
    """
    if given is not None:
        _say(1, "model", str(given))
        return given
    if not RECIPE.exists():
        raise DemoError(
            f"{RECIPE}: not found; run `edged demo` in edged's source folder or give --bundle DIR"
        )
    _say(1, "model", f"{RECIPE} (built once, then reused)")
    build = subprocess.run([sys.executable, "-m", "edged", "build", str(RECIPE)], check=False)
    if build.returncode != 0:
        raise DemoError(
            "the bundle could not be built, see above; --bundle DIR uses an existing one"
        )
    return RECIPE.with_suffix("")


@contextlib.contextmanager
def _broker(folder: Path) -> Iterator[local_broker.Broker]:
    """Run a broker on a free loopback port: Mosquitto if installed, else the embedded one.

    Raises:
        DemoError: If neither is installed.
    """
    if local_broker.MOSQUITTO is not None:
        broker = local_broker.mosquitto(folder, port=PORT)
    elif importlib.util.find_spec("iotcore") is not None:
        broker = local_broker.iotcore(folder, port=PORT)
    else:
        raise DemoError(
            "no MQTT broker: `apt install mosquitto`, or `pip install 'edged[broker]'` for the"
            " embedded one"
        )
    with local_broker.running(broker):
        _say(2, "broker", f"{broker.name} on {broker.url}")
        yield broker


def _taught(bundle: Path, folder: Path) -> Path | None:
    """Return the folder of a specialist taught now; None where the bundle cannot have one."""
    if not EXAMPLES.exists():
        _say(3, "teach", f"left out: {EXAMPLES} is in edged's source folder")
        return None
    _say(3, "teach", f"{EXAMPLES}, to the model")
    output = folder / EXAMPLES.stem
    command = [sys.executable, "-m", "edged", "teach", str(EXAMPLES), "--model", str(bundle)]
    command += ["--output", str(output)]
    # A bundle that cannot be taught still answers.
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        _say(3, "teach", "left out, see above")
        return None
    return output


def _home(bundle: Path) -> Path | None:
    """Return the folder of the home specialist; None where it is of another model."""
    with contextlib.suppress(EdgedError):
        manifest = open_bundle(bundle).manifest
        description, _ = read_description(HOME)
        is_fit = AdaptedModel.of(manifest).factor_from(description.base) is not None
        if manifest.takes_adapters and is_fit:
            return HOME
    return None


@contextlib.contextmanager
def _daemon(
    bundle: Path, broker: local_broker.Broker, folder: Path, specialists: Sequence[Path]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run ``edged run`` and wait until it serves.

    Raises:
        DemoError: If it does not start; with the end of its log. Or the broker has ended.
    """
    log_path = folder / "edged.log"
    command = [sys.executable, "-m", "edged", "run", "--model", str(bundle)]
    command += ["--broker", broker.url, "--node", NODE]
    if specialists:
        config = folder / "edged.yaml"
        config.write_text(json.dumps({"specialists": [str(one.resolve()) for one in specialists]}))
        command += ["--config", str(config)]
    started_s = time.monotonic()
    ready = (SERVING, READY_TIMEOUT_S)
    try:
        with (
            log_path.open("wb") as log,
            started(command, folder, *ready, log, lambda: broker.is_running) as daemon,
        ):
            seconds = time.monotonic() - started_s
            _say(4, "daemon", f"ready after {seconds:.1f} s: model loaded, first answer generated")
            yield daemon
    except NotStartedError as error:
        if not broker.is_running:
            raise DemoError(
                f"the broker, {broker.name} on {broker.url}, has ended; start the demo again"
            ) from error
        tail = log_path.read_text(errors="replace").splitlines()[-8:]
        raise DemoError("the daemon did not start:\n  " + "\n  ".join(tail)) from error


def _ask(url: str, *words: str) -> int:
    parser = argparse.ArgumentParser()
    ask.add_arguments(parser)
    return ask.main(parser.parse_args(["--broker", url, "--node", NODE, *words]))


def _decide(url: str, name: str) -> int:
    """Show what the specialist says; return the exit status of ``edged ask``."""
    _say(6, "decide", REPORTED)
    status, reply = _reply(url, "--specialist", name, REPORTED)
    if reply is not None:
        data, total_ms = reply["data"], reply["timing"]["total_ms"]
        print(f"\n{shown(data['text'])}: {_certainty(data)}, decided in {total_ms} ms\n")
    return status


def _act(url: str) -> int:
    """Show what a command becomes, and what the plain model says to it."""
    _say(7, "act", COMMAND)
    status, plain = _reply(url, COMMAND)
    if plain is not None:
        text = shown(" ".join(plain["data"]["text"].split()))
        print(f"\nthe plain model says: {textwrap.shorten(text, _MAX_SHOWN, placeholder=' …')}")
        status, reply = _reply(url, "--specialist", "home", "--inputs", str(DEVICES), COMMAND)
        if reply is not None:
            data, total_ms = reply["data"], reply["timing"]["total_ms"]
            print(f"the home specialist: {json.dumps(data['json'])}")
            print(f"                     {_certainty(data)}, in {total_ms} ms")
    return status


def _reply(url: str, *words: str) -> tuple[int, dict[str, Any] | None]:
    """Return the exit status of ``edged ask``, and the reply if it is an answer."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = _ask(url, "--json", *words)
    reply = json.loads(output.getvalue() or "{}")
    return status, reply if reply.get("status") == "ok" else None


def _certainty(data: Mapping[str, Any]) -> str:
    certainty = "" if data["finish_reason"] == "stop" else ", and unsure"
    return f"{data['confidence']:.1%} probable{certainty}"


def _print_next(url: str, specialist: Path | None, home: Path | None, *, is_kept: bool) -> None:
    host, _, port = url.removeprefix("mqtt://").partition(":")
    topic = f"edged/{NODE}"
    if is_kept:
        print("\nAsk again from another terminal; Ctrl-C here stops broker and daemon:")
    else:
        print("\nAsk again: `make demo KEEP=1` keeps broker and daemon running, then")
    print(f"  .venv/bin/edged ask --broker {url} --node {NODE} --stream 'Name three colours.'")
    if specialist is not None:
        to = f"--node {NODE} --specialist {specialist.name}"
        print(f"  .venv/bin/edged ask --broker {url} {to} 'It smells burnt.'")
    if home is not None:
        to = f"--node {NODE} --specialist home --inputs {DEVICES}"
        print(f"  .venv/bin/edged ask --broker {url} {to} 'open the curtains half way'")
    print(f"  mosquitto_sub -h {host} -p {port} -t '{topic}/response/generate' &")
    print(f"  mosquitto_pub -h {host} -p {port} -q 1 -t {topic}/request/generate -m 'Hello'")
