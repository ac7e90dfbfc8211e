"""Fair share of the engine: a token bucket per client, filled with engine time.

A share limits a client only under contention: alone, it may use the whole device.
"""

from collections import OrderedDict
from dataclasses import dataclass

from edged.protocol.request import Client

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
        self._buckets: OrderedDict[Client, _Bucket] = OrderedDict()

    def wait_s(self, client: Client, now_s: float) -> float:
        """Return how long a client has to wait until it is within its share; 0 while it is."""
        bucket, share = self._buckets.get(client), self._share(client, now_s)
        if bucket is None or share == 1.0:
            return 0.0
        return max(-_level_s(bucket, share, now_s), 0.0) / share

    def charge(self, client: Client, work_s: float, now_s: float) -> None:
        """Take the predicted engine time of an accepted request from a client's bucket."""
        bucket = self._buckets.pop(client, None) or _Bucket(BURST_S, now_s)
        level_s = _level_s(bucket, self._share(client, now_s), now_s) - work_s
        # The debt is bounded: a client that stops flooding is served again within minutes.
        self._buckets[client] = _Bucket(max(level_s, -2 * BURST_S), now_s)
        while len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)

    def _share(self, client: Client, now_s: float) -> float:
        num_others = 0
        # The latest first: before the first one that is silent, all are.
        for name, bucket in reversed(self._buckets.items()):
            if now_s - bucket.updated_s >= ACTIVE_S:
                break
            num_others += name != client
        return 1 / (1 + num_others)


def _level_s(bucket: _Bucket, share: float, now_s: float) -> float:
    return min(bucket.level_s + share * max(now_s - bucket.updated_s, 0.0), BURST_S)
