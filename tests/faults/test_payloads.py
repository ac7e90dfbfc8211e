"""Payloads that are too large, too many, or made to hurt: one reply each, no memory, no end."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from edged.local_broker import mosquitto as configure_mosquitto
from edged.local_broker import running
from edged.messages import WireProperties
from tests.broker.conftest import require_mosquitto
from tests.broker.peer import peer
from tests.fakes import Bench
from tests.faults.site import REQUEST, crowd, serving, wait_for_state

MAX_GROWTH_BYTES = 10_000_000
LOOK_S = 0.002
NUM_LARGE = 1000
NUM_TINY = 5000
HOSTILE = [
    b'{"prompt":' + b"[" * 8000 + b"]" * 8000 + b"}",
    b'{"prompt": "half a pair: \\ud800"}',
    b'{"prompt": "nul: \\u0000"}',
    b"nul: \x00",
    b"not utf-8: \xff\xfe",
    b"",
    b'{"prompt": NaN}',
    b'{"max_tokens": 1' + b"0" * 4000 + b"}",
]


def heap_bytes(process_id: int) -> int:
    """What a process holds that no file stands behind: of those pages the system takes some back
    from who is idle, and its next requests bring them in again."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


@contextmanager
def growth_of(process_id: int) -> Iterator[list[int]]:
    """Look at a process all the time; at the end the list holds by how much it grew at most."""
    before, over = heap_bytes(process_id), threading.Event()
    growth = [0]

    def look() -> None:
        while not over.wait(LOOK_S):
            growth[0] = max(growth[0], heap_bytes(process_id) - before)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield growth
    finally:
        over.set()
        watcher.join()


def test_floods_and_giants_are_answered_or_dropped_in_bounded_memory(
    bundle: Path, tmp_path: Path
) -> None:
    """The broker holds nothing back: Mosquitto 2.0.11 sends far more than the Receive Maximum."""
    require_mosquitto()
    broker_terms = configure_mosquitto(tmp_path, extra=["max_queued_messages 20000"])
    with (
        running(broker_terms) as broker,
        serving(tmp_path, bundle, broker.port, MALLOC_ARENA_MAX="2") as process,  # as the unit
        crowd(broker) as clients,
        peer(broker.port, "5", "reply/hostile") as hostile,
    ):

        def giant() -> None:
            hostile.publish(REQUEST, b"x" * 40_000_000)

        def large() -> None:
            clients.ask(NUM_LARGE, prompt="x" * 16_000)

        def tiny() -> None:
            clients.ask(NUM_TINY)

        def made_to_hurt() -> None:
            for payload in HOSTILE:
                hostile.publish(REQUEST, payload, ResponseTopic="reply/hostile")
            codes = [hostile.reply()["error"]["code"] for _ in HOSTILE]
            assert set(codes) == {"bad_request"}

        clients.ask(4, prompt="x" * 200, max_tokens=40)
        clients.ask(4, prompt="x" * 16_000)  # what reading one of them takes is not the flood's
        clients.settle()
        for flood in (giant, large, tiny, made_to_hurt):
            with growth_of(process.process.pid) as growth:
                flood()
                last = clients.ask(1)[0]
                clients.settle()
            assert growth[0] <= MAX_GROWTH_BYTES, flood.__name__
        assert clients.codes == {"ok", "prompt_too_long", "queue_full"}
        told = wait_for_state(tmp_path, lambda told: told["queue"] == 0)
        assert (told["dropped"], told["connects"]) == (0, 1)
        assert clients.replies[last][0]["status"] == "ok"
        assert process.stop() == 0


text = st.text(st.characters(codec="utf-8"), max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
KEYS = ("id", "prompt", "messages", "max_tokens", "format", "stop", "stream", "timeout_ms", "seed")
requests = st.dictionaries(st.sampled_from(KEYS) | text, values, max_size=6)
payloads = st.binary(max_size=200) | requests.map(lambda value: json.dumps(value).encode())
properties = st.builds(
    WireProperties,
    response_topic=st.none() | text | st.just("reply/me"),
    correlation_data=st.none() | st.binary(max_size=8),
    content_type=st.none() | text | st.just("application/json"),
    message_expiry_s=st.none() | st.integers(0, 2**32 - 1),
)


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(payloads, properties, st.booleans(), st.sampled_from(["generate", "cancel", "x"]))
def test_any_delivery_gets_one_reply_or_is_counted_as_dropped(
    payload: bytes,
    wire: WireProperties,
    retain: bool,
    operation: str,
) -> None:
    bench = Bench()
    delivery = bench.delivery(payload, operation, properties=wire, retain=retain)
    bench.service.deliver(delivery)
    if bench.worker.jobs:
        bench.finish()
    told = bench.transport.on("/event")
    num_dropped = bench.metrics.snapshot()["dropped"]
    num_replies = len(bench.transport.sent) - len(told)
    assert num_replies + num_dropped == 1
    bench.confirm_all()
    assert bench.transport.acknowledged == [delivery.receipt]
