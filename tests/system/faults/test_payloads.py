"""Payloads that are too large, too many, or malicious: one reply each, in bounded memory."""

import gc
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from edged.commands.local_broker import mosquitto as configure_mosquitto
from edged.commands.local_broker import running
from edged.protocol.wire import WireProperties
from tests.fakes import Bench
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.peer import peer
from tests.system.faults.site import REQUEST, crowd, serving, wait_for_state

MAX_GROWTH_BYTES = 32_000_000
"""Bound for any flood, whatever the load of the machine.

Under load the broker falls behind and every reply is queued: 1 KB each, 5 MB. At most 85 payloads
were held at a time (1.4 MB), but the heap grew by 3 to 20 MB in the large flood, by fragmentation
between queued replies: a closer bound would depend on the load. 1,000 prompts kept as tokens would
take 450 MB; another test checks that no payload is kept.
"""
LOOK_S = 0.002
GIANT_BYTES = 40_000_000
LARGE_BYTES = 16_000
NUM_LARGE = 1000
NUM_TINY = 2000
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
    """Return the anonymous memory of a process.

    File-backed pages do not count: the kernel drops and reloads those of an idle process.
    """
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


@contextmanager
def growth_of(process_id: int) -> Iterator[list[int]]:
    """Watch a process; at the end the list holds its largest growth."""
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


def test_floods_and_huge_payloads_are_answered_or_dropped_in_bounded_memory(
    bundle: Path, tmp_path: Path
) -> None:
    """The broker does not limit them: Mosquitto 2.0.11 sends far more than the Receive Maximum."""
    require_mosquitto()
    broker_terms = configure_mosquitto(tmp_path, extra=["max_queued_messages 20000"])
    as_the_unit = {"MALLOC_ARENA_MAX": "2"}
    with (
        running(broker_terms) as broker,
        serving(tmp_path, bundle, broker.port, keepalive="10min", **as_the_unit) as process,
        crowd(broker) as clients,
        peer(broker.port, "5", "reply/hostile") as hostile,
    ):

        def giant() -> None:
            hostile.publish(REQUEST, b"x" * GIANT_BYTES)

        def large() -> None:
            clients.ask(NUM_LARGE, prompt="x" * LARGE_BYTES)

        def tiny() -> None:
            clients.ask(NUM_TINY)

        def made_to_hurt() -> None:
            for payload in HOSTILE:
                hostile.publish(REQUEST, payload, ResponseTopic="reply/hostile")
            codes = [hostile.reply()["error"]["code"] for _ in HOSTILE]
            assert set(codes) == {"bad_request"}

        clients.ask(4, prompt="x" * 200, max_tokens=40)
        # Memory for reading a single one does not count as growth.
        clients.ask(4, prompt="x" * LARGE_BYTES)
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


@pytest.mark.parametrize(
    ("request_", "num_jobs"),
    [({"prompt": 7}, 0), ({"prompt": "x"}, 1)],
    ids=["refused", "answered"],
)
def test_replies_waiting_for_the_broker_hold_no_request_payload(
    request_: dict[str, object], num_jobs: int
) -> None:
    bench = Bench()
    payload = json.dumps(request_ | {"ignored": "x" * LARGE_BYTES}).encode()
    num_holders = sys.getrefcount(payload)
    bench.take(bench.delivery(payload))
    assert len(bench.worker.jobs) == num_jobs
    if num_jobs:
        bench.finish()
    assert bench.transport.sent
    assert not bench.transport.acknowledged
    gc.collect()
    assert sys.getrefcount(payload) == num_holders


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
def test_any_delivery_gets_one_reply_or_is_a_counted_drop(
    payload: bytes,
    wire: WireProperties,
    retain: bool,
    operation: str,
) -> None:
    bench = Bench()
    delivery = bench.delivery(payload, operation, properties=wire, retain=retain)
    bench.take(delivery)
    if bench.worker.jobs:
        bench.finish()
    told = bench.transport.on("/event")
    num_dropped = bench.metrics.snapshot()["dropped"]
    num_replies = len(bench.transport.sent) - len(told)
    assert num_replies + num_dropped == 1
    bench.confirm_all()
    assert bench.transport.acknowledged == [delivery.receipt]
