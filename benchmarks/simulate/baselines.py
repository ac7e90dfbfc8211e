"""Baselines: one FIFO queue, with the same number of slots.

``fifo`` is a server behind a bridge: its queue holds 512 (Ollama's default), deadlines are ignored,
and abandoned answers are still computed. ``fifo-drop`` is the same with clients that disconnect at
their deadline, and a server that notices.
"""

from collections import deque

from benchmarks.simulate.engine import Generation, SlotEngine
from benchmarks.simulate.outcome import End, Outcome
from benchmarks.simulate.trace import Ask, Workload
from edged.scheduling.latency_model import CostEstimate

QUEUE = 512


class Server:
    """A queue in front of an engine.

    Args:
        workload: Number of slots, and slowdown of the device.
        device: True costs of the device.
        drops: Whether clients disconnect at their deadline.
    """

    def __init__(self, workload: Workload, device: CostEstimate, *, drops: bool) -> None:
        self.outcomes: list[Outcome] = []
        self._engine = SlotEngine(device, workload.slowdown, drops=drops)
        self._num_slots = workload.num_slots
        self._drops = drops
        self._waiting: deque[Ask] = deque()

    def offer(self, ask: Ask) -> None:
        """Submit a request at ``ask.at_s``."""
        self.run_until(ask.at_s)
        if len(self._waiting) >= QUEUE:
            self.outcomes.append(Outcome(ask, End.REFUSED, ask.at_s))
            return
        if not self._engine.sequences:
            self._engine.now_s = max(self._engine.now_s, ask.at_s)
        self._waiting.append(ask)
        self._fill()

    def run_until(self, now_s: float) -> None:
        """Serve up to a time."""
        while self._engine.sequences and self._engine.now_s < now_s:
            for ended in self._engine.step(now_s):
                self._finish(ended)
            self._fill()

    def _fill(self) -> None:
        engine = self._engine
        while self._waiting and len(engine.sequences) < self._num_slots:
            ask = self._waiting.popleft()
            if self._drops and ask.deadline_s <= engine.now_s:
                self.outcomes.append(Outcome(ask, End.EXPIRED, ask.deadline_s))
            else:
                sequence = Generation(0, ask, ask.prompt_tokens, ask.wanted_tokens, 0)
                engine.sequences.append(sequence)

    def _finish(self, sequence: Generation) -> None:
        ask, end, now_s = sequence.ask, sequence.end or End.CUT, self._engine.now_s
        if end is End.ON_TIME and now_s > ask.deadline_s:
            end = End.LATE
        ttft_s = None if sequence.first_s is None else sequence.first_s - ask.at_s
        self.outcomes.append(Outcome(ask, end, now_s, ttft_s))


def run_fifo(workload: Workload, device: CostEstimate, *, drops: bool) -> list[Outcome]:
    """Run a workload through one bounded queue."""
    server = Server(workload, device, drops=drops)
    for ask in workload.asks:
        server.offer(ask)
    server.run_until(float("inf"))
    return server.outcomes
