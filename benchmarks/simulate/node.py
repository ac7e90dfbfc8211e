"""The daemon's own ``Node`` on simulated time, with a simulated engine.

Rule: no decisions here. Effects of the node are carried out at once, except generations, which take
simulated time.
"""

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from benchmarks.simulate import engine
from benchmarks.simulate.engine import SlotEngine
from benchmarks.simulate.outcome import End, Outcome
from benchmarks.simulate.trace import Ask, Workload
from edged.node.effects import Decode, Effect, Pause, Prepare, Probe, Publish, Start, SyncJournal
from edged.node.events import Confirmed, Decoded, Prepared, Probed, Readings, Synced, Tick
from edged.node.generation import Finished, Generation, Paused
from edged.node.limits import Limits
from edged.node.node import Event
from edged.node.node import Node as PureNode
from edged.protocol.request import Answer, ChatMessage, FinishReason, ReplyAddress, Request
from edged.protocol.wire import Delivery, RequestDefaults, Topics
from edged.scheduling.fair_share import ShareTerms
from edged.scheduling.latency_model import CostEstimate, LatencyModel, RequestTimings
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot

MAX_MODEL_LEN = 2048
MAX_WAITING = 8
_DEFAULTS = RequestDefaults(Topics("edged", "n"))
_BUDGET = MemoryBudget(2**40)
_MEMORY = MemorySnapshot(0, 2**40)
_LATER_S = float("inf")


class _ObservedModel(LatencyModel):
    """A latency model that records its prediction errors."""

    def __init__(self, fitted: CostEstimate) -> None:
        super().__init__(fitted)
        self.errors: list[float] = []

    def observe(self, measured: RequestTimings) -> float | None:
        """Learn from a finished request; return the relative error of its prediction."""
        error = super().observe(measured)
        if error is not None:
            self.errors.append(error)
        return error


class _NoText:
    """A detokenizer of tokens that mean nothing."""

    def push(self, _token_id: int) -> str:
        """Return the text of a token."""
        return ""

    def flush(self) -> str:
        """Return the rest at the end."""
        return ""


