"""The requesting client, and the echo: one connection on one thread.

``python -m benchmarks.wire.client URL TOPIC`` is the echo, the lower bound with paho: it sends each
message back to its Response Topic, both with QoS 1, like a request and its reply.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.wire.baseline import BareClient
from edged.config.broker_url import parse_broker_url
from edged.protocol.wire import Delivery, WireProperties
from edged.transport.settings import BrokerSettings

PROMPT = "Is the boiler ok?"
ANSWERS = "reply/bench"
TIMEOUT_S = 30


def connect(url: str, client_id: str, *filters: str) -> BareClient:
    """Return a bare client of the broker; blocks until it is subscribed.

    Raises:
        OSError: It cannot be reached, or refuses.
    """
    settings = BrokerSettings(
        parse_broker_url(url), client_id=client_id, session_expiry_s=0, protocol="5"
    )
    return BareClient(settings, *filters)


@dataclass(slots=True)
class Asker:
    """Send requests to a node or to the echo; the payloads are the same."""

    client: BareClient
    topic: str
    num_asked: int = 0

    def ask(self, *, max_tokens: int = 1, is_stream: bool = False) -> str:
        """Send one request and return its id."""
        self.num_asked += 1
        name = f"r{self.num_asked}"
        request = {"id": name, "prompt": PROMPT, "max_tokens": max_tokens, "stream": is_stream}
        properties = WireProperties(
            response_topic=ANSWERS,
            correlation_data=name.encode(),
            content_type="application/json",
            message_expiry_s=TIMEOUT_S,
        )
        self.client.publish(self.topic, json.dumps(request).encode(), properties)
        return name

    def round_trips_s(self, count: int) -> Iterator[float]:
        """Send requests one at a time and yield the time to each reply; blocks."""
        for _ in range(count):
            before_s = time.perf_counter()
            name = self.ask()
            while self.client.receive().properties.correlation_data != name.encode():
                pass  # a late reply from the previous phase
            yield time.perf_counter() - before_s

    def rate_per_s(self, count: int, window: int) -> float:
        """Keep ``window`` requests in flight and return replies per second; blocks."""
        before_s = time.perf_counter()
        for _ in range(window):
            self.ask()
        for number in range(count):
            self.client.receive()
            if number + window < count:
                self.ask()
        return count / (time.perf_counter() - before_s)

    def first_fragments_s(self, count: int, num_tokens: int) -> Iterator[float]:
        """Request streams; yield the delay of each first fragment after its token; blocks."""
        for _ in range(count):
            self.ask(max_tokens=num_tokens, is_stream=True)
            while "delta" not in (members := _members(self.client.receive())):
                pass
            yield (time.monotonic_ns() - int(members["delta"].split()[0])) / 1e9
            while "status" not in members:
                members = _members(self.client.receive())


def _members(message: Delivery) -> dict[str, str]:
    members: dict[str, str] = json.loads(message.payload)
    return members


def echo(url: str, topic: str) -> None:
    """Echo a topic until the broker disconnects; print ``ready`` once subscribed."""
    client = connect(url, "edged-bench-echo", topic)
    print("ready", flush=True)
    with contextlib.suppress(OSError):
        client.echo()


if __name__ == "__main__":
    echo(*sys.argv[1:])
