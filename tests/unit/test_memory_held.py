"""What the largest messages make a node hold, compared with what its ledger says."""

import gc
import json
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edged.node.intake import MAX_ARRIVALS
from edged.node.ledger import ARRIVAL_BYTES, MAX_DUPLICATES, MAX_UNCONFIRMED
from edged.protocol.keys import MAX_ID_BYTES
from edged.protocol.request import ChatMessage
from edged.protocol.topic import MAX_TOPIC_BYTES
from edged.protocol.wire import MAX_CORRELATION_BYTES, WireProperties
from edged.scheduling.latency_model import CostEstimate
from tests.fakes import LIMITS, Bench, FakeLanguage

SLOTS, QUEUE, CONTEXT, LEFT = 4, 8, 2048, 100
WHOLE = replace(
    LIMITS, max_waiting=QUEUE, num_slots=SLOTS, max_model_len=CONTEXT, kv_bytes_per_token=1
)


class LongLanguage(FakeLanguage):
    """Each prompt has as many tokens as fit, and each of them is an object of its own."""

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        return [1000 + number for number in range(CONTEXT - LEFT)]


def start(folder: Path | None = None, *, is_preparing: bool = True) -> Bench:
    cost = CostEstimate(prefill_token_s=1e-5, decode_token_s=1e-4)
    return Bench(
        WHOLE, language=LongLanguage(), cost=cost, folder=folder, is_preparing=is_preparing
    )


def send(bench: Bench, number: int, **members: object) -> None:
    """Send as much as one request may have; one character widens all of its text."""
    payload = {"id": f"{number:0{MAX_ID_BYTES}}", "timeout_ms": 300_000, "max_tokens": 8} | members
    room = WHOLE.defaults.max_payload_bytes - len(json.dumps(payload)) - 40
    content = json.dumps({"prompt": "\U0001f642" + "x" * room} | payload, ensure_ascii=False)
    properties = WireProperties(
        response_topic=f"reply/{number:0{MAX_TOPIC_BYTES - 6}}",
        correlation_data=f"{number:0{MAX_CORRELATION_BYTES}}".encode(),
    )
    bench.deliver(content.encode(), properties=properties)


def growth(act: Callable[[], object]) -> int:
    """Return the bytes that Python allocates in a call and keeps."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = act()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        del kept


def accounts(bench: Bench) -> dict[str, int]:
    return bench.node.guard.ledger.accounts()


def test_admitted_requests_hold_what_they_reserve_with_all_their_duplicates() -> None:
    bench = start()
    send(bench, 0)
    bench.finish()
    before = accounts(bench)["requests"]

    def admit() -> None:
        for number in range(1, SLOTS + QUEUE + 1):
            for _ in range(1 + MAX_DUPLICATES):
                send(bench, number)

    held = growth(admit)
    reserved = accounts(bench)["requests"] - before
    assert len(bench.worker.jobs) == 1 + SLOTS
    assert len(bench.transport.replies) == 0
    assert 0.5 * reserved < held <= reserved


def test_what_waits_and_what_is_not_confirmed_holds_what_is_planned_all_the_time(
    tmp_path: Path,
) -> None:
    waiting = start(is_preparing=False)

    def fill_queue() -> None:
        for number in range(QUEUE + SLOTS):
            for _ in range(1 + MAX_DUPLICATES):
                send(waiting, number)

    refusing = start()
    send(refusing, 0, prompt=7)

    def refuse() -> None:
        for number in range(1, MAX_UNCONFIRMED):
            send(refusing, number, prompt=7)

    num_arrivals = ARRIVAL_BYTES // (WHOLE.defaults.max_payload_bytes + 2048)
    assert num_arrivals < MAX_ARRIVALS
    send(start(tmp_path), 0)  # and the process ends
    isolating = start(tmp_path)
    send(isolating, 0)

    def arrive() -> None:
        for number in range(1, num_arrivals + 1):
            send(isolating, number)

    held = [growth(act) for act in (fill_queue, refuse, arrive)]
    assert len(refusing.transport.on("reply/")) == MAX_UNCONFIRMED
    assert len(isolating.worker.jobs) == 1
    planned = accounts(waiting)["deliveries"]
    assert 0.5 * planned < sum(held) <= planned, (held, planned)


def test_no_more_than_a_bounded_number_of_bytes_waits_for_a_suspect(tmp_path: Path) -> None:
    send(start(tmp_path), 0)
    bench = start(tmp_path)
    send(bench, 0)
    large = b'{"prompt": 7, "x": "' + b"x" * 60_000 + b'"}'
    for _ in range(ARRIVAL_BYTES // len(large)):
        bench.deliver(large)
    assert bench.transport.replies == []
    bench.deliver(large)
    assert len(bench.transport.replies) == 1
