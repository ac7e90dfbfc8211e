"""The inference thread: runs the jobs that have a slot, and reports into the daemon's inbox.

Rule: the engine is touched by this thread only. Between any two runs of the model, a prefill chunk
or a token of each job, the worker does what it was asked to meanwhile; so a cancel, a pause and a
deadline take effect within one run, and a cancel breaks a prefill chunk off.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from edged.engine.decoding import Decoding, InferenceEngine
from edged.engine.generation import Finished, Fragment, Generation, Job, Paused, TextStream
from edged.engine.steps import DecodingFailure, ForwardPass, Step
from edged.errors import ErrorCode
from edged.protocol.energy import Energy, EnergyModel, add
from edged.protocol.request import FinishReason, FormatType, Rejected


@dataclass(frozen=True, slots=True)
class Meter:
    """What energy is known from."""

    read_joules: Callable[[], float | None]
    """The processor's counter; None without one."""
    model: EnergyModel


def account(
    ran: ForwardPass, seconds: float, energy: Energy | None, runs: Mapping[Decoding, Generation]
) -> None:
    """Write one run of the model down to its answers, its energy in equal parts.

    Args:
        ran: what was run.
        seconds: how long it took.
        energy: what it took; None where that is not known.
        runs: the answers in the making, by their sequences.
    """
    share = energy and replace(energy, joules=energy.joules / max(len(ran.outcomes), 1))
    for sequence, steps in ran.outcomes.items():
        run = runs[sequence]
        run.energy = add(run.energy, share)
        if not ran.num_rows:
            run.spent.prefill_s += seconds
            continue
        run.spent.decode_s += seconds
        run.spent.decode_runs += 1
        run.spent.num_cobatched_tokens += ran.num_rows - 1
        own_pairs = sequence.num_tokens - len(steps)
        run.spent.pairs_beside += ran.num_pairs - own_pairs


_LOG = logging.getLogger(__name__)
_FAILED = Rejected(ErrorCode.INTERNAL, "generation failed; see the node's log")


@dataclass(frozen=True, slots=True)
class _Cancel:
    key: int


@dataclass(frozen=True, slots=True)
class _Pause:
    key: int


class _Release:
    """Asks for the memory of the prefix cache."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A job that has a slot."""

    run: Generation
    sequence: Decoding


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
        engine: InferenceEngine,
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
        self._commands: queue.SimpleQueue[Job | Generation | _Cancel | _Pause | _Release | None] = (
            queue.SimpleQueue()
        )
        self._running: dict[int, _Running] = {}
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Run a job beside those that run; returns at once."""
        self._commands.put(job)

    def cancel(self, key: int) -> None:
        """Ask the job ``key`` to end after the step in hand, or in its prefill; returns at once."""
        self._commands.put(_Cancel(key))
        running = self._running.get(key)
        if running is not None:
            self._engine.interrupt(running.sequence)

    def pause(self, key: int) -> None:
        """Ask the job ``key`` to make room after the step in hand; returns at once."""
        self._commands.put(_Pause(key))

    def resume(self, run: Generation) -> None:
        """Go on with a job that made room; returns at once."""
        self._commands.put(run)

    def release(self) -> None:
        """Give the memory of the prefix cache back; returns at once."""
        self._commands.put(_Release())

    def progress(self, key: int) -> tuple[int, int] | None:
        """Return how many tokens of prompt and answer of a job are done; None before its start."""
        running = self._running.get(key)
        if running is None:
            return None
        return running.run.num_prefilled, running.run.num_output_tokens

    @property
    def num_touched(self) -> int:
        """Positions of the KV cache for which every slot has memory already."""
        return self._engine.num_touched

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the step in hand; return whether it ended in time."""
        self._commands.put(None)
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
        while self._obey():
            if self._running:
                self._step()

    def _obey(self) -> bool:
        """Do what was asked; wait for it while nothing runs. Return whether to go on."""
        while not (self._running and self._commands.empty()):
            self._busy_since_s = self._clock() if self._running else None
            match command := self._commands.get():
                case None:
                    self._end_all(FinishReason.CANCELLED)
                    return False
                case Job():
                    self._begin(Generation(command, self._new_text_stream(), self._clock()))
                case Generation():
                    command.resume(self._clock())
                    self._begin(command)
                case _Cancel() if command.key in self._running:
                    self._end(self._running[command.key], FinishReason.CANCELLED)
                case _Pause():
                    self._pause(command.key)
                case _Release():
                    self._engine.release()
        return True

    def _begin(self, run: Generation) -> None:
        job = run.job
        self._busy_since_s = self._clock()
        if job.constraint is None and job.request.format.type is not FormatType.TEXT:
            # Free text where a format was asked for is an answer that somebody may act on.
            _LOG.error("a job came without the constraint of its format: key=%d", job.key)
            self._emit(Finished.of(run, _FAILED, self._clock()))
            return
        try:
            sequence = self._engine.start(
                [*job.prompt_ids, *run.output_ids],
                job.request.sampling,
                max_tokens=job.max_tokens - run.num_output_tokens,
                constraint=job.constraint,
                num_answered=run.num_output_tokens,
            )
        except Exception:  # noqa: BLE001 - the per-request boundary: it must reply
            self._fail(run)
        else:
            sequence.level = int(job.request.priority)
            self._running[job.key] = _Running(run, sequence)

    def _step(self) -> None:
        begun_s, before_j = self._clock(), self._meter.read_joules()
        self._busy_since_s = begun_s
        try:
            ran = self._engine.step()
        except Exception:  # noqa: BLE001 - the model failed: each of its answers must have a reply
            for running in list(self._running.values()):
                self._drop(running)
                self._fail(running.run)
            return
        now_s = self._clock()
        self._busy_since_s, seconds = now_s, now_s - begun_s
        energy = self._meter.model.of_run(seconds, before_j, self._meter.read_joules())
        runs = {running.sequence: running.run for running in self._running.values()}
        account(ran, seconds, energy, runs)
        for running in list(self._running.values()):
            if running.sequence in ran.outcomes:
                self._record(running, ran.outcomes[running.sequence], now_s)

    def _record(self, running: _Running, steps: Iterable[Step], now_s: float) -> None:
        run = running.run
        for step in steps:
            if isinstance(step, DecodingFailure):
                self._drop(running)
                self._fail(run, step.error)
                return
            run.record(step)
        run.end_step(now_s)
        if run.finish_reason is not None or running.sequence.is_over:
            self._end(running, None)
        else:
            self._emit_fragment(run, run.fragment(now_s))

    def _pause(self, key: int) -> None:
        running = self._running.get(key)
        if running is not None and running.run.is_pausable:
            self._drop(running)
            running.run.was_paused = True
            self._emit(Paused(running.run))

    def _end_all(self, reason: FinishReason) -> None:
        for running in list(self._running.values()):
            self._end(running, reason)

    def _end(self, running: _Running, reason: FinishReason | None) -> None:
        """Reply with what there is; without a reason, it is the run's own."""
        run = running.run
        self._drop(running)
        run.finish_reason = run.finish_reason or reason
        run.close()
        now_s = self._clock()
        self._emit_fragment(run, run.last_fragment(now_s))
        self._emit(Finished.of(run, run.outcome(), now_s))

    def _fail(self, run: Generation, error: Exception | None = None) -> None:
        _LOG.error("generation failed: key=%d", run.job.key, exc_info=error or True)
        self._emit(Finished.of(run, _FAILED, self._clock()))

    def _drop(self, running: _Running) -> None:
        del self._running[running.run.job.key]
        self._engine.end(running.sequence)

    def _emit_fragment(self, run: Generation, fragment: Fragment | None) -> None:
        if fragment is not None and run.job.request.is_stream:
            self._emit(fragment)
