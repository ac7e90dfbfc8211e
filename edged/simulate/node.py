"""A node as the daemon runs it: the real admission, scheduler and cost model, on simulated time.

Rule: everything that decides is imported from the core; here is only what the engine would do.
"""

from dataclasses import dataclass

from edged.admission import MemoryBudget, MemorySnapshot, Resources, admit
from edged.costmodel import Cost, CostModel, Measured
from edged.request import ChatMessage, Priority, Rejected, ReplyAddress, Request
from edged.scheduler import Entry, Scheduler
from edged.simulate.outcome import End, Outcome
from edged.simulate.trace import Ask, Workload

MAX_MODEL_LEN = 2048
MAX_WAITING = 8
_MEMORY = MemorySnapshot(0, 2**40)
_BUDGET = MemoryBudget(2**40)


@dataclass(slots=True)
class _Running:
    """What the engine does: prefill until ``first_s``, then tokens to ``end_s``."""

    entry: Entry[Ask]
    start_s: float
    first_s: float
    end_s: float
    end: End
    factor: float


class Node:
    """One device with the daemon's own policy.

    Args:
        device: what answers really cost.
        workload: how the device slows down.
        max_waiting: length of the queue.
    """

    def __init__(self, device: Cost, workload: Workload, max_waiting: int = MAX_WAITING) -> None:
        self._device = device
        self._slowdown = workload.slowdown
        self.costs = CostModel(device)
        self.scheduler: Scheduler[Ask] = Scheduler(max_waiting)
        self.outcomes: list[Outcome] = []
        self.errors: list[float] = []
        """Relative errors of predicted service times."""
        self.num_pauses = 0
        self._running: _Running | None = None
        self._first_s: dict[int, float] = {}
        self._next_key = 0

    @property
    def backlog(self) -> int:
        """Requests that wait or run."""
        return len(self.scheduler) + (self._running is not None)

    def next_event_s(self) -> float | None:
        """Return when something happens by itself; None while nothing will."""
        if self._running is not None:
            return self._running.end_s
        return self.scheduler.next_deadline_s(self.costs.current)

    def run_until(self, now_s: float) -> None:
        """Let everything happen up to a time."""
        while (event_s := self.next_event_s()) is not None and event_s <= now_s:
            if self._running is not None:
                self._finish(self._running)
            self._tick(event_s)

    def offer(self, ask: Ask) -> Rejected | None:
        """Ask at ``ask.at_s``; a refusal is an outcome, too."""
        self.run_until(ask.at_s)
        if self._running is not None:
            self._note_progress(self._running, ask.at_s)
        refusal = self._enqueue(ask)
        if refusal is not None:
            self.outcomes.append(Outcome(ask, End.REFUSED, ask.at_s))
        self._tick(ask.at_s)
        return refusal

    def _enqueue(self, ask: Ask) -> Rejected | None:
        request, now_s, cost = _request(ask), ask.at_s, self.costs.current
        if self.scheduler.join(request, ask):
            return None
        resources = Resources(MAX_MODEL_LEN, cost, _MEMORY, _BUDGET)
        timetable = self.scheduler.timetable(request, cost, now_s)
        decision = admit(request, ask.prompt_tokens, resources, timetable)
        if isinstance(decision, Rejected):
            return decision
        self._next_key += 1
        return self.scheduler.add(Entry(self._next_key, decision, (), ask, now_s), cost, now_s)

    def _tick(self, now_s: float) -> None:
        cost = self.costs.current
        for entry in self.scheduler.expire(now_s, cost):
            has_text = entry.num_done > 0
            self._end(entry, End.CUT if has_text else End.EXPIRED, now_s)
        if self._running is None:
            entry_or_none = self.scheduler.pop(now_s, cost)
            if entry_or_none is not None:
                self._start(entry_or_none, now_s)
        else:
            self._note_progress(self._running, now_s)
            if self.scheduler.to_pause(now_s, cost) is not None:
                self._pause(self._running, now_s)

    def _note_progress(self, running: _Running, now_s: float) -> None:
        entry = running.entry
        context = entry.admitted.num_prompt_tokens + entry.num_before
        seconds = (now_s - running.start_s) / running.factor
        num_new = self._device.tokens_within(seconds, context)
        num_done = min(entry.num_before + num_new, entry.admitted.max_tokens)
        entry.note_progress(context if num_new else 0, num_done)

    def _start(self, entry: Entry[Ask], now_s: float) -> None:
        ask, done = entry.delivery, entry.num_done
        factor = ask.noise * self._slowdown(now_s)
        context = ask.prompt_tokens + done
        wanted = min(ask.output_tokens, entry.admitted.max_tokens) - done
        first_s = now_s + factor * self._device.prefill_s(context)
        end_s = now_s + factor * self._device.service_s(context, wanted)
        end = End.ON_TIME
        if end_s > ask.deadline_s:  # the worker ends an answer before the token that is late
            end = End.CUT if done or first_s < ask.deadline_s else End.EXPIRED
            end_s = ask.deadline_s
        self._running = _Running(entry, now_s, first_s, end_s, end, factor)

    def _pause(self, running: _Running, now_s: float) -> None:
        """Interrupt at the end of the chunk or token in hand; the engine is idle from then on."""
        entry, device = running.entry, self._device
        ask, before = entry.delivery, entry.num_before
        context = ask.prompt_tokens + before
        if now_s < running.first_s:
            chunk_s = (running.first_s - running.start_s) / -(-context // device.chunk_tokens)
            stop_s = running.start_s + chunk_s * ((now_s - running.start_s) // chunk_s + 1)
            num_new = 0
        if now_s >= running.first_s or stop_s >= running.first_s:
            seconds = max(now_s - running.start_s, running.first_s - running.start_s)
            num_new = device.tokens_within(seconds / running.factor, context) + 1
            stop_s = running.start_s + running.factor * device.service_s(context, num_new)
        if stop_s >= running.end_s:
            return
        self._running = None
        self._note_first(running, num_new)
        self.scheduler.pause(entry.key, before + num_new)
        self.num_pauses += 1
        following = self.scheduler.pop(stop_s, self.costs.current)
        if following is not None:
            self._start(following, stop_s)

    def _note_first(self, running: _Running, num_new: int) -> None:
        if num_new > 0:
            self._first_s.setdefault(running.entry.key, running.first_s)

    def _finish(self, running: _Running) -> None:
        self._running = None
        entry = self.scheduler.finish(running.entry.key)
        self._note_first(running, int(running.end is not End.EXPIRED))
        if running.end is End.ON_TIME and not entry.num_pauses:
            self._learn(running)
        self._end(entry, running.end, running.end_s)

    def _learn(self, running: _Running) -> None:
        ask = running.entry.delivery
        num_tokens = min(ask.output_tokens, running.entry.admitted.max_tokens)
        prefill_s = running.first_s - running.start_s
        decode_s = running.end_s - running.first_s
        measured = Measured(ask.prompt_tokens, 0, prefill_s, num_tokens - 1, decode_s)
        error = self.costs.observe(measured)
        if error is not None:
            self.errors.append(error)

    def _end(self, entry: Entry[Ask], end: End, end_s: float) -> None:
        first_s = self._first_s.pop(entry.key, None)
        for i, member in enumerate(entry.members()):
            ask = member.delivery
            ttft_s = None if first_s is None else max(first_s - ask.at_s, 0.0)
            self.outcomes.append(Outcome(ask, end, end_s, ttft_s, is_shared=i > 0))


def _request(ask: Ask) -> Request:
    return Request(
        ReplyAddress(f"edged/n/response/generate/{ask.client}"),
        (ChatMessage("user", str(ask.content) if ask.content >= 0 else f"{ask.client}{ask.at_s}"),),
        received_s=ask.at_s,
        deadline_s=ask.deadline_s,
        max_tokens=ask.max_tokens,
        priority=Priority(ask.level),
    )


def run_edf(workload: Workload, device: Cost) -> Node:
    """Run a workload on one node to its end."""
    node = Node(device, workload)
    for ask in workload.asks:
        node.offer(ask)
    node.run_until(float("inf"))
    return node
