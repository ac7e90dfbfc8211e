"""``edged bench --wire``: what a prompt costs besides the model.

A node whose engine answers at once stands beside a bare echo, on one broker; both are asked by one
client in alternating rounds, first one request at a time, then several.

Rule: the same client, payload, properties and quality of service for both. What depends on the
disk, the record of a start that ``state.folder`` asks for, is measured apart.
"""

import datetime as dt
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edged
from edged.commands.bench.device import describe_device
from edged.commands.bench.wire_client import ANSWERS, Asker, connect
from edged.commands.bench.wire_processes import ECHO_TOPIC, NODE, WireError, broker, echo, node
from edged.daemon.journal_file import PAGE_BYTES, JournalFile

# Requests on their way at a time: as many as wait in a queue of the default size.
NODE_SIDE, ECHO_SIDE = "node", "echo"
WINDOW = 8
_STREAM_TOKENS = 4

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is asked."""

    rounds: int = 5
    round_trips: int = 300
    """One after the other, in each round and of each side."""
    burst: int = 1000
    """With ``WINDOW`` on their way, in each round and of each side."""
    streams: int = 300
    records: int = 200


def measure_wire(
    url: str | None, effort: Effort, command: str, note: Callable[[str], None]
) -> Document:
    """Measure; blocks for some 20 s.

    Args:
        url: A broker; None starts a Mosquitto.
        effort: How much is asked.
        command: The command line, for those who want to repeat it.
        note: Tells a person what happens now.

    Raises:
        UsageError: The URL is none.
        WireError: There is no broker, or it does not answer.
    """
    device = describe_device()  # first: it tells how busy the machine was before us
    with tempfile.TemporaryDirectory(prefix="edged-wire-") as name:
        folder = Path(name)
        try:
            with broker(url, folder) as place, node(place, folder), echo(place):
                samples = _ask(place, effort, note)
            record_ms = _milliseconds([_record_s(folder, i) for i in range(effort.records)])
        except OSError as error:
            raise WireError(f"the broker does not answer: {error}") from error
    return {
        "wire": {side: _figures(samples[side]) for side in (NODE_SIDE, ECHO_SIDE)},
        "first_fragment_ms": _milliseconds(samples[NODE_SIDE]["first_fragments_s"]),
        "record_ms": record_ms,
        "rounds": effort.rounds,
        "window": WINDOW,
        "broker": "mosquitto, started for this" if url is None else "given",
        "versions": {"edged": edged.__version__, "python": platform.python_version()},
        "device": device,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": command,
    }


def heading(document: Document) -> str:
    """Say what was measured, on what."""
    device = document["device"]
    return (
        f"prompt to reply without a model, on {device['name']}: broker {document['broker']},"
        f" QoS 1, {document['rounds']} alternating rounds"
    )


def rows(document: Document) -> Iterator[list[str]]:
    """Yield the cells of the table: a heading row, then one row a figure."""
    ours, bare = document["wire"][NODE_SIDE], document["wire"][ECHO_SIDE]
    yield ["", "edged", "bare echo", "edged ÷ echo"]
    for title, key, unit, digits in (
        ("prompt to reply, p50", "p50", "ms", 2),
        ("prompt to reply, p99", "p99", "ms", 2),
        (f"replies, {document['window']} on their way", "rate_per_s", "/s", 0),
    ):
        shown = [f"{side[key]:,.{digits}f} {unit}" for side in (ours, bare)]
        yield [title, *shown, f"{ours[key] / bare[key]:.2f} x"]
    for title, key in (
        ("token to its fragment's arrival", "first_fragment_ms"),
        ("with `state.folder`, on this disk", "record_ms"),
    ):
        for percentile, value in document[key].items():
            yield [f"{title}, {percentile}", f"{value:.2f} ms", "-", "-"]


def _ask(
    url: str, effort: Effort, note: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    client = connect(url, "edged-bench-asker", ANSWERS, f"edged/{NODE}/stream/+")
    askers = {
        ECHO_SIDE: Asker(client, ECHO_TOPIC),
        NODE_SIDE: Asker(client, f"edged/{NODE}/request/generate"),
    }
    samples: dict[str, dict[str, list[float]]] = {
        side: {"round_trips_s": [], "rates_per_s": [], "first_fragments_s": []} for side in askers
    }
    for asker in askers.values():  # both are warm before anything counts
        list(asker.round_trips_s(effort.round_trips // 4))
    for number in range(effort.rounds):
        note(f"round {number + 1} of {effort.rounds}")
        for side, asker in askers.items():
            samples[side]["round_trips_s"] += asker.round_trips_s(effort.round_trips)
        for side, asker in askers.items():
            samples[side]["rates_per_s"].append(asker.rate_per_s(effort.burst, WINDOW))
    streams = askers[NODE_SIDE].first_fragments_s(effort.streams, _STREAM_TOKENS)
    samples[NODE_SIDE]["first_fragments_s"] += streams
    client.close()
    return samples


def _record_s(folder: Path, number: int) -> float:
    """Write down one start, and that it was answered, as the daemon does; blocks for the disk."""
    synced = threading.Event()
    journal = JournalFile(folder, lambda _key: synced.set())
    before_s = time.perf_counter()
    journal.write(0, f"{number:0{PAGE_BYTES}}".encode())
    journal.sync(number)
    synced.wait()
    journal.write(0, b"{}")
    return time.perf_counter() - before_s


def _figures(samples: dict[str, list[float]]) -> Document:
    rates = sorted(samples["rates_per_s"])
    return {**_milliseconds(samples["round_trips_s"]), "rate_per_s": rates[len(rates) // 2]}


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"p{percent}": ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000
        for percent in (50, 99)
    }
