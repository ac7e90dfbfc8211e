"""What the alternatives do: one queue, first come, first served.

``fifo`` is a server behind a bridge: 512 may wait (Ollama's default), nobody looks at a deadline,
and an answer that nobody waits for any more is still computed. ``fifo-drop`` is the same with
clients that hang up at their deadline, and a server that notices.
"""

from collections import deque

from edged.costmodel import Cost
from edged.simulate.outcome import End, Outcome
from edged.simulate.trace import Ask, Workload

QUEUE = 512


def run_fifo(workload: Workload, device: Cost, *, drops: bool) -> list[Outcome]:
    """Run a workload through one bounded queue."""
    outcomes: list[Outcome] = []
    waiting: deque[Ask] = deque()
    free_s = 0.0

    def serve_until(now_s: float) -> None:
        nonlocal free_s
        while waiting and max(free_s, waiting[0].at_s) < now_s:
            ask = waiting.popleft()
            free_s = _serve(ask, max(free_s, ask.at_s))

    def _serve(ask: Ask, start_s: float) -> float:
        factor = ask.noise * workload.slowdown(start_s)
        first_s = start_s + factor * device.prefill_s(ask.prompt_tokens)
        end_s = start_s + factor * device.service_s(ask.prompt_tokens, ask.wanted_tokens)
        if drops and end_s > ask.deadline_s:
            end = End.CUT if first_s < ask.deadline_s else End.EXPIRED
            end_s = max(start_s, ask.deadline_s)
        else:
            end = End.ON_TIME if end_s <= ask.deadline_s else End.LATE
        ttft_s = first_s - ask.at_s if end is not End.EXPIRED else None
        outcomes.append(Outcome(ask, end, end_s, ttft_s))
        return end_s

    for ask in workload.asks:
        serve_until(ask.at_s)
        if len(waiting) >= QUEUE:
            outcomes.append(Outcome(ask, End.REFUSED, ask.at_s))
        else:
            waiting.append(ask)
    serve_until(float("inf"))
    return outcomes
