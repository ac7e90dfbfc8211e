"""The one account of memory: everything that is held or reserved, inside one budget.

Rule: reserve first, use later, release always. What does not fit is refused here, before a byte of
it is allocated; so the sum of all reservations never exceeds the budget.
"""

from enum import StrEnum

from edged.scheduling.memory_budget import MemoryBudget, MemoryPlan

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
    SESSIONS = "sessions"
    REPLAY = "replay"
    """Replies kept to be sent again."""
    REQUESTS = "requests"
    """Requests that wait and that run."""


class Reservation:
    """Memory that is reserved until it is released."""

    def __init__(self, ledger: "Ledger", account: Account, num_bytes: int) -> None:
        self._ledger = ledger
        self.account = account
        self.num_bytes = num_bytes

    def release(self) -> None:
        """Give it back; twice is once."""
        self._ledger.give_back(self)
        self.num_bytes = 0


class Ledger:
    """Keep account of one budget.

    Args:
        limit_bytes: The budget.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._held = dict.fromkeys(Account, 0)

    @property
    def planned_bytes(self) -> int:
        """All reservations together."""
        return sum(self._held.values())

    @property
    def free_bytes(self) -> int:
        """What can still be reserved; never negative."""
        return self.limit_bytes - self.planned_bytes

    def reserve(self, account: Account, num_bytes: int) -> Reservation | None:
        """Reserve memory; None when the budget has no room for it.

        Raises:
            ValueError: ``num_bytes`` is negative.
        """
        if num_bytes < 0:
            raise ValueError(f"cannot reserve {num_bytes} bytes")
        if num_bytes > self.free_bytes:
            return None
        self._held[account] += num_bytes
        return Reservation(self, account, num_bytes)

    def give_back(self, reservation: Reservation) -> None:
        """Take a reservation off the account; see ``Reservation.release``."""
        self._held[reservation.account] -= reservation.num_bytes

    def accounts(self) -> dict[str, int]:
        """Return the bytes of each account, for ``state``."""
        return {account.value: num_bytes for account, num_bytes in self._held.items()}

    def drift_bytes(self, rss_bytes: int) -> int:
        """Return by how much the measured memory is above the plan: held, and not reserved."""
        # Below 0 is the normal case: the KV cache and the working memory become resident as they
        # are first used.
        return rss_bytes - self.planned_bytes


def open_ledger(budget: MemoryBudget, plan: MemoryPlan | None, replay_bytes: int) -> Ledger:
    """Open the account with what is held for the life of the process.

    Args:
        budget: What may be held; a plan was checked against it before the model was loaded.
        plan: What the model and the process hold; None where that is not known.
        replay_bytes: Replies kept to be sent again, at most.
    """
    ledger = Ledger(budget.limit_bytes)
    fixed = {Account.REPLAY: replay_bytes}
    if plan is not None:
        fixed |= {
            Account.PROCESS: plan.process_bytes,
            Account.WEIGHTS: plan.weights_bytes,
            Account.KV: plan.kv_bytes,
            Account.WORKING: plan.working_bytes,
        }
    for account, num_bytes in fixed.items():
        ledger.reserve(account, min(num_bytes, ledger.free_bytes))
    return ledger
