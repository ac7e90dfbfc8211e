"""Fair share of the engine: a token bucket per client, filled with engine time.

A share limits a client only under contention: alone, it may use the whole device.
"""

from collections import OrderedDict
from dataclasses import dataclass

# Engine time that a client may use at once before it is over its share.
BURST_S = 10.0
# A client counts as active for so long after its last request.
ACTIVE_S = 60.0
# Clients remembered; the one silent for longest is forgotten first.
MAX_CLIENTS = 256


@dataclass(slots=True)
class _Bucket:
    level_s: float
    updated_s: float


class FairShare:
    """Divide engine time evenly among the active clients."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def is_over(self, client: str, now_s: float) -> bool:
        """Return whether a client exceeded its share while another client is active."""
        bucket = self._buckets.get(client)
        if bucket is None or self._num_others(client, now_s) == 0:
            return False
        return self._level_s(client, bucket, now_s) < 0

    def wait_s(self, client: str, now_s: float) -> float:
        """Return how long a client over its share has to wait until it is not."""
        level_s = self._level_s(client, self._buckets[client], now_s)
        return max(-level_s, 0.0) * (1 + self._num_others(client, now_s))

    def charge(self, client: str, work_s: float, now_s: float) -> None:
        """Take the predicted engine time of an accepted request from a client's bucket."""
        bucket = self._buckets.pop(client, None) or _Bucket(BURST_S, now_s)
        level_s = self._level_s(client, bucket, now_s) - work_s
        # The debt is bounded: a client that stops flooding is served again within minutes.
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
