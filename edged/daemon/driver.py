"""The driver of the node: gives it events, and carries out what it decides.

Rule: on the main thread only, and nothing here blocks; decides nothing.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edged.daemon.journal_file import JournalFile
from edged.daemon.operator_events import OperatorEvents
from edged.daemon.preparer import Preparer
from edged.daemon.worker import Worker
from edged.node.effects import (
    Acknowledge,
    Cancel,
    Decode,
    Effect,
    Pause,
    Prepare,
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
from edged.protocol import Publisher, RequestDefaults, decode
from edged.scheduling.memory_budget import MemorySnapshot

# How old a reading of the device may be, and one of memory when nothing is decided on.
READING_INTERVAL_S = 1.0
# How old the reading of memory with which a request was prepared may be when it is admitted.
DECISION_INTERVAL_S = 0.01


@dataclass(frozen=True, slots=True)
class Edges:
    """What the node acts through."""

    transport: Publisher
    worker: Worker
    preparer: Preparer
    journal: JournalFile
    operator_events: OperatorEvents
    clock: Callable[[], float]
    read_memory: Callable[[], MemorySnapshot]
    read_device: Callable[[], DeviceReading] = DeviceReading


class Driver:
    """Drive a node.

    Args:
        node: What decides.
        edges: What acts.
        defaults: How deliveries are decoded.
    """

    def __init__(self, node: Node, edges: Edges, defaults: RequestDefaults) -> None:
        self._node = node
        self._edges = edges
        self._defaults = defaults
        self._handles: dict[int, int | None] = {}
        """The node's handles of messages on their way, by the transport's."""
        self._memory: MemorySnapshot | None = None
        self._device = DeviceReading()
        self._device_read_s = self._memory_read_s = float("-inf")
        for effect in node.start():
            self._carry_out(effect)

    def take(self, event: Event) -> None:
        """Give the node an event, and carry out all that follows from it now."""
        events: deque[Event] = deque([event])
        while events:
            event, now_s = events.popleft(), self._edges.clock()
            for effect in self._node.handle(event, now_s, self._readings(event, now_s)):
                answer = self._carry_out(effect)
                if answer is not None:
                    events.append(answer)

    def confirm(self, handle: int, failure: str | None = None) -> bool:
        """Note that a message is with the broker, or never will be.

        Args:
            handle: The transport's.
            failure: Why the broker will never have it.

        Returns:
            Whether it was a reply.
        """
        reply = self._handles.pop(handle, None)
        if reply is not None:
            self.take(Confirmed(reply, failure))
        return reply is not None

    def _readings(self, event: Event, now_s: float) -> Readings:
        edges = self._edges
        if now_s - self._device_read_s >= READING_INTERVAL_S:
            self._device, self._device_read_s = edges.read_device(), now_s
        # Each request is decided on with a reading of its own, which a short preparation outlives.
        ages_s = {Decoded: 0.0, Prepared: DECISION_INTERVAL_S}
        max_age_s = ages_s.get(type(event), READING_INTERVAL_S)
        if self._memory is None or now_s - self._memory_read_s >= max_age_s:
            self._memory, self._memory_read_s = edges.read_memory(), now_s
        worker = edges.worker
        return Readings(self._memory, self._device, worker.progress(), worker.num_touched)

    def _carry_out(self, effect: Effect) -> Event | None:
        """Carry out one effect; return the event that answers it at once, if one does."""
        edges = self._edges
        match effect:
            case Publish() | Acknowledge():
                self._send(effect)
            case Start() | Pause() | Cancel() | ReleasePrefixCache():
                self._direct_worker(effect)
            case Decode():
                return Decoded(decode(effect.delivery, self._defaults, effect.received_s))
            case Prepare():
                return edges.preparer.submit(effect)
            case WriteJournal():
                edges.journal.write(effect.page, effect.content)
            case SyncJournal():
                return None if edges.journal.sync(effect.key) else Synced(effect.key)
            case Report():
                edges.operator_events.report(effect.event)
        return None

    def _send(self, effect: Publish | Acknowledge) -> None:
        transport = self._edges.transport
        match effect:
            case Acknowledge():
                transport.acknowledge(effect.delivery)
            case Publish(handle=None):
                transport.publish(effect.message, qos=0)
            case Publish():
                self._handles[transport.publish(effect.message, qos=1)] = effect.handle

    def _direct_worker(self, effect: Start | Pause | Cancel | ReleasePrefixCache) -> None:
        worker = self._edges.worker
        match effect:
            case Start():
                worker.start(effect.generation)
            case Pause():
                worker.pause(effect.key)
            case Cancel():
                worker.cancel(effect.key)
            case ReleasePrefixCache():
                worker.release()
