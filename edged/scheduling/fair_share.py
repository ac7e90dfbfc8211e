"""Fair shares: what clients have been promised, in engine time, and what that leaves to each.

Each promise raises its client's level by its time over the client's weight; the client at the
lowest level was served least (virtual token counters: Sheng et al., Fairness in Serving Large
Language Models, OSDI 2024). There, levels order a queue. Here nothing that was promised is ever
revoked, so they decide as well what may be promised.

An account is one client. All senders without an account are one client together, of weight 1, which
their reply topics share evenly: anybody can make up such names. Names that come and go take nothing
from those that stay: a name is told apart from its second request on, and the first requests of all
names are paid for by one client, the newcomers. Where the broker vouches for accounts nobody makes
them up: each pays for its first request.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from edged.protocol.request import Client

# A client counts as active for so long after its last request, even a refused one.
ACTIVE_S = 300.0
# Names of each kind that are told apart, and as many that asked once.
MAX_NAMES = 128
# Accounts that are told apart where the broker vouches for them.
MAX_ACCOUNTS = 512
# The part of the device that is kept at most for active clients without promises: with many of
# them each is entitled to less than a request, and they do not all ask at the same time.
MAX_KEPT = 0.5
# By so much at most a client was promised less than the mean: one whose requests never fit, however
# little was promised to it, keeps time from the others only until they are that far ahead.
MAX_CREDIT_S = 10.0
# So much longer than the requests of a client before may its next one be.
_GROWTH = 1.25
# Of the longest of these so much is left with each further one.
_FADE = 0.9
_NEWCOMERS = (Client(""), Client(None))


@dataclass(frozen=True, slots=True)
class ShareTerms:
    """How clients share the device."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Of accounts; any other has 1."""
    lend_s: float = 2.0
    """Work that ends within so many seconds may be promised beyond a share."""
    is_identity_required: bool = False
    """Whether the broker vouches for the account of each request."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a client may be promised that asks now, as parts of the device."""

    own: float
    """For all its promises together."""
    kept: float
    """Kept for others, which have been promised less and wait for it."""
    longest_s: float
    """The longest request to be expected of these."""
    is_least: bool
    """Whether no client without promises was promised less before."""
    is_lowest: bool
    """Whether no other active client at all was."""


@dataclass(slots=True)
class _Served:
    level_s: float
    asked_s: float
    wanted_s: float = 0.0
    """Its longest request lately."""


class _Names:
    """The names of one kind: those told apart, and those that asked once.

    Args:
        newcomers: pays for all other requests.
        are_certain: whether nobody can make names up.
    """

    def __init__(self, newcomers: Client, *, are_certain: bool = False) -> None:
        self._newcomers = newcomers
        self._are_certain = are_certain
        self._max_names = MAX_ACCOUNTS if are_certain else MAX_NAMES
        self._seen: dict[Client, None] = {}
        self.known: dict[Client, _Served] = {}
        """The one silent for longest first."""

    def payer(self, client: Client, now_s: float, *, is_listed: bool) -> Client:
        """Return who pays for a request: its client, or the newcomers."""
        if client in self.known or is_listed:
            return client
        is_told_apart = self._are_certain or client in self._seen
        self._seen.pop(client, None)
        if is_told_apart and self._has_room(now_s):
            return client
        self._seen[client] = None
        if len(self._seen) > MAX_NAMES:
            del self._seen[next(iter(self._seen))]
        return self._newcomers

    def _has_room(self, now_s: float) -> bool:
        """Make room for a name, but never in place of one that is active."""
        if len(self.known) < self._max_names:
            return True
        silent = next(iter(self.known))
        if now_s - self.known[silent].asked_s < ACTIVE_S:
            return False
        del self.known[silent]
        return True


