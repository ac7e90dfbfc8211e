"""What a node says of itself: the retained ``info`` and ``state``, and the state file.

Rule: telling must never stop answering; a state file that cannot be written is a log line.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import edged
from edged.config import Config
from edged.daemon.atomic_file import AtomicFile
from edged.daemon.driver import Edges
from edged.daemon.group import Group
from edged.daemon.homeassistant import STATUS_ONLINE, Announcement
from edged.daemon.loader import ResidentModel
from edged.daemon.memory import read_shares
from edged.daemon.operator_events import OperatorEvents
from edged.daemon.prometheus import PrometheusFile
from edged.node.memory_guard import MemoryGuard
from edged.node.node import Node
from edged.node.pressure import PressureLevel
from edged.protocol import (
    Delivery,
    Encoded,
    Publisher,
    Topics,
    WireProperties,
    encode_info,
    encode_state,
)
from edged.protocol.encode import to_json
from edged.protocol.event import (
    MemoryRecovered,
    MemoryShort,
    MemoryUnplanned,
    PressureChanged,
)
from edged.protocol.request import FormatType

_LOG = logging.getLogger(__name__)

# Home Assistant's start is answered after a random part of this, not by a whole fleet at once.
MAX_DELAY_S = 3.0


class Discovery:
    """Keep a node announced, or not announced.

    Args:
        announcement: What is announced.
        is_on: Whether it is; else an earlier announcement is taken back, once.
        publisher: Where it is published.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        announcement: Announcement,
        publisher: Publisher,
        clock: Callable[[], float],
        *,
        is_on: bool,
    ) -> None:
        self._announcement = announcement
        self._publisher = publisher
        self._clock = clock
        self._is_on = is_on
        self._is_removed = False
        self._due_s = float("inf")
        self._random = random.SystemRandom()

    def announce(self) -> None:
        """Publish the announcement, or take it back."""
        self._due_s = float("inf")
        if self._is_on:
            self._publisher.publish(self._announcement.message(), qos=1, retain=True)
        elif not self._is_removed:
            self._is_removed = True
            self._publisher.publish(self._announcement.removal(), qos=1, retain=True)

    def take(self, delivery: Delivery) -> None:
        """Take in Home Assistant's status."""
        self._publisher.acknowledge(delivery)
        if delivery.payload == STATUS_ONLINE and self._is_on:
            _LOG.info("Home Assistant has started; the node is announced again")
            self._due_s = self._clock() + self._random.uniform(0, MAX_DELAY_S)

    def next_tick_s(self) -> float:
        """Return when ``tick`` will announce again."""
        return self._due_s

    def tick(self) -> bool:
        """Announce again if it is time; tell whether it was."""
        is_due = self._clock() >= self._due_s
        if is_due:
            self.announce()
        return is_due


# Of the budget: resident memory above the ledger's that is worth an event …
UNPLANNED_SHARE = 0.05
# … and that below which it is over.
PLANNED_SHARE = 0.03


class MemoryAlarms:
    """Compare each look at memory with the one before.

    Args:
        operator_events: Where it is reported.
        guard: The ledger and the ladder.
    """

    def __init__(self, operator_events: OperatorEvents, guard: MemoryGuard) -> None:
        self._operator_events = operator_events
        self._guard = guard
        self._is_short = False
        self._is_unplanned = False
        self._level = PressureLevel.CALM

    def look(self, rss_bytes: int, missing_bytes: int) -> None:
        """Tell what has changed.

        Args:
            rss_bytes: Resident memory of the process.
            missing_bytes: How far memory is over the budget, or below what the device must keep.
        """
        is_short = missing_bytes > 0
        if is_short != self._is_short:
            self._operator_events.report(
                MemoryShort(missing_bytes) if is_short else MemoryRecovered()
            )
        self._is_short = is_short
        if self._guard.level is not self._level:
            self._level = self._guard.level
            self._operator_events.report(PressureChanged(self._level.name.lower()))
        self._look_for_unplanned(rss_bytes)

    def _look_for_unplanned(self, rss_bytes: int) -> None:
        ledger = self._guard.ledger
        drift_bytes = ledger.drift_bytes(rss_bytes)
        if self._is_unplanned:
            self._is_unplanned = drift_bytes > PLANNED_SHARE * ledger.limit_bytes
        elif drift_bytes > UNPLANNED_SHARE * ledger.limit_bytes:
            self._is_unplanned = True
            self._operator_events.report(MemoryUnplanned(drift_bytes))


# Values of the availability topic.
ONLINE, OFFLINE = b"online", b"offline"
# Least time between two ``state`` messages that a change causes.
CHANGE_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Identity:
    """What does not change while the process lives."""

    config: Config
    model: ResidentModel

    @property
    def topics(self) -> Topics:
        """The topics of this node."""
        return Topics(self.config.prefix, self.config.node, self.config.group.name)

    @property
    def announcement(self) -> Announcement:
        """What Home Assistant is told."""
        settings = self.config.homeassistant
        model = self.model.bundle.manifest.name
        return Announcement(self.topics, settings.prefix, model, settings.ask)


