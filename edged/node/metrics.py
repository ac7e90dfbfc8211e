"""What happened since the start, counted: the figures of ``state``.

Rule: bounded memory for ever. Counters are declared here; percentiles look at the latest samples.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from edged.errors import ErrorCode
from edged.protocol.request import Answer, FinishReason, Rejected
from edged.specialists.decider import specialist_answers

# Samples that a percentile looks back on.
WINDOW = 256


class Count(StrEnum):
    """What is counted; the value is its name in ``state``."""

    SERVED = "served"
    """Requests answered, whole or in part."""
    REFUSED = "refused"
    """Requests answered with an error; the parts by code are in ``refused_by_code``."""
    EXPIRED = "expired"
    """Requests whose deadline passed after they were accepted and before their first token."""
    CANCELLED = "cancelled"
    """Requests ended by a cancel, before or after their first token."""
    PAUSED = "paused"
    """Times that an answer was interrupted for a more urgent one."""
    DECIDED = "decided"
    """Decisions that specialists were asked for; a request with questions asks for several."""
    UNSURE = "unsure"
    """Of them, those that are unsure."""
    ESCALATED = "escalated"
    """Of them, those that a specialist was unsure of and another answered."""
    CORRECTIONS = "corrections"
    """Corrections kept."""
    CORRECTIONS_COMPARED = "corrections_compared"
    """Of them, those to a prompt whose answer the node still remembered."""
    CORRECTIONS_AGREED = "corrections_agreed"
    """Of these, those whose right answer was the one given, or the guess of an unsure one."""
    DUPLICATES = "duplicates"
    """Deliveries answered with the reply of an earlier one."""
    DROPPED = "dropped"
    """Deliveries without a reply; the parts by reason are in ``dropped_by_reason``."""
    IGNORED_KEYS = "ignored_keys"
    """Unknown keys in requests."""
    CONNECTS = "connects"
    """Connections made to the broker."""
    LOST_SESSIONS = "lost_sessions"
    """Reconnects after which the broker did not know the session any more."""
    STALE_ACKS = "stale_acks"
    """Acknowledgements not sent because their connection was gone."""
    TAKEN_OVER = "taken_over"
    """Connections lost to another client of the same identifier."""
    CLOSED_SOON = "closed_soon"
    """Connections that the broker closed soon after it accepted them, from the third in a row on;
    another client may have taken the session."""
    UNDELIVERED = "undelivered"
    """Replies that the broker did not take."""
    EVENTS = "events"
    """Events sent."""
    EVENTS_SUPPRESSED = "events_suppressed"
    """Events held back, because there were too many of their kind."""


@dataclass(slots=True)
class RollingSamples:
    """The latest values of one measured quantity."""

    _values: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, value: float | None) -> None:
        """Take in one value; None, and one that is not finite, is left out."""
        if value is not None and math.isfinite(value):
            self._values.append(value)

    def percentile(self, percent: float) -> float | None:
        """Give the nearest-rank percentile, a value that really occurred; None without samples."""
        if not self._values:
            return None
        rank = math.ceil(percent / 100 * len(self._values))
        return sorted(self._values)[max(rank, 1) - 1]


class Metrics:
    """Count and measure; not thread-safe, so it lives where the replies are made."""

    def __init__(self) -> None:
        self._counts: Counter[Count] = Counter()
        self._refused: Counter[ErrorCode] = Counter()
        self._dropped: Counter[str] = Counter()
        self.ttft_s = RollingSamples()
        """From receipt to the first token."""
        self.cost_error = RollingSamples()
        """Relative errors of predicted service times."""
        self._decode_tok_s = RollingSamples()
        self._energy_j: float | None = None

    def count(self, what: Count, number: int = 1) -> None:
        """Count something that has no method of its own below."""
        self._counts[what] += number

    @property
    def served(self) -> int:
        """Requests answered, whole or in part."""
        return self._counts[Count.SERVED]

    def count_dropped(self, reason: str) -> None:
        """Count a delivery that gets no reply; ``reason`` is one of a fixed few."""
        self._counts[Count.DROPPED] += 1
        self._dropped[reason] += 1

    def count_refused(self, code: ErrorCode) -> None:
        """Count a request that was refused before it was let in."""
        self._counts[Count.REFUSED] += 1
        self._refused[code] += 1

    def count_outcome(self, outcome: Answer | Rejected) -> None:
        """Count a request that ran, by how it ended."""
        if isinstance(outcome, Answer):
            self._counts[Count.SERVED] += 1
            if outcome.finish_reason is FinishReason.CANCELLED:
                self._counts[Count.CANCELLED] += 1
            self._count_decisions(outcome)
        elif outcome.code is ErrorCode.CANCELLED:
            self._counts[Count.CANCELLED] += 1
        elif outcome.code is ErrorCode.TIMEOUT:
            self._counts[Count.EXPIRED] += 1
        else:
            self.count_refused(outcome.code)

    def _count_decisions(self, answer: Answer) -> None:
        for part in specialist_answers(answer):
            self._counts[Count.DECIDED] += 1
            self._counts[Count.UNSURE] += part.said.is_unsure
            self._counts[Count.ESCALATED] += part.is_passed_on

    def count_correction(self, *, is_agreed: bool | None) -> None:
        """Count a correction that was kept; ``is_agreed`` is None where nothing is remembered."""
        self._counts[Count.CORRECTIONS] += 1
        self._counts[Count.CORRECTIONS_COMPARED] += is_agreed is not None
        self._counts[Count.CORRECTIONS_AGREED] += bool(is_agreed)

    def observe_decode(self, num_tokens: int, seconds: float) -> None:
        """Take in the tokens after the first one, and the time they took."""
        if num_tokens > 0 and seconds > 0:
            self._decode_tok_s.add(num_tokens / seconds)

    def count_energy(self, joules: float) -> None:
        """Take in the energy of one request."""
        self._energy_j = (self._energy_j or 0.0) + joules

    def snapshot(self) -> dict[str, Any]:
        """Give all figures as members of the ``state`` message; unmeasured ones are None."""
        return {
            **{str(what): self._counts[what] for what in Count},
            "refused_by_code": {str(code): n for code, n in sorted(self._refused.items())},
            "dropped_by_reason": dict(sorted(self._dropped.items())),
            "unsure_share": self._share(Count.UNSURE, Count.DECIDED),
            "agreement_share": self._share(Count.CORRECTIONS_AGREED, Count.CORRECTIONS_COMPARED),
            "ttft_p50_s": _rounded(self.ttft_s.percentile(50)),
            "ttft_p95_s": _rounded(self.ttft_s.percentile(95)),
            "decode_tok_s": _rounded(self._decode_tok_s.percentile(50)),
            "energy_j": _rounded(self._energy_j),
            "prediction_error_p50": _rounded(self.cost_error.percentile(50)),
            "prediction_error_p95": _rounded(self.cost_error.percentile(95)),
        }

    def _share(self, part: Count, whole: Count) -> float | None:
        total = self._counts[whole]
        return _rounded(self._counts[part] / total) if total else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
