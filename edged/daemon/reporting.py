"""The node's status: the retained ``info``, ``state`` and availability, and the state files.

Rule: a status that cannot be published or written never stops an answer.
"""

from dataclasses import asdict
from typing import Any

import edged
from edged.daemon.atomic_file import AtomicFile
from edged.daemon.driver import Driver
from edged.daemon.group import Group
from edged.daemon.homeassistant import Announcement, Discovery, status_topic
from edged.daemon.loader import ResidentModel
from edged.daemon.memory import read_shares
from edged.daemon.model_trial import ModelTrial
from edged.daemon.operator_events import MemoryEvents
from edged.daemon.prometheus import exposition
from edged.daemon.wiring import topics_of
from edged.protocol.encode import encode_info, encode_state, to_json
from edged.protocol.request import FormatType
from edged.protocol.wire import Encoded, WireProperties
from edged.transport.events import BrokerProblem

# Values of the availability topic.
ONLINE, OFFLINE = b"online", b"offline"
# Least time between two ``state`` messages that a change causes.
CHANGE_INTERVAL_S = 1.0


def info_members(model: ResidentModel) -> dict[str, Any]:
    """Describe the node: versions, the model, and what requests may ask for."""
    config, bundle = model.config, model.bundle
    return {
        "edged": edged.__version__,
        "model": {
            "name": bundle.manifest.name,
            "id": bundle.model_id,
            "sha256": bundle.sha256,
            "scheme": bundle.manifest.scheme,
            "max_model_len": model.engine.max_model_len,
        },
        "limits": {
            "max_payload_bytes": config.request.max_payload_bytes,
            "max_tokens": config.request.max_tokens,
            "timeout_ms": round(config.request.timeout_s * 1000),
            "max_timeout_ms": round(config.request.max_timeout_s * 1000),
            "queue": config.queue.size,
            "slots": model.engine.num_slots,
            "sessions": config.sessions.count,
            "session_tokens": config.sessions.max_tokens,
            "session_idle_ms": round(config.sessions.idle_s * 1000),
            "corrections": config.state.corrections,
        },
        "group": config.group.name,
        "specialists": model.specialists.info(),
        "formats": [kind.value for kind in FormatType],
        "identity": config.security.identity,
        "insecure_broker": not config.broker.is_local and (config.broker.username is None),
    }


class Reporter:
    """Publish the status when it is due."""

    def __init__(
        self,
        model: ResidentModel,
        driver: Driver,
        trial: ModelTrial,
        group: Group | None = None,
    ) -> None:
        self._config = config = model.config
        self._model = model
        self._node = driver.node
        self._edges = edges = driver.edges
        self._trial = trial
        self._group = group
        self.topics = topics_of(config)
        home = config.homeassistant
        model_name, has_specialists = model.bundle.manifest.name, bool(config.specialists)
        announcement = Announcement(
            self.topics, home.prefix, home.user, model_name, home.ask, has_specialists
        )
        self.discovery = Discovery(announcement, edges.transport, edges.clock, is_on=home.discovery)
        self.status_topic = status_topic(home.prefix)
        self._memory_events = MemoryEvents(edges.operator_events, driver.node.guard)
        self._file = AtomicFile(config.state.file, "state.file")
        path = config.metrics.prometheus_file
        # Another user's program reads it, and it has figures only.
        self._prometheus = AtomicFile(path, "metrics.prometheus_file", is_public=True)
        self._published_s = float("-inf")
        self._published_key: tuple[object, ...] = ()
        self.is_stopping = False
        self.broker_error: str | None = "not connected yet"
        """Why there is no connection: of use in ``state.file`` only, while nothing is published."""
        self.broker_problem: BrokerProblem | None = BrokerProblem.UNREACHABLE
        """The kind of that."""

    def announce(self) -> None:
        """Publish all that is retained, at the start of a connection."""
        transport, info = self._edges.transport, info_members(self._model)
        online = Encoded(self.topics.availability, ONLINE, WireProperties())
        transport.publish(online, qos=1, retain=True)
        transport.publish(encode_info(self.topics, info), qos=1, retain=True)
        self.discovery.announce()
        self.tick(is_forced=True)

    def tick(self, *, is_forced: bool = False) -> None:
        """Publish ``state`` if it is due, or has changed and the last one is a second old."""
        now_s = self._edges.clock()
        is_announced = self.discovery.tick()
        if not (is_forced or is_announced or now_s >= self._next_state_s()):
            return
        self._published_s, self._published_key = now_s, self._key()
        members = self._state_members(now_s)
        self._edges.transport.publish(encode_state(self.topics, members), qos=0, retain=True)
        self._file.write(to_json(members) + b"\n")
        if self._prometheus.path is not None:
            text = exposition(members, self._config.node, self._model.bundle.model_id)
            self._prometheus.write(text.encode())

    def next_tick_s(self) -> float:
        """Return when ``tick`` will next publish, if nothing changes until then."""
        return min(self._next_state_s(), self.discovery.due_s)

    def _next_state_s(self) -> float:
        interval_s = self._config.state.interval_s
        if self._key() != self._published_key:
            interval_s = min(CHANGE_INTERVAL_S, interval_s)
        return self._published_s + interval_s

    def _key(self) -> tuple[object, ...]:
        """Return the part of the state whose change is published without waiting."""
        scheduler, membership = self._node.scheduler, self._group and self._group.membership
        load = len(scheduler), len(scheduler.running), self._node.guard.level
        return self.is_stopping, *load, membership, self.broker_error, self._trial.status

    def _state_members(self, now_s: float) -> dict[str, Any]:
        """Return the node's load, memory, speed and counters; changes of memory are reported."""
        reservation, memory = self._model.memory, self._edges.read_memory()
        missing_bytes = reservation.budget.missing_bytes(memory, 0)
        self._memory_events.update(memory.rss_bytes, missing_bytes)
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
            "broker_problem": self.broker_problem,
            "trial": self._trial.members(),
            "rss_bytes": memory.rss_bytes,
            "available_bytes": memory.available_bytes,
            "budget_bytes": reservation.budget.limit_bytes,
            "budget_enforced": reservation.limits.is_enforced(reservation.budget.limit_bytes),
            **node.guard.members(memory.rss_bytes),
            **read_shares(),
            **asdict(self._edges.read_device()),
            **node.metrics.snapshot(),
            "expected_prefill_tok_s": round(cost.prefill_tok_s, 1),
            "expected_decode_tok_s": round(cost.decode_tok_s, 1),
            "uptime_s": round(now_s - self._model.started_s),
        }
