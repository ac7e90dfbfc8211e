"""All messages since the connection, by topic.

Rule: nothing is discarded, so that a surplus reply is found however late it arrives.
"""

import time
from collections import defaultdict
from collections.abc import Callable

from edged_conformance.peer import Peer, Received


class Inbox:
    """The messages received by a peer.

    Args:
        peer: Source of the messages.
        timeout_s: Timeout for one condition.
    """

    def __init__(self, peer: Peer, timeout_s: float) -> None:
        self._peer = peer
        self._timeout_s = timeout_s
        self._messages: dict[str, list[Received]] = defaultdict(list)
        self.num_received = 0

    def on(self, topic: str, *, after: int = 0) -> list[Received]:
        """Return the messages on a topic after the message with this number."""
        return [message for message in self._messages[topic] if message.number > after]

    def wait_for(self, condition: Callable[[], object], timeout_s: float | None = None) -> bool:
        """Receive until the condition holds or the timeout; return whether it holds."""
        until_s = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        while not condition():
            message = self._peer.receive(until_s)
            if message is None:
                return False
            self._messages[message.topic].append(message)
            self.num_received = message.number
        return True