class Node:
    """One device with the daemon's own policy.

    Args:
        device: True costs of the device.
        slowdown: Factor of all durations, by time.
        num_slots: Answers in a batch.
        max_waiting: Length of the queue.
        share_terms: How clients share it; by default as in the daemon.
    """

    def __init__(
        self,
        device: CostEstimate,
        slowdown: Callable[[float], float],
        num_slots: int = 1,
        max_waiting: int = MAX_WAITING,
        share_terms: ShareTerms | None = None,
    ) -> None:
        limits = Limits(
            _DEFAULTS,
            _BUDGET,
            MAX_MODEL_LEN,
            0,
            max_waiting,
            "m",
            num_slots,
            share_terms=share_terms or ShareTerms(),
        )
        self.costs = _ObservedModel(device)
        self.outcomes: list[Outcome] = []
        self._node = PureNode(limits, self.costs)
        self._engine = SlotEngine(device, slowdown)
        self._generations: dict[int, Generation] = {}
        self._asks: list[Ask] = []
        """All requests; the index is the payload and the id of the request."""
        self._offered: Ask | None = None
        """The request that is being admitted."""
        self._events: deque[Event] = deque()
        self._now_s = 0.0

    @property
    def errors(self) -> list[float]:
        """Relative errors of predicted service times."""
        return self.costs.errors

    @property
    def backlog(self) -> int:
        """Queued and running requests."""
        return len(self._node.scheduler) + len(self._node.scheduler.running)

    def run_until(self, now_s: float) -> None:
        """Simulate up to a time."""
        while True:
            tick_s = self._node.next_tick_s()
            until_s = min(now_s, _LATER_S if tick_s is None else tick_s)
            if self._engine.sequences and self._engine.now_s < until_s:
                for ended in self._engine.step(until_s):
                    self._finish(ended)
            elif until_s < now_s:
                self._take(Tick(), until_s)
            else:
                return

    def offer(self, ask: Ask) -> bool:
        """Submit a request at ``ask.at_s``; return whether it was admitted."""
        self.run_until(ask.at_s)
        number, num_before = len(self._asks), len(self.outcomes)
        self._asks.append(ask)
        payload = str(number).encode()
        self._offered = ask
        self._take(Delivery("edged/n/request/generate", payload, qos=1), ask.at_s)
        self._offered = None
        ended = self.outcomes[num_before:]
        return not any(outcome.ask is ask and outcome.end is End.REFUSED for outcome in ended)

    def _take(self, event: Event, now_s: float) -> None:
        """Handle an event, and carry out all effects that follow from it at this time."""
        self._events.append(event)
        self._now_s = max(self._now_s, now_s)
        while self._events:
            running = self._engine.sequences
            progress = {it.key: (it.num_prefilled, it.num_done) for it in running}
            readings = Readings(_MEMORY, progress=progress, num_touched=MAX_MODEL_LEN)
            for effect in self._node.handle(self._events.popleft(), self._now_s, readings):
                self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Decode():
                self._events.append(Decoded(self._request(int(effect.delivery.payload))))
            case Prepare():
                number = int(effect.request.reply_to.request_id or 0)
                self._events.append(Prepared(effect.key, range(self._asks[number].prompt_tokens)))
            case SyncJournal():
                self._events.append(Synced(effect.key))
            case Start():
                self._start(effect.generation)
            case Pause():
                self._pause(effect.key)
            case Probe():
                self._events.append(Probed([self._engine.probe(self._now_s)] * 3))
            case Publish() if effect.handle is not None:
                self._end(json.loads(effect.message.payload))
                self._events.append(Confirmed(effect.handle))

    def _request(self, number: int) -> Request:
        ask = self._asks[number]
        return Request(
            ReplyAddress("edged/n/response/generate", str(number), user=ask.client),
            (ChatMessage("user", str(number)),),
            received_s=ask.at_s,
            deadline_s=ask.deadline_s,
            max_tokens=ask.max_tokens,
            priority=ask.level,
        )

    def _start(self, generation: Generation) -> None:
        ask = self._asks[int(generation.request.reply_to.request_id or 0)]
        if not self._engine.sequences:
            self._engine.now_s = max(self._engine.now_s, self._now_s)
        self._generations[generation.key] = generation
        generation.start(_NoText(), self._now_s)
        num_done = generation.num_output_tokens
        wanted = min(ask.output_tokens, generation.max_tokens)
        self._engine.sequences.append(
            engine.Generation(
                generation.key,
                ask,
                ask.prompt_tokens + num_done,
                wanted - num_done,
                num_done,
                first_s=generation.first_token_s,
            )
        )

    def _pause(self, key: int) -> None:
        """Pause after the current step; a second call changes nothing, as in the worker."""
        sequence = next((it for it in self._engine.sequences if it.key == key), None)
        if sequence is None:
            return
        self._engine.end(sequence)
        generation = self._note(sequence)
        generation.was_paused = True
        self._events.append(Paused(generation))

    def _finish(self, sequence: engine.Generation) -> None:
        generation = self._note(sequence)
        del self._generations[sequence.key]
        is_complete = sequence.end is End.ON_TIME
        reason = FinishReason.STOP if is_complete else FinishReason.DEADLINE
        outcome = Answer("", reason) if generation.output_ids else generation.end(reason)
        self._take(Finished(generation, outcome, self._engine.now_s), self._engine.now_s)

    def _note(self, sequence: engine.Generation) -> Generation:
        """Copy the progress of the engine into the node's generation."""
        generation, spent = self._generations[sequence.key], sequence
        generation.output_ids[:] = [0] * sequence.num_done
        generation.first_token_s = sequence.first_s
        generation.spent.prefill_s = spent.prefill_s
        generation.spent.decode_runs = max(spent.num_done - 1, 0)
        generation.spent.decode_s = spent.decode_s
        generation.spent.num_cobatched_tokens = spent.num_cobatched_tokens
        generation.spent.num_cobatched_pairs = round(spent.num_cobatched_pairs)
        return generation

    def _end(self, reply: dict[str, Any]) -> None:
        """Record the outcome of a request from its reply."""
        ask, ttft_s, retry_s = self._asks[int(reply["id"])], None, None
        if reply["status"] == "ok":
            is_complete = reply["data"]["finish_reason"] != FinishReason.DEADLINE.value
            end, ttft_s = End.ON_TIME if is_complete else End.CUT, reply["timing"]["ttft_ms"] / 1000
        else:
            end = End.REFUSED if ask is self._offered else End.EXPIRED
            retry_s = reply["error"].get("retry_after_ms", 0) / 1000 or None
        self.outcomes.append(Outcome(ask, end, self._now_s, ttft_s, retry_s))


def run_edf(workload: Workload, device: CostEstimate, max_waiting: int = MAX_WAITING) -> Node:
    """Run a complete workload on one node."""
    node = Node(device, workload.slowdown, workload.num_slots, max_waiting)
    for ask in workload.asks:
        node.offer(ask)
    node.run_until(_LATER_S)
    return node
