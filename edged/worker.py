"""The inference thread: runs one job at a time and reports into the daemon's inbox.

Rule: the engine is touched by this thread only. Between any two steps of the engine, a prefill
chunk or a token, the worker looks at cancel and deadline; so both take effect within one step.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edged.energy import EnergyModel, add
from edged.engine import Constraint, Prefilled, Token
from edged.errors import ErrorCode
from edged.generation import Fragment, Generation, Job, Spent, TextStream
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

    def release(self) -> None:
        """Give the memory of the KV cache back; see ``Engine.release``."""
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
    was_paused: bool = False
    """Whether the time contains an interruption."""
    spent: Spent = field(default_factory=Spent)

    @classmethod
    def of(cls, run: Generation, outcome: Answer | Rejected, finished_s: float) -> "Finished":
        """Sum up a generation that is over."""
        job = run.job
        usage = Usage(
            len(job.prompt_ids), run.cached_tokens, run.num_output_tokens, energy=run.energy
        )
        times = (run.started_s, finished_s, run.first_token_s)
        return cls(job.key, outcome, usage, *times, run.was_paused)

    def timing(self, received_s: float) -> Timing:
        """Split the time since ``received_s``; without a token, all of the run is prefill.

        Who joined an execution after its start did not wait for it.
        """
        first_s = self.finished_s if self.first_token_s is None else self.first_token_s
        return Timing(
            queued_s=max(self.started_s - received_s, 0.0),
            prefill_s=first_s - self.started_s,
            ttft_s=max(first_s - received_s, 0.0),
            decode_s=self.finished_s - first_s,
            total_s=self.finished_s - received_s,
        )


@dataclass(frozen=True, slots=True)
class Paused:
    """A job that made room; it is over only when it is resumed and ends, or is ended."""

    run: Generation


@dataclass(frozen=True, slots=True)
class Meter:
    """What energy is known from."""

    read_joules: Callable[[], float | None]
    """The processor's counter; None without one."""
    model: EnergyModel


class _Release:
    """Asks for the memory of the KV cache."""


class Worker:
    """Own the inference thread.

    Args:
        engine: What generates; used by the inference thread only.
        new_text_stream: Makes a fresh detokenizer for each job.
        emit: Called on the inference thread with each ``Fragment``, ``Finished`` and ``Paused``;
            must not block.
        clock: Monotonic seconds, the clock of ``Request.deadline_s``.
        meter: Tells what a run took in energy.
    """

    def __init__(
        self,
        engine: StepSource,
        new_text_stream: Callable[[], TextStream],
        emit: Callable[[Fragment | Finished | Paused], None],
        clock: Callable[[], float] = time.monotonic,
        meter: Meter | None = None,
    ) -> None:
        self._engine = engine
        self._new_text_stream = new_text_stream
        self._emit = emit
        self._clock = clock
        self._meter = meter or Meter(lambda: None, EnergyModel(None, 1))
        self._jobs: queue.SimpleQueue[Job | Generation | _Release | None] = queue.SimpleQueue()
        self._cancelled_key: int | None = None
        self._paused_key: int | None = None
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

    def pause(self, key: int) -> None:
        """Ask the running job ``key`` to make room after the step in hand; returns at once."""
        self._paused_key = key

    def resume(self, run: Generation) -> None:
        """Queue a job that made room; returns at once."""
        self._jobs.put(run)

    def release(self) -> None:
        """Give the memory of the KV cache back once no job runs; returns at once."""
        self._jobs.put(_Release())

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
            if isinstance(job, _Release):
                self._engine.release()
                continue
            now_s = self._clock()
            self._busy_since_s = now_s
            if isinstance(job, Generation):
                run = job
                run.resume(now_s)
            else:
                run = Generation(job, self._new_text_stream(), now_s)
            self._run(run)

    def _run(self, run: Generation) -> None:
        begun_s, before_j = self._clock(), self._meter.read_joules()
        try:
            is_paused = not self._generate(run)
            outcome = None if is_paused else run.outcome()
        except Exception:  # noqa: BLE001 - the one per-request boundary: it must reply
            _LOG.exception("generation failed: key=%d", run.job.key)
            outcome = Rejected(ErrorCode.INTERNAL, "generation failed; see the node's log")
        self._busy_since_s = None
        spent_s, after_j = self._clock() - begun_s, self._meter.read_joules()
        run.energy = add(run.energy, self._meter.model.of_run(spent_s, before_j, after_j))
        if outcome is None:
            self._emit(Paused(run))
        else:
            self._emit(Finished.of(run, outcome, self._clock()))

    def _generate(self, run: Generation) -> bool:
        """Run a job; return whether it is over, or else made room."""
        job = run.job
        steps = self._engine.generate(
            [*job.prompt_ids, *run.output_ids],
            job.request.sampling,
            max_tokens=job.max_tokens - run.num_output_tokens,
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
            if job.key == self._paused_key and run.is_pausable:
                self._paused_key = None
                run.was_paused = True
                return False
        run.close()
        self._emit_fragment(run, run.last_fragment(self._clock()))
        return True

    def _emit_fragment(self, run: Generation, fragment: Fragment | None) -> None:
        if fragment is not None and run.job.request.is_stream:
            self._emit(fragment)
