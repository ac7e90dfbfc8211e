"""Who has had how much of the engine: a token bucket for each client, filled with engine time.

Rule: no clock. A share is a right under contention only: alone, a client may have everything.
"""

from collections import OrderedDict
from dataclasses import dataclass

BURST_S = 10.0
"""Engine time that a client can take at once before it is over its share."""
ACTIVE_S = 60.0
"""A client counts as active so long after its last request."""
MAX_CLIENTS = 256
"""Clients remembered; the one that was silent longest is forgotten first."""


@dataclass(slots=True)
class _Bucket:
    level_s: float
    updated_s: float


class FairShare:
    """Divide the engine's time evenly among the clients that ask at the same time."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def is_over(self, client: str, now_s: float) -> bool:
        """Tell whether a client has had its share while somebody else is asking too."""
        bucket = self._buckets.get(client)
        if bucket is None or self._num_others(client, now_s) == 0:
            return False
        return self._level_s(client, bucket, now_s) < 0

    def wait_s(self, client: str, now_s: float) -> float:
        """Tell how long a client that is over its share has to wait until it is not."""
        level_s = self._level_s(client, self._buckets[client], now_s)
        return max(-level_s, 0.0) * (1 + self._num_others(client, now_s))

    def charge(self, client: str, work_s: float, now_s: float) -> None:
        """Take the predicted time of an accepted request from a client's bucket."""
        bucket = self._buckets.pop(client, None) or _Bucket(BURST_S, now_s)
        level_s = self._level_s(client, bucket, now_s) - work_s
        self._buckets[client] = _Bucket(max(level_s, -2 * BURST_S), now_s)
        while len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)

    def _level_s(self, client: str, bucket: _Bucket, now_s: float) -> float:
        rate = 1 / (1 + self._num_others(client, now_s))
        return min(bucket.level_s + rate * max(now_s - bucket.updated_s, 0.0), BURST_S)

    def _num_others(self, client: str, now_s: float) -> int:
        return sum(
            now_s - bucket.updated_s < ACTIVE_S
            for name, bucket in self._buckets.items()
            if name != client
        )
