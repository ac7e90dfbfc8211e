"""Coverage-guided fuzzing of payloads: run this module with SECONDS; needs the extra ``fuzz``.

Hypothesis draws from strategies that we wrote; atheris follows the branches of the decoder. Each
input is a delivery that must get one reply or be counted as dropped, and be acknowledged.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["edged"]):
    from edged.protocol.wire import WireProperties
    from tests.fakes import Bench

SEEDS = (
    b'\x00{"id": "a", "prompt": "x", "max_tokens": 4, "temperature": 0.5, "stream": true}',
    b'\x00{"messages": [{"role": "user", "content": "x"}], "stop": ["a"], "session": "s"}',
    b'\x01{"prompt": "x", "format": {"type": "choice", "choices": ["a", "b"]}, "seed": 1}',
    b'\x01{"prompt": "x", "format": {"type": "json_schema", "schema": {"type": "object"}}}',
    b'\x04{"id": "a"}',
    b"\x02hello",
)
"""The first byte chooses operation and properties; the rest is the payload."""
OPERATIONS = ("generate", "cancel", "x")
CONTENT_TYPES = (None, "application/json", "text/plain", "text/html")


def one_delivery(data: bytes) -> None:
    """Deliver a payload to a node with fakes, and check the result."""
    choice = data[0] if data else 0
    properties = WireProperties(
        content_type=CONTENT_TYPES[choice % 4],
        correlation_data=data[:4] if choice & 64 else None,
        message_expiry_s=choice if choice & 128 else None,
    )
    bench = Bench()
    operation = OPERATIONS[choice // 4 % 3]
    delivery = bench.delivery(data[1:], operation, properties=properties)
    bench.take(delivery)
    if bench.worker.jobs:
        bench.finish()
    num_replies = len(bench.transport.sent) - len(bench.transport.on("/event"))
    assert num_replies + bench.metrics.snapshot()["dropped"] == 1
    bench.confirm_all()
    assert bench.transport.acknowledged == [delivery.receipt]


def main(seconds: str, corpus: str) -> None:
    """Fuzz for the given time; exit with 0 if nothing was found."""
    for number, seed in enumerate(SEEDS):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=17000", "-timeout=5", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, corpus], one_delivery)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
