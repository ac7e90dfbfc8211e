"""When a node is announced to Home Assistant: at each connection, and when Home Assistant starts.

Rule: says nothing but the announcement; what is in it is ``homeassistant``'s.
"""

import logging
import random
from collections.abc import Callable

from edged.homeassistant import STATUS_ONLINE, Announcement
from edged.messages import Delivery
from edged.ports import Publisher

_LOG = logging.getLogger(__name__)

MAX_DELAY_S = 3.0
"""Home Assistant's start is answered after a random part of this, not by a whole fleet at once."""


class Discovery:
    """Keep a node announced, or not announced.

    Args:
        announcement: What is announced.
        is_on: Whether it is; else an earlier announcement is taken back, once.
        publisher: Where it is published.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        announcement: Announcement,
        publisher: Publisher,
        clock: Callable[[], float],
        *,
        is_on: bool,
    ) -> None:
        self._announcement = announcement
        self._publisher = publisher
        self._clock = clock
        self._is_on = is_on
        self._is_removed = False
        self._due_s = float("inf")
        self._random = random.SystemRandom()

    def announce(self) -> None:
        """Publish the announcement, or take it back."""
        self._due_s = float("inf")
        if self._is_on:
            self._publisher.publish(self._announcement.message(), qos=1, retain=True)
        elif not self._is_removed:
            self._is_removed = True
            self._publisher.publish(self._announcement.removal(), qos=1, retain=True)

    def take(self, delivery: Delivery) -> bool:
        """Take in Home Assistant's status; False when the delivery is something else."""
        if delivery.topic != self._announcement.status_topic:
            return False
        self._publisher.acknowledge(delivery)
        if delivery.payload == STATUS_ONLINE and self._is_on:
            _LOG.info("Home Assistant has started; the node is announced again")
            self._due_s = self._clock() + self._random.uniform(0, MAX_DELAY_S)
        return True

    def next_tick_s(self) -> float:
        """Return when ``tick`` will announce again."""
        return self._due_s

    def tick(self) -> bool:
        """Announce again if it is time; tell whether it was."""
        is_due = self._clock() >= self._due_s
        if is_due:
            self.announce()
        return is_due
