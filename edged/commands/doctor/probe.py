"""A connection to the broker that finds out what it delivers and what it denies.

Rule: nothing that is published is retained; of requests only a cancel of what nobody has asked.
"""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from edged.commands.sync_client import SyncClient
from edged.protocol.wire import ClientTopics, Delivery, Encoded, WireProperties
from edged.transport.events import Connected, ConnectFailed, Published

# Longest wait for the broker's answer.
WAIT_S = 15.0
# After the broker has confirmed a message, for the message itself.
_ARRIVAL_S = 5.0
_MESSAGE = b'{"v": 1, "doctor": true}'


@dataclass(frozen=True, slots=True)
class Probe:
    """A client with the node's account."""

    client: SyncClient
    topics: ClientTopics
    """Of a client that nobody is, for the node's rights there."""

    def connect(self) -> Connected | str:
        """Wait for the connection; return the reason when it fails."""
        for event in self.client.events(WAIT_S):
            if isinstance(event, Connected):
                return event
            if isinstance(event, ConnectFailed):
                return event.reason
        return f"{self.client.settings.address.url} does not answer"

    def publish(self, topic: str, number: int = 1) -> tuple[float, str | None]:
        """Publish a burst; return the time until all is confirmed, and why it was refused."""
        message = Encoded(topic, _MESSAGE, WireProperties())
        started_s = time.perf_counter()
        pending = {self.client.publish(message) for _ in range(number)}
        refusal = None
        for event in self.client.events(WAIT_S):
            if isinstance(event, Published):
                pending.discard(event.handle)
                refusal = refusal or event.failure
            if not pending:
                return time.perf_counter() - started_s, refusal
        return WAIT_S, "no confirmation"

    def ask(self, clients: Sequence[ClientTopics]) -> list[str | None]:
        """Send a request as each client in turn; return why it does not arrive, None if it does.

        What the broker denies over MQTT 3.1.1 just does not arrive; a later one that does tells.
        """
        token = f"doctor-{secrets.token_hex(8)}"
        problems: dict[str, str | None] = {}
        topics = [client.request("cancel") for client in clients]
        handles = {self._cancel(client, token): client.request("cancel") for client in clients}
        for event in self.client.events(_ARRIVAL_S):
            if isinstance(event, Published) and event.handle in handles and event.failure:
                problems[handles[event.handle]] = event.failure
            elif isinstance(event, Delivery) and token.encode() in event.payload:
                problems[event.topic] = None
            if topics[-1] in problems:
                break
        return [problems.get(topic, "it does not arrive") for topic in topics]

    def _cancel(self, client: ClientTopics, request_id: str) -> int:
        members = {"id": request_id, "response_topic": client.response("doctor")}
        # A node that is not running does not need it later.
        properties = WireProperties(message_expiry_s=round(_ARRIVAL_S))
        payload = json.dumps(members).encode()
        return self.client.publish(Encoded(client.request("cancel"), payload, properties))
