"""Everything that has come since the connection, by topic.

Rule: nothing is thrown away, so a reply too many is found however late it comes.
"""

import time
from collections import defaultdict
from collections.abc import Callable

from edged_conformance.peer import Peer, Received


class Inbox:
    """What a peer has received.

    Args:
        peer: Where messages come from.
        timeout_s: Longest wait for one condition.
    """

    def __init__(self, peer: Peer, timeout_s: float) -> None:
        self._peer = peer
        self._timeout_s = timeout_s
        self._messages: dict[str, list[Received]] = defaultdict(list)
        self.num_received = 0

    def on(self, topic: str, *, after: int = 0) -> list[Received]:
        """Return what came on a topic after the message with this number."""
        return [message for message in self._messages[topic] if message.number > after]

    def wait_for(self, condition: Callable[[], object], timeout_s: float | None = None) -> bool:
        """Receive until the condition holds; blocks. Return whether it does."""
        until_s = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        while not condition():
            message = self._peer.receive(until_s)
            if message is None:
                return False
            self._messages[message.topic].append(message)
            self.num_received = message.number
        return True
