"""The long versions of the faults, and a soak test; ``scripts/soak`` runs it and prints a table.

Needs Mosquitto. Without a bundle it uses a tiny model: the subject is the daemon.
"""

import argparse
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil

from edged.commands.local_broker import Broker, mosquitto, running
from tests.system.faults.killing import Plan, Tally, kill_again_and_again
from tests.system.faults.proxy import proxy
from tests.system.faults.site import KEEPALIVE, Crowd, crowd, serving
from tests.system.versions import versions
from tests.tiny_model import write_tiny_bundle

ASK_EVERY_S = 2.0
RECONNECT_EVERY_S = 60.0
WARM_UP_S = 600.0
"""Beginning of a soak that does not count: buffers grow with the first requests. Of a short one it
is a quarter."""
IDLE_S = 20.0
MIB = 1024**2

Rows = list[tuple[str, str]]


@dataclass
class Samples:
    """Samples of a soak test, one for each request."""

    at_s: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    num_files: list[int] = field(default_factory=list)
    num_threads: list[int] = field(default_factory=list)

    def take(self, process: psutil.Process, at_s: float, answer_s: float) -> None:
        """Sample the daemon."""
        with process.oneshot():
            self.at_s.append(at_s)
            self.answer_s.append(answer_s)
            self.rss_bytes.append(process.memory_info().rss)
            self.num_files.append(process.num_fds())
            self.num_threads.append(process.num_threads())


