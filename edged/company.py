"""How long answers take that are made at the same time.

Rule: an upper bound, for any order in which the engine takes up the prompts. It computes one piece
of a prompt and then one token of each answer that is past its prompt, in turn. With every such step
the bounds fall by what the step took at least; so a bound that was inside a deadline stays there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edged.costmodel import Cost

EPSILON_S = 1e-6
"""What sums of many predictions may be off by."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is left of one answer, in tokens."""

    num_prefill: int
    """Tokens of the prompt to compute."""
    num_decode: int
    """Runs of one token after that."""
    context: int = 0
    """Tokens that are computed already."""

    @classmethod
    def of(cls, num_prompt_tokens: int, max_tokens: int) -> "Work":
        """Return the work of a whole answer; its prompt gives the first token."""
        return cls(num_prompt_tokens, max(max_tokens - 1, 0))

    def alone_s(self, cost: Cost) -> float:
        """Predict what it takes without company."""
        return cost.prefill_s(self.num_prefill, self.context) + self.decode_s(cost)

    def decode_s(self, cost: Cost) -> float:
        """Predict its runs of one token, as if nobody else took part in them."""
        return cost.decode_s(self.num_decode, self.context + self.num_prefill)

    def beside_s(self, cost: Cost, num_runs: int) -> float:
        """Predict what it adds to ``num_runs`` runs at most of somebody else.

        Those are taken to be its last ones, with the longest context.
        """
        shared = min(self.num_decode, num_runs)
        end = self.context + self.num_prefill + self.num_decode
        return shared * (cost.decode_row_s + (end - shared / 2) * cost.decode_pair_s)


def together(cost: Cost, works: Sequence[Work]) -> list[float]:
    """Return bounds of when each ends, in seconds from now, without a margin."""
    if len(works) <= 1:  # the usual case: nobody is in anybody's way
        return [work.alone_s(cost) for work in works]
    decodes = [work.decode_s(cost) for work in works]
    prefill_s = sum(cost.prefill_s(work.num_prefill, work.context) for work in works)
    num_pieces = sum(math.ceil(work.num_prefill / cost.chunk_tokens) for work in works)
    num_runs = sum(work.num_decode for work in works)
    # A run is never dearer than the same rows one by one, so all end by the sum of them.
    serial_s = prefill_s + sum(decodes)
    ends = []
    for i, own in enumerate(works):
        # While its prompt is computed, each piece lets the others have a run without it.
        without = num_pieces + 1 if own.num_prefill else 0
        runs_s = min(without, num_runs - own.num_decode) * cost.decode_token_s
        others = (work for j, work in enumerate(works) if j != i)
        company_s = sum(other.beside_s(cost, own.num_decode + without) for other in others)
        ends.append(min(prefill_s + decodes[i] + runs_s + company_s, serial_s))
    return ends


@dataclass(frozen=True, slots=True)
class Member:
    """One answer in company, and when it must have ended."""

    work: Work
    deadline_s: float


class Company:
    """The answers that are made now.

    Args:
        now_s: the moment, on the clock of the deadlines.
        cost: what they cost; predictions are stretched by its margin.
        members: who they are.
    """

    def __init__(self, now_s: float, cost: Cost, members: Sequence[Member] = ()) -> None:
        self.now_s = now_s
        self.cost = cost
        self.members = tuple(members)
        ends = together(cost, [member.work for member in self.members])
        self.ends_s = [cost.margin * end_s for end_s in ends]
        """When each ends, in seconds from now, if nothing ended it at its deadline."""

    @property
    def head_s(self) -> float:
        """When all have ended, at the latest at their deadlines."""
        lefts = (max(member.deadline_s - self.now_s, 0.0) for member in self.members)
        return max(map(min, self.ends_s, lefts), default=0.0)

    def joined(self, member: Member) -> "Company":
        """Return it with one more."""
        return Company(self.now_s, self.cost, [*self.members, member])

    def is_kept_in(self, joined: "Company") -> bool:
        """Tell whether one more, the last of ``joined``, makes nobody late.

        Who is late without it, or the one itself without company, does not count.
        """
        *others, is_last_late = joined.is_late
        if any(
            is_late and not was_late for was_late, is_late in zip(self.is_late, others, strict=True)
        ):
            return False
        last = joined.members[-1]
        return not is_last_late or Company(self.now_s, self.cost, [last]).is_late[0]

    @property
    def is_late(self) -> list[bool]:
        """Whether each ends after its deadline."""
        return [
            self.now_s + end_s > member.deadline_s + EPSILON_S
            for end_s, member in zip(self.ends_s, self.members, strict=True)
        ]
