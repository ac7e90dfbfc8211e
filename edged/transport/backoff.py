"""How long to wait before the next attempt to connect."""

import random

from edged.transport.events import BrokerSettings

TAKEN_OVER_S = 60.0
"""Two clients under one identifier must not throw each other out all the time."""
STABLE_S = 120.0
"""A connection that stood as long starts the back-off anew. Longer than the longest pause, because
Mosquitto 2.0.11 closes a connection that is taken over without saying so."""
STABLE_PAUSES = 8
"""So does one that stood for so many times the pause before it, which two clients that throw each
other out never do; so a network that breaks each minute costs a second each time."""
UNREACHABLE_MAX_S = 8.0
"""An attempt at a broker that is away costs nobody anything, and its return is noticed soon."""


class Backoff:
    """Doubling pauses with jitter, so that a fleet does not return all at once.

    Connections that broke and attempts that failed are two series: the first is about two clients
    that throw each other out, the second about a broker or a network that is away.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self._min_s = settings.retry_min_s
        self._max_s = settings.retry_max_s
        self._broken_s = settings.retry_min_s
        self._failed_s = settings.retry_min_s
        self._last_s = 0.0
        self._random = random.SystemRandom()

    def note_connection(self, stood_s: float) -> None:
        """Start anew after a connection that stood long enough to be called good."""
        if stood_s >= min(STABLE_S, STABLE_PAUSES * self._last_s):
            self._broken_s = self._min_s

    def next_s(
        self, *, was_connected: bool, is_taken_over: bool = False, is_probing: bool = False
    ) -> float:
        """Return the next pause, after a connection that broke or an attempt that failed.

        Args:
            was_connected: The connection stood.
            is_taken_over: Another client has taken it.
            is_probing: It was good until a single message was sent, which is put to the test; so
                it says nothing about broker and network.
        """
        if is_probing:
            return self._min_s
        if is_taken_over:
            return max(TAKEN_OVER_S, self._max_s)
        if was_connected:
            pause_s, self._failed_s = self._broken_s, self._min_s
            self._broken_s = min(self._max_s, self._broken_s * 2)
        else:
            pause_s = self._failed_s
            self._failed_s = min(self._max_s, UNREACHABLE_MAX_S, self._failed_s * 2)
        self._last_s = pause_s * self._random.uniform(0.5, 1.0)
        return self._last_s