class FairShare:
    """Divide engine time among the active clients by their weights.

    Args:
        weights: of accounts; any other has 1.
        is_identity_required: whether the broker vouches for the account of each request.
    """

    def __init__(self, weights: Mapping[str, float], *, is_identity_required: bool = False) -> None:
        self._weights = weights
        account, topic = _NEWCOMERS
        self._accounts = _Names(account, are_certain=is_identity_required)
        self._topics = _Names(topic)

    def restart(self) -> None:
        """Forget who was promised how much: nobody has a promise any more."""
        for served in (*self._accounts.known.values(), *self._topics.known.values()):
            served.level_s = 0.0

    def ask(self, client: Client, waiting_s: Mapping[Client, float], now_s: float) -> Client:
        """Note a request, and return whose share it counts against.

        Args:
            client: who asks.
            waiting_s: by how much what waits has raised the levels of its clients.
            now_s: current time.
        """
        names = self._names_of(client)
        payer = names.payer(client, now_s, is_listed=client.user in self._weights)
        active = self._active(now_s)
        served = names.known.pop(payer, None) or _Served(0.0, now_s)
        if payer not in active:  # who was silent has no credit for it
            levels_s = (it.level_s - waiting_s.get(other, 0.0) for other, it in active.items())
            served.level_s = max(min(levels_s, default=0.0), served.level_s)
        served.asked_s = now_s
        names.known[payer] = active[payer] = served
        weights = {other: self._weight(other, active) for other in active}
        sum_s = sum(weights[other] * it.level_s for other, it in active.items())
        least_s = sum_s / sum(weights.values()) - MAX_CREDIT_S
        for it in active.values():
            it.level_s = max(it.level_s, least_s)
        return payer

    def want(self, payer: Client, work_s: float) -> None:
        """Note how long a request of a client takes."""
        served = self._names_of(payer).known.get(payer)
        if served is not None:
            served.wanted_s = max(work_s, _FADE * served.wanted_s)

    def charge(self, payer: Client, work_s: float, now_s: float) -> float:
        """Raise the level of a client that is promised so much engine time; return by how much."""
        rise_s = work_s / self._weight(payer, self._active(now_s))
        served = self._names_of(payer).known.get(payer)
        if served is not None:
            served.level_s += rise_s
        return rise_s

    def level_s(self, payer: Client) -> float:
        """Return the level of a client; 0 for one that was forgotten."""
        served = self._names_of(payer).known.get(payer)
        return 0.0 if served is None else served.level_s

    def part(
        self,
        payer: Client,
        owed: Collection[Client],
        waiting_s: Mapping[Client, float],
        now_s: float,
        *,
        is_last: bool = False,
    ) -> Part:
        """Return the part of a client that asks now.

        Args:
            payer: the client.
            owed: all that have promises.
            waiting_s: of the clients whose promises are to be kept before any of its own, the
                longest one.
            now_s: current time.
            is_last: whether it ranks after all others, whatever it was promised.
        """
        active = self._active(now_s)
        level_s = active.setdefault(payer, _Served(self.level_s(payer), now_s)).level_s
        level_s = math.inf if is_last else level_s
        idle = active.keys() - {payer, *owed}
        for newcomers in idle.intersection(_NEWCOMERS):  # nobody in particular
            del active[newcomers]
        weights = {client: self._weight(client, active) for client in active}
        total = sum(weights.values())
        behind_s = {
            client: it.wanted_s
            for client, it in active.items()
            if client in idle and it.wanted_s and it.level_s < level_s
        }
        kept_s = behind_s | {client: waiting_s[client] for client in active if client in waiting_s}
        others_s = (it.level_s for client, it in active.items() if client != payer)
        return Part(
            own=weights[payer] / total,
            kept=min(sum(weights[client] for client in kept_s) / total, MAX_KEPT),
            longest_s=_GROWTH * max(kept_s.values(), default=0.0),
            is_least=not behind_s,
            is_lowest=level_s <= min(others_s, default=math.inf),
        )

    def _names_of(self, client: Client) -> _Names:
        return self._topics if client.user is None else self._accounts

    def _active(self, now_s: float) -> dict[Client, _Served]:
        known = self._accounts.known | self._topics.known
        return {client: it for client, it in known.items() if now_s - it.asked_s < ACTIVE_S}

    def _weight(self, client: Client, active: Collection[Client]) -> float:
        if client.user is not None:
            return self._weights.get(client.user, 1.0)
        return 1.0 / max(sum(other.user is None for other in active), 1)
