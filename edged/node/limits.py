"""What holds for the life of the process."""

from dataclasses import dataclass, field

from edged.node.sessions import SessionLimits
from edged.protocol.escalation import EscalationTarget
from edged.protocol.wire import RequestDefaults
from edged.scheduling.fair_share import ShareTerms
from edged.scheduling.memory_budget import MemoryBudget, MemoryPlan


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults, budgets and bounds of a node."""

    defaults: RequestDefaults
    budget: MemoryBudget
    max_model_len: int
    kv_bytes_per_token: int
    """Memory that the KV cache takes for a position once it has been used."""
    max_waiting: int
    model_id: str
    num_slots: int = 1
    """Answers that are generated at the same time."""
    share_terms: ShareTerms = field(default_factory=ShareTerms)
    plan: MemoryPlan | None = None
    """What the process holds all the time."""
    sessions: SessionLimits = field(default_factory=SessionLimits)
    escalation: EscalationTarget | None = None
    """Whom it asks what its specialists are unsure of."""
    max_temperature_c: float | None = None
    """Background work is held back above it, and below ``min_battery``; None is no limit."""
    min_battery: float | None = None
    """Charge from 0 to 1; counts while the device does not run on mains."""
