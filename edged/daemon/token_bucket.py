"""A token bucket: bursts up to a limit, and a bounded rate after that."""


class TokenBucket:
    """A bucket of ``burst`` tokens, full at ``now_s``, with one more after each ``refill_s``."""

    def __init__(self, burst: int, refill_s: float, now_s: float) -> None:
        self._burst = burst
        self._refill_s = refill_s
        self._tokens = float(burst)
        self._filled_s = now_s

    def take(self, now_s: float) -> bool:
        """Take a token; return whether there was one."""
        refilled = self._tokens + (now_s - self._filled_s) / self._refill_s
        self._tokens, self._filled_s = min(self._burst, refilled), now_s
        has_token = self._tokens >= 1
        self._tokens -= has_token
        return has_token
