"""The node: every delivery in, exactly one terminal reply out.

Rule: pure. ``Node.handle`` takes one event with the time and the readings, and returns the effects
that the daemon carries out; nothing in this room does I/O, reads a clock or blocks. The simulation
and the property tests drive this class, too.
"""

from edged.errors import ErrorCode
from edged.node.crash_journal import MAX_ATTEMPTS
from edged.node.effects import Cancel, Effect, Pause, Report, Start, SyncJournal
from edged.node.events import (
    Abandon,
    Confirmed,
    Decoded,
    Drain,
    Prepared,
    Readings,
    Synced,
    Tick,
)
from edged.node.generation import Finished, Fragment, Generation, Paused
from edged.node.intake import CRASHED_BEFORE, Intake
from edged.node.limits import Limits
from edged.node.metrics import Count
from edged.node.request_state import RequestState
from edged.node.state import NodeState
from edged.protocol import Delivery
from edged.protocol.event import ReplyUndelivered, RequestPoisoned
from edged.protocol.request import CancelOutcome, CancelRequest, FinishReason, Rejected, Reply
from edged.scheduling.latency_model import LatencyModel, RequestTimings
from edged.scheduling.queued_request import RequestPhase

_WAITED_TOO_LONG = Rejected(
    ErrorCode.TIMEOUT, "waited too long for its deadline; allow more time or ask again later"
)

Event = (
    Delivery
    | Decoded
    | Prepared
    | Synced
    | Fragment
    | Finished
    | Paused
    | Confirmed
    | Tick
    | Drain
    | Abandon
)


