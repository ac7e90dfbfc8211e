"""The inference thread: runs one job at a time and reports into the daemon's inbox.

Rule: the engine is touched by this thread only. Between any two steps of the engine, a prefill
chunk or a token, the worker looks at cancel and deadline; so both take effect within one step.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from edged.engine import Constraint, Prefilled, Token
from edged.errors import ErrorCode
from edged.generation import Fragment, Generation, Job, TextStream
from edged.request import Answer, FinishReason, Rejected, SamplingParams, Timing, Usage

_LOG = logging.getLogger(__name__)


class StepSource(Protocol):
    """The part of ``Engine`` that the worker uses."""

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> Iterator[Prefilled | Token]:
        """Yield steps; see ``Engine.generate``."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one job: exactly one is emitted for each submitted job."""

    key: int
    outcome: Answer | Rejected
    usage: Usage
    started_s: float
    finished_s: float
    first_token_s: float | None
    """When the first token was there, on the worker's clock; None without one."""

    def timing(self, received_s: float) -> Timing:
        """Split the time since ``received_s``; without a token, all of the run is prefill."""
        first_s = self.finished_s if self.first_token_s is None else self.first_token_s
        return Timing(
            queued_s=self.started_s - received_s,
            prefill_s=first_s - self.started_s,
            ttft_s=first_s - received_s,
            decode_s=self.finished_s - first_s,
            total_s=self.finished_s - received_s,
        )


class Worker:
    """Own the inference thread.

    Args:
        engine: What generates; used by the inference thread only.
        new_text_stream: Makes a fresh detokenizer for each job.
        emit: Called on the inference thread with each ``Fragment`` and ``Finished``; must not
            block.
        clock: Monotonic seconds, the clock of ``Request.deadline_s``.
    """

    def __init__(
        self,
        engine: StepSource,
        new_text_stream: Callable[[], TextStream],
        emit: Callable[[Fragment | Finished], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._new_text_stream = new_text_stream
        self._emit = emit
        self._clock = clock
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._cancelled_key: int | None = None
        self._is_stopping = False
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job; returns at once."""
        self._jobs.put(job)

    def cancel(self, key: int) -> None:
        """Ask the running job ``key`` to end after the step in hand; returns at once."""
        self._cancelled_key = key

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the step in hand; return whether it ended in time."""
        self._is_stopping = True
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Whether the inference thread runs."""
        return self._thread.is_alive()

    def stalled_s(self, now_s: float) -> float:
        """Return the seconds since the last step of a running job; 0 when idle."""
        busy_since_s = self._busy_since_s
        return 0.0 if busy_since_s is None else max(0.0, now_s - busy_since_s)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            started_s = self._clock()
            self._busy_since_s = started_s
            run = Generation(job, self._new_text_stream(), started_s)
            try:
                self._generate(run)
                outcome = run.outcome()
            except Exception:  # noqa: BLE001 - the one per-request boundary: it must reply
                _LOG.exception("generation failed: key=%d", job.key)
                outcome = Rejected(ErrorCode.INTERNAL, "generation failed; see the node's log")
            self._busy_since_s = None
            usage = Usage(len(job.prompt_ids), run.cached_tokens, run.num_output_tokens)
            finished_s = self._clock()
            self._emit(Finished(job.key, outcome, usage, started_s, finished_s, run.first_token_s))

    def _generate(self, run: Generation) -> None:
        job = run.job
        steps = self._engine.generate(
            job.prompt_ids,
            job.request.sampling,
            max_tokens=job.max_tokens,
            constraint=job.constraint,
        )
        for step in steps:
            now_s = self._clock()
            self._busy_since_s = now_s
            run.record(step, now_s)
            is_cancelled = self._is_stopping or job.key == self._cancelled_key
            if is_cancelled and run.finish_reason is None:
                run.finish_reason = FinishReason.CANCELLED
            if run.finish_reason is not None:
                break
            self._emit_fragment(run, run.fragment(now_s))
        run.close()
        self._emit_fragment(run, run.last_fragment(self._clock()))

    def _emit_fragment(self, run: Generation, fragment: Fragment | None) -> None:
        if fragment is not None and run.job.request.is_stream:
            self._emit(fragment)
