"""A node as the daemon runs it: the real admission, scheduler and cost model, on simulated time.

Rule: everything that decides is imported from the core; here is only what the service would do.
"""

from collections.abc import Callable

from benchmarks.simulate.engine import Generation, SlotEngine
from benchmarks.simulate.outcome import End, Outcome
from benchmarks.simulate.trace import Ask, Workload
from edged.protocol.request import ChatMessage, Priority, Rejected, ReplyAddress, Request
from edged.scheduling.admission import Resources, admit
from edged.scheduling.latency_model import Cost, CostModel, Measured
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot
from edged.scheduling.scheduler import Entry, Scheduler

MAX_MODEL_LEN = 2048
MAX_WAITING = 8
_MEMORY = MemorySnapshot(0, 2**40)
_BUDGET = MemoryBudget(2**40)
_LATER_S = float("inf")


class Node:
    """One device with the daemon's own policy.

    Args:
        device: what answers really cost.
        slowdown: how many times as long everything takes at a time.
        num_slots: answers that are made at the same time.
        max_waiting: length of the queue.
    """

    def __init__(
        self,
        device: Cost,
        slowdown: Callable[[float], float],
        num_slots: int = 1,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.costs = CostModel(device)
        self.scheduler: Scheduler[Ask] = Scheduler(max_waiting, num_slots)
        self.outcomes: list[Outcome] = []
        self.errors: list[float] = []
        """Relative errors of predicted service times."""
        self.num_pauses = 0
        self._engine = SlotEngine(device, slowdown)
        self._first_s: dict[int, float] = {}
        self._next_key = 0

    @property
    def backlog(self) -> int:
        """Requests that wait or run."""
        return len(self.scheduler) + len(self.scheduler.running)

    def run_until(self, now_s: float) -> None:
        """Let everything happen up to a time."""
        while True:
            expiry_s = self.scheduler.next_deadline_s(self.costs.current)
            until_s = min(now_s, _LATER_S if expiry_s is None else expiry_s)
            if self._engine.sequences and self._engine.now_s < until_s:
                ended = self._engine.step(until_s)
                for sequence in ended:
                    self._finish(sequence)
                if ended:
                    self._tick(self._engine.now_s)
            elif until_s < now_s:
                self._tick(until_s)
            else:
                return

    def offer(self, ask: Ask) -> Rejected | None:
        """Ask at ``ask.at_s``; a refusal is an outcome, too."""
        self.run_until(ask.at_s)
        self._note_progress()
        refusal = self._enqueue(ask)
        if refusal is not None:
            self.outcomes.append(Outcome(ask, End.REFUSED, ask.at_s))
        self._tick(ask.at_s)
        return refusal

    def _enqueue(self, ask: Ask) -> Rejected | None:
        request, now_s, cost = _request(ask), ask.at_s, self.costs.current
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
            self._end(entry, End.CUT if entry.num_done else End.EXPIRED, now_s)
        self._note_progress()
        self._start_all(now_s)
        while (victim := self.scheduler.to_pause(now_s, cost)) is not None:
            self._pause(victim)
            self._start_all(now_s)

    def _note_progress(self) -> None:
        by_key = {sequence.key: sequence for sequence in self._engine.sequences}
        for entry in self.scheduler.running:
            sequence = by_key[entry.key]
            entry.note_progress(sequence.num_prefilled, sequence.num_done)

    def _start_all(self, now_s: float) -> None:
        while (entry := self.scheduler.pop(now_s, self.costs.current)) is not None:
            self._start(entry, now_s)

    def _start(self, entry: Entry[Ask], now_s: float) -> None:
        ask, engine = entry.delivery, self._engine
        if not engine.sequences:
            engine.now_s = max(engine.now_s, now_s)
        wanted = min(ask.output_tokens, entry.admitted.max_tokens)
        engine.sequences.append(
            Generation(
                entry.key,
                ask,
                ask.prompt_tokens + entry.num_done,
                wanted - entry.num_done,
                entry.num_done,
                first_s=self._first_s.get(entry.key),
            )
        )

    def _pause(self, entry: Entry[Ask]) -> None:
        """Interrupt at the end of the step in hand."""
        sequence = next(s for s in self._engine.sequences if s.key == entry.key)
        self._engine.end(sequence)
        self._note_first(sequence)
        self.scheduler.pause(entry.key, sequence.num_done)
        self.num_pauses += 1

    def _note_first(self, sequence: Generation) -> None:
        if sequence.first_s is not None:
            self._first_s.setdefault(sequence.key, sequence.first_s)

    def _finish(self, sequence: Generation) -> None:
        entry = self.scheduler.finish(sequence.key)
        self._note_first(sequence)
        if sequence.end is End.ON_TIME and not entry.num_pauses:
            self._learn(sequence)
        self._end(entry, sequence.end or End.CUT, self._engine.now_s)

    def _learn(self, sequence: Generation) -> None:
        measured = Measured(
            sequence.num_prompt,
            0,
            sequence.prefill_s,
            sequence.num_done - 1,
            sequence.decode_s,
            sequence.rows_beside,
            round(sequence.pairs_beside),
        )
        error = self.costs.observe(measured)
        if error is not None:
            self.errors.append(error)

    def _end(self, entry: Entry[Ask], end: End, end_s: float) -> None:
        first_s = self._first_s.pop(entry.key, None)
        ask = entry.delivery
        ttft_s = None if first_s is None else max(first_s - ask.at_s, 0.0)
        self.outcomes.append(Outcome(ask, end, end_s, ttft_s))


def _request(ask: Ask) -> Request:
    return Request(
        ReplyAddress(f"edged/n/response/generate/{ask.client}"),
        (ChatMessage("user", f"{ask.client}{ask.at_s}"),),
        received_s=ask.at_s,
        deadline_s=ask.deadline_s,
        max_tokens=ask.max_tokens,
        priority=Priority(ask.level),
    )


def run_edf(workload: Workload, device: Cost, max_waiting: int = MAX_WAITING) -> Node:
    """Run a workload on one node to its end."""
    node = Node(device, workload.slowdown, workload.num_slots, max_waiting)
    for ask in workload.asks:
        node.offer(ask)
    node.run_until(_LATER_S)
    return node