class Node:
    """Decide about every event.

    Args:
        limits: Defaults, budgets and bounds.
        latency_model: What answers take on this device; it learns from each one.
        journal_pages: What the process before left in the crash journal; None keeps none.
    """

    def __init__(
        self,
        limits: Limits,
        latency_model: LatencyModel,
        journal_pages: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._state = NodeState(limits, latency_model, journal_pages)
        self._intake = Intake(self._state)
        self.latency_model = latency_model
        self.scheduler = self._state.scheduler
        self.metrics = self._state.metrics
        self.guard = self._state.guard
        self.num_unfinished = self._state.journal.num_unfinished
        """Messages that the process before had at work when it ended: above 0, it crashed."""

    @property
    def num_unconfirmed(self) -> int:
        """Replies that the broker has not confirmed yet."""
        return self._state.replies.num_unconfirmed

    def num_sessions(self, now_s: float) -> int:
        """Count the dialogues that are held."""
        return self._state.sessions.count(now_s)

    def next_tick_s(self) -> float | None:
        """Return when a ``Tick`` will next have something to do; None while nothing waits."""
        times_s = [
            self.scheduler.next_deadline_s(self.latency_model.current),
            self._intake.next_tick_s(),
        ]
        return min((time_s for time_s in times_s if time_s is not None), default=None)

    def start(self) -> list[Effect]:
        """Return the effects of the start: the crash journal's pages as they are now."""
        return self._state.take_effects()

    def handle(self, event: Event, now_s: float, readings: Readings) -> list[Effect]:
        """Decide what an event entails.

        Args:
            event: What happened.
            now_s: The time, on the clock of all deadlines.
            readings: What was measured just now.

        Returns:
            Effects, to be carried out in this order.
        """
        self._state.now_s, self._state.readings = now_s, readings
        self.scheduler.note_progress(readings.progress)
        match event:
            case Delivery() | Decoded() | Prepared():
                self._take_in(event)
            case Fragment() | Finished() | Paused():
                self._take_generation(event)
            case Synced():
                self._start(event.key)
            case Confirmed():
                self._confirm(event)
            case Drain():
                self._state.is_draining = True
            case Abandon():
                self._abandon()
        if not isinstance(event, Fragment | Confirmed):
            self._schedule()
            self._intake.take_arrivals()
        return self._state.take_effects()

    def _abandon(self) -> None:
        for state in self.scheduler.in_progress():
            self._state.journal.end(state.identity_key)

    def _take_in(self, event: Delivery | Decoded | Prepared) -> None:
        match event:
            case Delivery():
                self._intake.deliver(event)
            case Prepared():
                self._intake.prepared(event)
            case Decoded():
                cancel = self._intake.decoded(event.result)
                if cancel is not None:
                    self._cancel(*cancel)

    def _schedule(self) -> None:
        """Refuse what waited too long, and start, or make room for, what is due."""
        now_s, cost = self._state.now_s, self.latency_model.current
        self.scheduler.num_slots = self.guard.tick(self._state.readings.memory, now_s)
        for state in self.scheduler.expire(now_s, cost):
            self._end_waiting(state, _WAITED_TOO_LONG)
        if self._state.is_draining or not self.scheduler.is_waiting:
            return
        while (started := self.scheduler.start_next(now_s, cost)) is not None:
            self._begin(started)
        victim = self.scheduler.to_pause(now_s, cost)
        # One that is starting is asked to make room as soon as it runs.
        if victim is not None and victim.phase is RequestPhase.RUNNING:
            self._state.emit(Pause(victim.key))

    def _begin(self, state: RequestState) -> None:
        """Write a start down; the generation starts as soon as that is on the disk."""
        if state.generation is not None:  # it was paused, and its start is on the disk
            state.phase = RequestPhase.RUNNING
            self._state.emit(Start(state.generation))
            return
        state.attempt = self._state.journal.begin(state.identity_key)
        if state.attempt > MAX_ATTEMPTS:
            self._state.emit(Report(RequestPoisoned(state.attempt - 1)))
            self.scheduler.finish(state.key)
            self._state.finish(state, CRASHED_BEFORE)
        else:
            self._state.emit(SyncJournal(state.key))

    def _start(self, key: int) -> None:
        state = self.scheduler.running_request(key)
        if state is None or state.phase is not RequestPhase.STARTING:
            return
        if state.is_cancelled:
            self.scheduler.finish(key)
            self._state.finish(state, Rejected(ErrorCode.CANCELLED, "cancelled while waiting"))
            return
        state.phase = RequestPhase.RUNNING
        generation = Generation(
            key, state.prompt_ids, state.request, state.max_tokens, state.constraint
        )
        self._state.emit(Start(generation))

    def _take_generation(self, event: Fragment | Finished | Paused) -> None:
        match event:
            case Fragment():
                state = self.scheduler.running_request(event.key)
                if state is not None:
                    self._state.publish_fragment(state, event)
            case Finished():
                state = self.scheduler.finish(event.generation.key)
                self._state.finish(state, event.outcome, event)
                self._learn(event)
            case Paused():
                self._paused(event.generation)

    def _paused(self, generation: Generation) -> None:
        """Let a paused request wait again, with its answer so far."""
        state = self.scheduler.pause(generation.key, generation.num_output_tokens)
        state.generation = generation
        self.metrics.count(Count.PAUSED)
        if state.is_cancelled:  # asked for while the pause was on its way here
            self.scheduler.drop(state)
            self._end_waiting(state, Rejected(ErrorCode.CANCELLED, "cancelled while interrupted"))

    def _cancel(self, canceller: RequestState, cancel: CancelRequest) -> None:
        matches = self.scheduler.cancel(cancel)
        reply = Reply(cancel.reply_to, CancelOutcome(is_found=bool(matches)))
        self._state.answer(canceller, reply)
        for state in matches:
            if state not in self.scheduler.running:
                self._end_waiting(state, Rejected(ErrorCode.CANCELLED, "cancelled while waiting"))
            elif state.phase is RequestPhase.RUNNING:
                self._state.emit(Cancel(state.key))

    def _end_waiting(self, state: RequestState, rejected: Rejected) -> None:
        """Reply to a request that does not run: with its answer so far, if there is one."""
        generation, now_s = state.generation, self._state.now_s
        if generation is None:
            self._state.finish(state, rejected)
            return
        reason = FinishReason.CANCELLED if state.is_cancelled else FinishReason.DEADLINE
        finished = Finished(generation, generation.end(reason), now_s)
        if state.request.is_stream:
            self._state.publish_fragment(state, generation.last_fragment(now_s))
        self._state.finish(state, finished.outcome, finished)

    def _confirm(self, confirmed: Confirmed) -> None:
        self._state.replies.confirm(confirmed.handle)
        if confirmed.failure is not None:
            self.metrics.count(Count.UNDELIVERED)
            self._state.emit(Report(ReplyUndelivered(confirmed.failure)))

    def _learn(self, finished: Finished) -> None:
        """Take in what a request took: latencies for operators, costs for the next admission."""
        run = finished.generation
        if run.energy is not None:
            self.metrics.count_energy(run.energy.joules)
        if run.first_token_s is None:
            return
        usage, timing, spent = finished.usage, finished.timing(run.request.received_s), run.spent
        self.metrics.observe_ttft(timing.ttft_s)
        if run.was_paused:  # it computed its prompt twice
            return
        self.metrics.observe_decode(usage.completion_tokens - 1, timing.decode_s)
        measured = RequestTimings(
            usage.prompt_tokens - usage.cached_tokens,
            usage.cached_tokens,
            spent.prefill_s,
            spent.decode_runs,
            spent.decode_s,
            spent.num_cobatched_tokens,
            spent.num_cobatched_pairs,
        )
        self.metrics.observe_cost_error(self.latency_model.observe(measured))
