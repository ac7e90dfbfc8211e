"""The driver of the node: passes it events, and carries out its effects.

Threads. The main thread runs the loop, the node and this driver, and nothing on it may block. Each
other thread does one kind of work that blocks, touches nothing of the node, and puts its results
into the inbox:

- paho's, one per connection: the sockets;
- ``inference``: the engine, except ``Engine.interrupt``, which any thread may call;
- ``prepare``: chat template, tokenizer and grammar of requests, except short plain prompts;
- ``journal``: ``fdatasync``;
- ``corrections``: what is kept of corrections.

The main thread reads the worker's ``progress`` and ``num_touched``, and whether the threads are
alive and busy, without a lock: each is a copy, a number or a flag, and may be a step old.

Rule: decides nothing.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from edged.daemon.corrections_file import CorrectionKeeper
from edged.daemon.journal_file import JournalFile
from edged.daemon.operator_events import OperatorEvents
from edged.daemon.preparer import Preparer
from edged.daemon.worker import Worker
from edged.node.effects import (
    Acknowledge,
    Cancel,
    Decode,
    Effect,
    KeepCorrection,
    Pause,
    Prepare,
    Probe,
    Publish,
    ReleasePrefixCache,
    Report,
    Start,
    SyncJournal,
    WriteJournal,
)
from edged.node.events import Confirmed, Decoded, Prepared, Readings, Synced
from edged.node.node import Event, Node
from edged.node.throttling import DeviceReading
from edged.protocol.decode import decode
from edged.protocol.wire import Delivery, Publisher, RequestDefaults
from edged.scheduling.memory_budget import MemorySnapshot

# How old a reading of the device may be, and one of memory where nothing is decided on.
READING_INTERVAL_S = 1.0
# How old the reading of memory may be with which a request is decided on: a flood of requests reads
# it a hundred times a second, and not once for each.
DECISION_INTERVAL_S = 0.01


@dataclass(frozen=True, slots=True)
class Edges:
    """What carries out the node's effects, and the clock and the readings."""

    transport: Publisher
    worker: Worker
    preparer: Preparer
    journal: JournalFile
    operator_events: OperatorEvents
    clock: Callable[[], float]
    read_memory: Callable[[], MemorySnapshot]
    read_device: Callable[[], DeviceReading] = DeviceReading
    corrections: CorrectionKeeper = field(default_factory=CorrectionKeeper)


class Driver:
    """Drive a node; its deliveries are decoded with ``defaults``."""

    def __init__(
        self,
        node: Node,
        edges: Edges,
        defaults: RequestDefaults,
        decision_interval_s: float = DECISION_INTERVAL_S,
    ) -> None:
        self._decision_interval_s = decision_interval_s
        self.node = node
        self.edges = edges
        self._defaults = defaults
        self._handles: dict[int, int | None] = {}
        """The node's handles of unconfirmed messages, by the transport's."""
        self._memory: MemorySnapshot | None = None
        self._device = DeviceReading()
        self._device_read_s = self._memory_read_s = float("-inf")
        for effect in node.start():
            self._carry_out(effect)

    def take(self, event: Event) -> None:
        """Pass the node an event, and carry out the effects."""
        clock, events = self.edges.clock, deque([event])
        # Once for all that follows at once: a short request is decided on within a millisecond.
        readings = self._readings(event, clock())
        while events:
            for effect in self.node.handle(events.popleft(), clock(), readings):
                answer = self._carry_out(effect)
                if answer is not None:
                    events.append(answer)

    def confirm(self, handle: int, failure: str | None = None) -> bool:
        """Pass the node the confirmation of a reply, or why it failed; False for other messages."""
        reply = self._handles.pop(handle, None)
        if reply is not None:
            self.take(Confirmed(reply, failure))
        return reply is not None

    def _readings(self, event: Event, now_s: float) -> Readings:
        edges = self.edges
        if now_s - self._device_read_s >= READING_INTERVAL_S:
            self._device, self._device_read_s = edges.read_device(), now_s
        is_decision = isinstance(event, Delivery | Prepared)
        max_age_s = self._decision_interval_s if is_decision else READING_INTERVAL_S
        if self._memory is None or now_s - self._memory_read_s >= max_age_s:
            self._memory, self._memory_read_s = edges.read_memory(), now_s
        worker = edges.worker
        return Readings(self._memory, self._device, worker.progress(), worker.num_touched)

    def _carry_out(self, effect: Effect) -> Event | None:
        """Carry out one effect; return the event that follows at once, if one does."""
        edges = self.edges
        match effect:
            case Publish() | Acknowledge():
                self._send(effect)
            case Start() | Pause() | Cancel() | ReleasePrefixCache() | Probe():
                self._direct_worker(effect)
            case Decode():
                return Decoded(decode(effect.delivery, self._defaults, effect.received_s))
            case Prepare():
                return edges.preparer.submit(effect)
            case WriteJournal() | SyncJournal() | KeepCorrection():
                return self._write(effect)
            case Report():
                edges.operator_events.report(effect.event)
        return None

    def _send(self, effect: Publish | Acknowledge) -> None:
        transport = self.edges.transport
        match effect:
            case Acknowledge():
                transport.acknowledge(effect.delivery)
            case Publish(handle=None):
                transport.publish(effect.message, qos=0)
            case Publish():
                self._handles[transport.publish(effect.message, qos=1)] = effect.handle

    def _write(self, effect: WriteJournal | SyncJournal | KeepCorrection) -> Synced | None:
        edges = self.edges
        match effect:
            case WriteJournal():
                edges.journal.write(effect.page, effect.content)
            case SyncJournal() if not edges.journal.sync(effect.key):
                return Synced(effect.key)
            case KeepCorrection():
                edges.corrections.keep(effect)
        return None

    def _direct_worker(self, effect: Start | Pause | Cancel | ReleasePrefixCache | Probe) -> None:
        worker = self.edges.worker
        match effect:
            case Start():
                worker.start(effect.generation)
            case Pause():
                worker.pause(effect.key)
            case Cancel():
                worker.cancel(effect.key)
            case ReleasePrefixCache():
                worker.release()
            case Probe():
                worker.probe()