def info_members(identity: Identity) -> dict[str, Any]:
    """Describe the node: versions, the model, and what requests may ask for."""
    config, bundle = identity.config, identity.model.bundle
    is_local = config.broker.host in ("localhost", "127.0.0.1", "::1")
    return {
        "edged": edged.__version__,
        "model": {
            "name": bundle.manifest.name,
            "id": bundle.model_id,
            "sha256": bundle.sha256,
            "scheme": bundle.manifest.scheme,
            "max_model_len": identity.model.engine.max_model_len,
        },
        "limits": {
            "max_payload_bytes": config.request.max_payload_bytes,
            "max_tokens": config.request.max_tokens,
            "timeout_ms": round(config.request.timeout_s * 1000),
            "max_timeout_ms": round(config.request.max_timeout_s * 1000),
            "queue": config.queue.size,
            "slots": identity.model.engine.num_slots,
            "sessions": config.sessions.count,
            "session_tokens": config.sessions.max_tokens,
            "session_idle_ms": round(config.sessions.idle_s * 1000),
        },
        "group": config.group.name,
        "formats": [kind.value for kind in FormatType],
        "insecure_broker": not is_local and (config.broker.username is None),
    }


class Reporter:
    """Publish ``info`` and ``state`` when they are due.

    Args:
        identity: What does not change.
        node: Queue, memory and counters.
        edges: The transport, the clock and memory.
        group: The node's part in a group, if it has one.
    """

    def __init__(
        self, identity: Identity, node: Node, edges: Edges, group: Group | None = None
    ) -> None:
        self._identity = identity
        self._group = group
        self._alarms = MemoryAlarms(edges.operator_events, node.guard)
        self._discovery = Discovery(
            identity.announcement,
            edges.transport,
            edges.clock,
            is_on=identity.config.homeassistant.discovery,
        )
        self._node = node
        self._edges = edges
        self._file = AtomicFile(identity.config.state.file, "state.file")
        self._prometheus = PrometheusFile(
            identity.config.metrics.prometheus_file,
            identity.config.node,
            identity.model.bundle.model_id,
        )
        self._published_s = float("-inf")
        self._published_key: tuple[Any, ...] = ()
        self.is_stopping = False
        self.broker_error: str | None = "not connected yet"
        """Why there is no connection; who has no broker reads it in ``state.file``."""

    def announce(self) -> None:
        """Publish all that is retained, at the start of a connection."""
        transport, topics = self._edges.transport, self._identity.topics
        online = Encoded(topics.availability, ONLINE, WireProperties())
        transport.publish(online, qos=1, retain=True)
        transport.publish(encode_info(topics, info_members(self._identity)), qos=1, retain=True)
        self._discovery.announce()
        self.tick(is_forced=True)

    @property
    def status_topic(self) -> str:
        """The topic on which Home Assistant says that it has started."""
        return self._identity.announcement.status_topic

    def take_status(self, delivery: Delivery) -> None:
        """Take in Home Assistant's status: it has started, and needs the announcement again."""
        self._discovery.take(delivery)

    def tick(self, *, is_forced: bool = False) -> None:
        """Publish ``state`` if it is due, or has changed and the last one is a second old."""
        now_s = self._edges.clock()
        is_announced = self._discovery.tick()
        if is_forced or is_announced or now_s >= self._next_state_s():
            self._published_s, self._published_key = now_s, self._key()
            members = self.state_members(now_s)
            self._edges.transport.publish(
                encode_state(self._identity.topics, members), qos=0, retain=True
            )
            self._file.write(to_json(members) + b"\n")
            self._prometheus.write(members)

    def next_tick_s(self) -> float:
        """Return when ``tick`` will next publish, if nothing changes until then."""
        return min(self._next_state_s(), self._discovery.next_tick_s())

    def _next_state_s(self) -> float:
        is_changed = self._key() != self._published_key
        interval_s = self._identity.config.state.interval_s
        return self._published_s + (
            min(CHANGE_INTERVAL_S, interval_s) if is_changed else interval_s
        )

    def _key(self) -> tuple[Any, ...]:
        membership = self._group and self._group.membership
        scheduler, error = self._node.scheduler, self.broker_error
        load = len(scheduler), len(scheduler.running), self._node.guard.level
        return self.is_stopping, *load, membership, error

    def state_members(self, now_s: float) -> dict[str, Any]:
        """Give the node's load, memory, speed and counters."""
        memory, budget = self._edges.read_memory(), self._identity.model.footprint.budget
        missing_bytes = budget.missing_bytes(memory, 0)
        self._alarms.look(memory.rss_bytes, missing_bytes)
        name = "stopping" if self.is_stopping else "degraded" if missing_bytes else "ready"
        node, cost = self._node, self._node.latency_model.current
        return {
            "state": name,
            "queue": len(node.scheduler),
            "running": len(node.scheduler.running),
            "slots": node.scheduler.num_slots,
            "sessions": node.num_sessions(now_s),
            "group": self._group and str(self._group.membership),
            "broker_error": self.broker_error,
            "rss_bytes": memory.rss_bytes,
            "available_bytes": memory.available_bytes,
            "budget_bytes": budget.limit_bytes,
            "budget_enforced": self._identity.model.footprint.is_enforced,
            **node.guard.members(memory.rss_bytes),
            **read_shares().members(),
            **self._edges.read_device().members(),
            **node.metrics.snapshot(),
            "expected_prefill_tok_s": round(cost.prefill_tok_s, 1),
            "expected_decode_tok_s": round(cost.decode_tok_s, 1),
            "uptime_s": round(now_s - self._identity.model.started_s),
        }
