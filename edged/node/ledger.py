"""The one account of memory: everything that is held or reserved, inside one budget.

Rule: reserve first, use later, release always. What does not fit is refused here, before a byte of
it is allocated; so the sum of all reservations never exceeds the budget.
"""

from collections.abc import Mapping
from enum import StrEnum

# Replies kept to be sent again, at most.
REPLAY_BYTES = 256 * 1024
# A request that waits or runs: its text, token ids, grammar state and reply, rounded up.
REQUEST_BYTES = 128 * 1024


class Account(StrEnum):
    """What memory is held for; the value is its name in ``state``."""

    PROCESS = "process"
    """The interpreter and its libraries."""
    WEIGHTS = "weights"
    WORKING = "working"
    """Activations, logits, the tokenizer, grammars."""
    KV = "kv"
    """Keys and values of the running sequence; between requests they are the prefix cache."""
    SPECIALISTS = "specialists"
    """Their heads; a reload exchanges them."""
    SESSIONS = "sessions"
    REPLAY = "replay"
    """Replies kept to be sent again."""
    REQUESTS = "requests"
    """Requests that wait and that run."""


class Ledger:
    """Keep account of one budget.

    Args:
        limit_bytes: The budget.
        held: What is held for the life of the process; what exceeds the budget is left out.
    """

    def __init__(self, limit_bytes: int, held: Mapping[Account, int]) -> None:
        self.limit_bytes = limit_bytes
        self._held = dict.fromkeys(Account, 0)
        for account, num_bytes in held.items():
            self.reserve(account, min(num_bytes, self.free_bytes))

    @property
    def planned_bytes(self) -> int:
        """All reservations together."""
        return sum(self._held.values())

    @property
    def free_bytes(self) -> int:
        """What can still be reserved; never negative."""
        return self.limit_bytes - self.planned_bytes

    def reserve(self, account: Account, num_bytes: int) -> bool:
        """Reserve memory; return whether the budget has room for it."""
        has_room = num_bytes <= self.free_bytes
        if has_room:
            self._held[account] += num_bytes
        return has_room

    def release(self, account: Account, num_bytes: int) -> None:
        """Give back what was reserved."""
        self._held[account] -= num_bytes

    def exchange(self, account: Account, num_bytes: int) -> bool:
        """Hold another amount for the life of the process; return whether there is room for it."""
        has_room = num_bytes - self._held[account] <= self.free_bytes
        if has_room:
            self._held[account] = num_bytes
        return has_room

    def accounts(self) -> dict[str, int]:
        """Return the bytes of each account, for ``state``."""
        return {account.value: num_bytes for account, num_bytes in self._held.items()}

    def drift_bytes(self, rss_bytes: int) -> int:
        """Return by how much the measured memory is above the plan: held, and not reserved."""
        # Below 0 is the normal case: the KV cache and the working memory become resident as they
        # are first used.
        return rss_bytes - self.planned_bytes
