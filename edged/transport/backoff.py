"""How long to wait before the next attempt to connect."""

import random

from edged.transport.events import BrokerSettings

TAKEN_OVER_S = 60.0
"""Two clients under one identifier must not throw each other out all the time."""
STABLE_S = 120.0
"""A connection that stood as long starts the back-off anew. Longer than the longest pause, because
Mosquitto 2.0.11 closes a connection that is taken over without saying so."""


class Backoff:
    """Doubling pauses with jitter, so that a fleet does not return all at once."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._min_s = settings.retry_min_s
        self._max_s = settings.retry_max_s
        self._next_s = settings.retry_min_s
        self._random = random.SystemRandom()

    def note_connection(self, stood_s: float) -> None:
        """Start anew after a connection that stood long enough to be called good."""
        if stood_s >= STABLE_S:
            self._next_s = self._min_s

    def next_s(self, *, is_taken_over: bool = False) -> float:
        """Return the next pause."""
        if is_taken_over:
            return max(TAKEN_OVER_S, self._max_s)
        pause_s = self._next_s * self._random.uniform(0.5, 1.0)
        self._next_s = min(self._max_s, self._next_s * 2)
        return pause_s