def main(words: Sequence[str]) -> int:
    """Run what the options ask for; return 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="0 leaves them out; %(default)s")
    parser.add_argument("--prompts", type=int, default=2000, help="over the kills; %(default)s")
    parser.add_argument("--hours", type=float, default=2.0, help="of the soak; %(default)s")
    parser.add_argument("--hole", type=float, default=90, help="s of silence; %(default)s")
    parser.add_argument(
        "--fuzz", type=int, default=600, help="s with the extra `fuzz`; %(default)s"
    )
    parser.add_argument("--bundle", type=Path, help="instead of the tiny model")
    options = parser.parse_args(words)
    if options.fuzz and not find_spec("atheris"):
        parser.error("--fuzz: atheris is missing; install the extra `fuzz`, or give --fuzz 0")
    command = shlex.join(["scripts/soak", *words])
    rows: Rows = [("date", time.strftime("%Y-%m-%d", time.gmtime())), ("command", f"`{command}`")]
    rows.append(("versions", versions()))
    is_well = True
    with tempfile.TemporaryDirectory(prefix="edged-soak-") as name:
        folder = Path(name)
        bundle = options.bundle or write_tiny_bundle(folder / "bundle")
        for part in ("kills", "hole", "soak"):
            (folder / part / "mosquitto").mkdir(parents=True)
        if options.kills:
            with _broker(folder / "kills") as broker:
                plan = Plan(options.kills, options.prompts)
                tally = kill_again_and_again(folder / "kills", bundle, broker, plan, _note)
            rows += kill_rows(tally)
            is_well &= tally.num_lost == tally.num_unmarked == 0
        if options.fuzz:
            tried, is_clean = fuzz(folder / "corpus", options.fuzz)
            rows.append(tried)
            is_well &= is_clean
        if options.hole:
            with _broker(folder / "hole") as broker:
                rows += black_hole(folder / "hole", bundle, broker, options.hole)
        if options.hours:
            with _broker(folder / "soak") as broker:
                rows += soak(folder / "soak", bundle, broker, options.hours * 3600)
    print(*(f"| {title} | {value} |" for title, value in rows), sep="\n")
    return 0 if is_well else 1


def kill_rows(tally: Tally) -> Rows:
    """Format a tally."""
    num_answered = tally.num_asked - tally.num_lost
    return [
        ("requests, `kill -9`", f"{tally.num_asked:,}, {tally.num_kills}"),
        ("answered; lost", f"{num_answered:,}; {tally.num_lost}"),
        (
            "answered again after a kill; of these not marked `duplicate`",
            f"{tally.num_executed_again}; {tally.num_unmarked}",
        ),
        ("how they ended", ", ".join(sorted(tally.codes))),
    ]


def fuzz(corpus: Path, seconds: int) -> tuple[tuple[str, str], bool]:
    """Run atheris; return a row and whether it found nothing; blocks."""
    corpus.mkdir()
    command = [sys.executable, "-m", "tests.system.faults.fuzz", str(seconds), str(corpus)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    is_clean = done.returncode == 0
    if not is_clean:
        _note(done.stderr)
    counted = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    tried = f"{int(counted[1]):,}" if counted else "?"
    said = f"{tried} in {seconds} s; {'none' if is_clean else 'one'}"
    return ("payloads found by coverage (atheris); failed", said), is_clean


def black_hole(folder: Path, bundle: Path, broker: Broker, seconds: float) -> Rows:
    """Drop everything for a while; measure detection and recovery; blocks."""
    with (
        proxy(broker.port) as network,
        serving(folder, bundle, network.port) as daemon,
        crowd(broker) as clients,
    ):
        clients.ask(8)
        clients.settle()
        network.black_hole()
        begun_s = time.monotonic()
        clients.ask(8)
        daemon.until("STATUS=waiting")
        noticed_s = time.monotonic() - begun_s
        threading.Event().wait(max(0.0, seconds - noticed_s))
        network.heal()
        healed_s = time.monotonic()
        daemon.until("STATUS=serving")
        back_s = time.monotonic() - healed_s
        clients.settle()
        daemon.stop()
    title = f"black hole of {seconds:.0f} s, keep-alive {KEEPALIVE}"
    said = f"{noticed_s:.1f} s, {back_s:.1f} s; {len(clients.lost)}"
    return [(f"{title}: noticed after, back after its end; lost", said)]


def soak(folder: Path, bundle: Path, broker: Broker, seconds: float) -> Rows:
    """Ask at a constant rate through a network that breaks periodically; blocks."""
    samples, num_breaks = Samples(), 0
    pause = threading.Event()
    with (
        proxy(broker.port) as network,
        serving(folder, bundle, network.port) as daemon,
        crowd(broker) as clients,
    ):
        process = psutil.Process(daemon.process.pid)
        started_s = time.monotonic()
        while (now_s := time.monotonic() - started_s) < seconds:
            if now_s >= (num_breaks + 1) * RECONNECT_EVERY_S:
                network.reset()
                num_breaks += 1
                _note(f"soak: {now_s / 60:.0f} min, {len(clients.asked)} asked")
            asked_s = time.monotonic()
            clients.ask(1, max_tokens=40)
            clients.settle()
            samples.take(process, now_s, time.monotonic() - asked_s)
            pause.wait(max(0.0, ASK_EVERY_S - (time.monotonic() - asked_s)))
        before_s = sum(process.cpu_times()[:2])
        pause.wait(IDLE_S)
        idle_share = (sum(process.cpu_times()[:2]) - before_s) / IDLE_S
        is_clean = daemon.stop() == 0
    rows = list(soak_rows(samples, clients, seconds))
    rows.append(("connections broken", str(num_breaks)))
    rows.append(("CPU when idle afterwards", f"{idle_share:.2%} of a core"))
    rows.append(("stopped with 0", "yes" if is_clean else "no"))
    return rows


def soak_rows(samples: Samples, clients: Crowd, seconds: float) -> Iterator[tuple[str, str]]:
    """Format the samples of a soak test, including answers delayed by a broken connection."""
    warm_up_s = min(WARM_UP_S, seconds / 4)
    warm = [i for i, at_s in enumerate(samples.at_s) if at_s >= warm_up_s]
    hours = [samples.at_s[i] / 3600 for i in warm]
    rss_mib = [samples.rss_bytes[i] / MIB for i in warm]
    slope = statistics.linear_regression(hours, rss_mib).slope
    third = max(2, len(warm) // 3)
    first, last = ([samples.answer_s[i] for i in part] for part in (warm[:third], warm[-third:]))
    files, threads = samples.num_files, samples.num_threads
    yield "soak", f"{seconds / 60:.0f} min, a request each {ASK_EVERY_S:.0f} s"
    yield "requests; lost", f"{len(clients.asked):,}; {len(clients.lost)}"
    yield "executed twice", str(clients.num_executed_again)
    yield "RSS, first and last", f"{rss_mib[0]:.1f} MiB, {rss_mib[-1]:.1f} MiB"
    yield f"RSS slope after the first {warm_up_s:.0f} s", f"{slope:+.2f} MiB/h"
    for percent in (50, 95):
        before_s, after_s = (
            statistics.quantiles(part, n=100)[percent - 1] for part in (first, last)
        )
        title = f"answer, p{percent}, first and last third after that"
        drift = f"{before_s * 1000:.1f} ms, {after_s * 1000:.1f} ms: {after_s / before_s - 1:+.0%}"
        yield title, drift
    yield (
        "descriptors, threads (least to most)",
        (f"{min(files)} to {max(files)}, {min(threads)} to {max(threads)}"),
    )


def _broker(folder: Path) -> AbstractContextManager[Broker]:
    extra = ["max_queued_messages 20000"]
    return running(mosquitto(folder / "mosquitto", is_persistent=True, extra=extra))


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
