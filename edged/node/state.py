"""What the parts of the node share: queue, journal, sessions, memory, and the event in hand."""

from typing import TYPE_CHECKING

from edged.node.crash_journal import CrashJournal
from edged.node.effects import Effect
from edged.node.events import Readings
from edged.node.limits import Limits
from edged.node.memory_guard import MemoryGuard
from edged.node.metrics import Metrics
from edged.node.sessions import Sessions
from edged.scheduling.latency_model import CostEstimate, LatencyModel
from edged.scheduling.memory_budget import MemorySnapshot
from edged.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from edged.node.request_state import RequestState


class NodeState:
    """The state of a node, and the effects of the event in hand.

    Args:
        limits: Defaults, budgets and bounds.
        latency_model: What answers take on this device.
        journal_pages: What the process before left in the crash journal; None keeps none.
    """

    def __init__(
        self, limits: Limits, latency_model: LatencyModel, journal_pages: tuple[bytes, bytes] | None
    ) -> None:
        self._effects: list[Effect] = []
        self.now_s = 0.0
        """The time of the event in hand."""
        self.readings = Readings(MemorySnapshot(0, 0))
        """What was measured for it."""
        self.is_draining = False
        self.limits = limits
        self.latency_model = latency_model
        self.metrics = Metrics()
        self.scheduler: Scheduler[RequestState] = Scheduler(
            limits.max_waiting, limits.num_slots, limits.share_terms
        )
        self.journal = CrashJournal(journal_pages, self.emit)
        self.sessions = Sessions(limits.sessions)
        self.guard = MemoryGuard(limits, self.sessions, self.emit)

    @property
    def cost(self) -> CostEstimate:
        """The current estimate of the latency model."""
        return self.latency_model.current

    def emit(self, effect: Effect) -> None:
        """Add an effect of the event in hand."""
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """Return the effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects
