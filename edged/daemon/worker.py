"""The inference thread: it runs the generations that have a slot.

Rule: only this thread uses the engine, except for ``Engine.interrupt``. Between any two forward
passes, a prefill chunk or a token of each answer, it takes its commands; so a cancel, a pause and a
deadline take effect within one pass.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from functools import partial

from edged.daemon.energy import EnergyMeter, account
from edged.engine.grammar import ConstraintError
from edged.engine.loop import Engine
from edged.engine.steps import PromptOrigin, Step
from edged.errors import ErrorCode
from edged.node.events import Probed
from edged.node.generation import Finished, Fragment, Generation, Paused, TextStream
from edged.protocol.request import Answer, FinishReason, FormatType, Rejected
from edged.transport.clock import boot_s

_LOG = logging.getLogger(__name__)
_FAILED = Rejected(ErrorCode.INTERNAL, "generation failed; see the node's log")
_BEYOND_LIMITS = Rejected(
    ErrorCode.BAD_REQUEST,
    "format.schema: what it allows took too much to compute as the answer was written; simplify it",
)


class Worker:
    """The inference thread and its commands, each of which returns at once.

    Args:
        engine: What generates.
        new_text_stream: Makes a detokenizer for each generation.
        emit: Called on the inference thread with each ``Fragment``, ``Finished``, ``Paused`` and
            ``Probed``; must not block.
        clock: The clock of ``Request.deadline_s``.
        meter: Of the energy of a forward pass.
    """

    def __init__(
        self,
        engine: Engine,
        new_text_stream: Callable[[], TextStream],
        emit: Callable[[Fragment | Finished | Paused | Probed], None],
        clock: Callable[[], float] = boot_s,
        meter: EnergyMeter | None = None,
    ) -> None:
        self._engine = engine
        self._new_text_stream = new_text_stream
        self._emit = emit
        self._clock = clock
        self._meter = meter or EnergyMeter()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._running: dict[int, Generation] = {}
        self._busy_since_s: float | None = None
        self._is_stopping = False
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)

    def start_thread(self) -> None:
        """Start the thread."""
        self._thread.start()

    def start(self, generation: Generation) -> None:
        """Start a generation beside the running ones, or resume it after a pause."""
        self._commands.put(partial(self._begin, generation))

    def cancel(self, key: int) -> None:
        """End a generation after the current pass; a prefill pass is interrupted."""
        self._commands.put(partial(self._cancel, key))
        run = self._running.get(key)
        decoding = None if run is None else run.decoding
        if decoding is not None:
            self._engine.interrupt(decoding)

    def pause(self, key: int) -> None:
        """Have a generation free its slot after the current pass."""
        self._commands.put(partial(self._pause, key))

    def release(self) -> None:
        """Free the memory of the prefix cache."""
        self._commands.put(self._release)

    def probe(self) -> None:
        """Time short requests of its own, until there is another command."""
        self._commands.put(self._probe)

    def progress(self) -> dict[int, tuple[int, int]]:
        """Return the tokens of prompt and of answer done, for each running generation by key."""
        # A copy in one step: the inference thread adds and removes meanwhile.
        return {
            key: (run.num_prefilled, run.num_counted) for key, run in self._running.copy().items()
        }

    @property
    def num_touched(self) -> int:
        """Positions of the KV cache for which every slot has memory already."""
        return self._engine.num_touched

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the current pass; block, and return whether it ended in time."""
        self._commands.put(self._stop)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Whether the inference thread runs."""
        return self._thread.is_alive()

    def stalled_s(self, now_s: float) -> float:
        """Return the seconds since the last pass of the running generations; 0 when idle."""
        busy_since_s = self._busy_since_s
        return 0.0 if busy_since_s is None else max(0.0, now_s - busy_since_s)

    def _loop(self) -> None:
        while not self._is_stopping:
            if self._running and self._commands.empty():
                self._step()
                continue
            # None while idle: to wait for a command is no hang of the engine.
            self._busy_since_s = self._clock() if self._running else None
            self._commands.get()()

    def _stop(self) -> None:
        for key in list(self._running):
            self._cancel(key)
        self._is_stopping = True

    def _cancel(self, key: int) -> None:
        run = self._running.get(key)
        if run is not None:
            self._end(run, FinishReason.CANCELLED)

    def _pause(self, key: int) -> None:
        run = self._running.get(key)
        if run is not None and run.is_pausable:
            self._drop(run)
            run.was_paused = True
            self._emit(Paused(run))

    def _release(self) -> None:
        try:
            self._engine.release()
        except Exception:  # noqa: BLE001 - nobody waits for it
            _LOG.exception("the memory of the prefix cache could not be freed")

    def _probe(self) -> None:
        if self._running:
            return
        try:
            self._emit(Probed(self._engine.probe(self._goes_on)))
        except Exception:  # noqa: BLE001 - nobody waits for it
            _LOG.exception("a probe failed: the latency model stays as it is")

    def _goes_on(self) -> bool:
        """Note that the engine takes a step; return whether it may."""
        self._busy_since_s = self._clock()
        return self._commands.empty()

    def _begin(self, run: Generation) -> None:
        now_s = self._busy_since_s = self._clock()
        try:
            run.start(self._new_text_stream(), now_s)
        except Exception as error:  # noqa: BLE001 - the per-request boundary: it must reply
            self._fail(run, error)
            return
        is_held = run.constraint is not None or run.decider is not None
        if not is_held and run.request.format.type is not FormatType.TEXT:
            # Free text where a format was asked for is an answer that somebody may act on.
            _LOG.error("a generation came without the constraint of its format: key=%d", run.key)
            self._emit(Finished(run, _FAILED, now_s))
            return
        self._start_run(run)

    def _start_run(self, run: Generation) -> None:
        try:
            run.decoding = self._engine.start(
                [*run.prompt_ids, *run.output_ids],
                run.sampling,
                max_tokens=max(run.limit - run.num_output_tokens, 1),
                constraint=run.constraint,
                origin=PromptOrigin(run.request.reply_to.user, run.num_output_tokens, run.adapter),
                reader=run.reader,
            )
        except Exception:  # noqa: BLE001 - the per-request boundary: it must reply
            self._fail(run)
        else:
            run.decoding.level = int(run.request.priority)
            self._running[run.key] = run

    def _step(self) -> None:
        begun_s, before_j = self._clock(), self._meter.read_joules()
        self._busy_since_s = begun_s
        try:
            ran = self._engine.step()
        except Exception:  # noqa: BLE001 - the model failed: each of its answers must have a reply
            for run in list(self._running.values()):
                self._drop(run)
                self._fail(run)
            return
        now_s = self._clock()
        self._busy_since_s, seconds = now_s, now_s - begun_s
        energy = self._meter.of_pass(seconds, before_j, self._meter.read_joules())
        account(ran, seconds, energy, self._running.values())
        for run in list(self._running.values()):
            if run.decoding is not None and run.decoding in ran.outcomes:
                self._record(run, ran.outcomes[run.decoding], now_s)

    def _record(self, run: Generation, steps: Iterable[Step], now_s: float) -> None:
        for step in steps:
            if isinstance(step, Exception):
                self._drop(run)
                self._fail(run, step)
                return
            run.record(step)
        if run.reader is not None and run.decoding is not None and run.decoding.is_over:
            self._end_run(run, now_s)
            return
        run.end_step(now_s)
        if run.finish_reason is not None or (run.decoding is not None and run.decoding.is_over):
            if run.decider is None or run.reader is not None:  # of half of a reading there is none
                self._end(run, None)
            else:
                self._end_run(run, now_s)
        elif run.request.is_stream and run.is_fragment_due(now_s):
            self._emit(run.take_fragment(now_s))

    def _end_run(self, run: Generation, now_s: float) -> None:
        """Have what a run gave decided on; go on with the next run, or finish."""
        self._drop(run)
        try:
            goes_on = run.end_run(now_s)
        except Exception as error:  # noqa: BLE001 - the per-request boundary: it must reply
            self._fail(run, error)
            return
        if goes_on and now_s < run.request.deadline_s:
            run.text_stream = self._new_text_stream()
            self._start_run(run)
        else:
            self._emit(Finished(run, self._outcome(run, FinishReason.DEADLINE), self._clock()))

    def _end(self, run: Generation, reason: FinishReason | None) -> None:
        """Finish a generation with its text so far; a reason of its own goes before this one."""
        self._drop(run)
        outcome, now_s = self._outcome(run, reason), self._clock()
        if run.request.is_stream:
            self._emit(run.take_fragment(now_s, is_done=True))
        self._emit(Finished(run, outcome, now_s))

    def _outcome(self, run: Generation, reason: FinishReason | None) -> Answer | Rejected:
        try:
            return run.end(reason)
        except Exception as error:  # noqa: BLE001 - the per-request boundary: it must reply
            return _failure(run, error)

    def _fail(self, run: Generation, error: Exception | None = None) -> None:
        self._emit(Finished(run, _failure(run, error), self._clock()))

    def _drop(self, run: Generation) -> None:
        del self._running[run.key]
        if run.decoding is not None:
            self._engine.end(run.decoding)
            run.decoding = None


def _failure(run: Generation, error: Exception | None) -> Rejected:
    """Log why a generation failed; return what its sender gets."""
    if isinstance(error, ConstraintError) and run.answers is None:
        # Its sender's own, so neither a fault of the node nor worth more than a line.
        _LOG.warning("a format reached the limits of its grammar: key=%d", run.key)
        return _BEYOND_LIMITS
    _LOG.error("generation failed: key=%d", run.key, exc_info=error or True)
    return _FAILED
