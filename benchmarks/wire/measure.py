"""The cost of a prompt without the model.

A node whose engine answers at once and a plain echo use the same broker. One client sends requests
to both in alternating rounds, first one at a time, then several.

Rule: both get the same client, payload, properties and quality of service. The crash journal of
``state.folder`` depends on the disk and is measured separately.
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
from benchmarks.wire.client import ANSWERS, Asker, connect
from benchmarks.wire.processes import ECHO_TOPIC, NODE, WireError, broker, echo, node
from edged.commands.bench.device import describe_device
from edged.daemon.journal_file import PAGE_BYTES, JournalFile

# Requests in flight: as many as fit into a queue of the default size.
NODE_SIDE, ECHO_SIDE = "node", "echo"
WINDOW = 8
_STREAM_TOKENS = 4

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WireLoad:
    """Numbers of requests."""

    rounds: int = 5
    round_trips: int = 300
    """Sequential, in each round and for each side."""
    burst: int = 1000
    """With ``WINDOW`` in flight, in each round and for each side."""
    streams: int = 300
    records: int = 200


def measure_wire(
    url: str | None, load: WireLoad, command: str, note: Callable[[str], None]
) -> Document:
    """Measure; blocks for some 20 s.

    Args:
        url: Of the broker; None starts a Mosquitto.
        load: Numbers of requests.
        command: The command line, to repeat the measurement.
        note: Reports progress.

    Raises:
        UsageError: The URL is invalid.
        WireError: There is no broker, or it does not answer.
    """
    device = describe_device()  # first: it reads the load before the measurement
    with tempfile.TemporaryDirectory(prefix="edged-wire-") as name:
        folder = Path(name)
        try:
            with broker(url, folder) as place, node(place, folder), echo(place):
                samples = _ask(place, load, note)
            record_ms = _milliseconds([_record_s(folder, i) for i in range(load.records)])
        except OSError as error:
            raise WireError(f"the broker does not answer: {error}") from error
    return {
        "wire": {side: _figures(samples[side]) for side in (NODE_SIDE, ECHO_SIDE)},
        "first_fragment_ms": _milliseconds(samples[NODE_SIDE]["first_fragments_s"]),
        "record_ms": record_ms,
        "rounds": load.rounds,
        "window": WINDOW,
        "broker": "mosquitto, started for this" if url is None else "given",
        "versions": {"edged": edged.__version__, "python": platform.python_version()},
        "device": device,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": command,
    }


def heading(document: Document) -> str:
    """Return one line: device and method."""
    device = document["device"]
    return (
        f"prompt to reply without a model, on {device['name']}: broker {document['broker']},"
        f" QoS 1, {document['rounds']} alternating rounds"
    )


def rows(document: Document) -> Iterator[list[str]]:
    """Yield the cells of the table: a heading row, then one row per figure."""
    ours, bare = document["wire"][NODE_SIDE], document["wire"][ECHO_SIDE]
    yield ["", "edged", "echo", "edged ÷ echo"]
    for title, key, unit, digits in (
        ("prompt to reply, p50", "p50", "ms", 2),
        ("prompt to reply, p99", "p99", "ms", 2),
        (f"replies, {document['window']} in flight", "rate_per_s", "/s", 0),
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
    url: str, load: WireLoad, note: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    client = connect(url, "edged-bench-asker", ANSWERS, f"edged/{NODE}/stream/+")
    askers = {
        ECHO_SIDE: Asker(client, ECHO_TOPIC),
        NODE_SIDE: Asker(client, f"edged/{NODE}/request/generate"),
    }
    samples: dict[str, dict[str, list[float]]] = {
        side: {"round_trips_s": [], "rates_per_s": [], "first_fragments_s": []} for side in askers
    }
    for asker in askers.values():  # warm-up
        list(asker.round_trips_s(load.round_trips // 4))
    for number in range(load.rounds):
        note(f"round {number + 1} of {load.rounds}")
        for side, asker in askers.items():
            samples[side]["round_trips_s"] += asker.round_trips_s(load.round_trips)
        for side, asker in askers.items():
            samples[side]["rates_per_s"].append(asker.rate_per_s(load.burst, WINDOW))
    streams = askers[NODE_SIDE].first_fragments_s(load.streams, _STREAM_TOKENS)
    samples[NODE_SIDE]["first_fragments_s"] += streams
    client.close()
    return samples


def _record_s(folder: Path, number: int) -> float:
    """Write one record of the crash journal and clear it, as the daemon does; blocks."""
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
