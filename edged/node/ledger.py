"""The one account of memory: everything that is held or reserved, inside one budget.

Rule: reserve first, use later, release always. What does not fit is refused here, before a byte of
it is allocated; so the sum of all reservations never exceeds the budget.
"""

from collections.abc import Mapping
from enum import StrEnum

# Replies kept to be sent again, at most.
REPLAY_BYTES = 256 * 1024
# Deliveries that wait to be taken in.
ARRIVAL_BYTES = 1024 * 1024
# Of one request: deliveries of the same request that wait for its reply. They have no place in the
# queue, so without a bound of their own a flood of them would take memory until the request ends.
MAX_DUPLICATES = 64
# A delivery of which only the receipt is kept, and a reply that the broker has not confirmed, each
# with the longest topics and Correlation Data.
_RECEIPT_BYTES, _REPLY_BYTES = 1280, 4096
# Unconfirmed replies that are planned for: a broker that delivers beyond the Receive Maximum, as
# Mosquitto 2.0.11 does, may cause more.
MAX_UNCONFIRMED = 256
# A text has one width for all of its characters, up to this; a token id is an object in a list.
_CHARACTER_BYTES, _TOKEN_BYTES = 4, 40
# Its records, grammar state and the answer so far.
_RECORD_BYTES = 16 * 1024


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
    """Requests that are admitted."""
    DELIVERIES = "deliveries"
    """Deliveries that wait, for a place or for the reply, and replies that are not confirmed."""


def text_bytes(max_payload_bytes: int) -> int:
    """Return what a request that waits to be prepared holds, with its duplicates."""
    return _CHARACTER_BYTES * max_payload_bytes + MAX_DUPLICATES * _RECEIPT_BYTES


def request_bytes(max_payload_bytes: int, max_model_len: int) -> int:
    """Return what a request that is admitted holds: the same, its token ids and its answer."""
    return text_bytes(max_payload_bytes) + _TOKEN_BYTES * max_model_len + _RECORD_BYTES


def deliveries_bytes(max_payload_bytes: int, max_requests: int) -> int:
    """Return what deliveries hold beside the requests that are admitted; so many wait to be."""
    unconfirmed_bytes = MAX_UNCONFIRMED * _REPLY_BYTES
    return ARRIVAL_BYTES + unconfirmed_bytes + max_requests * text_bytes(max_payload_bytes)


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
