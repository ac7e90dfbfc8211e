"""The node: every delivery in, exactly one terminal reply out.

Rule: pure. ``Node.handle`` takes one event with the time and the readings, and returns the effects
that the daemon carries out; nothing in this room does I/O, reads a clock or blocks. The simulation
and the property tests drive this class, too.
"""

from edged.node.corrections import Corrections
from edged.node.crash_journal import MAX_ATTEMPTS
from edged.node.effects import Effect, Pause, Report, Start, SyncJournal
from edged.node.escalations import Escalations
from edged.node.events import (
    Abandon,
    Confirmed,
    CorrectionKept,
    Decoded,
    Drain,
    EscalationReplied,
    Prepared,
    Probed,
    Readings,
    Synced,
    Tick,
)
from edged.node.generation import Finished, Fragment, Generation, Paused
from edged.node.intake import CRASHED_BEFORE, Intake
from edged.node.limits import Limits
from edged.node.metrics import Count
from edged.node.replies import Replies
from edged.node.request_state import RequestState
from edged.node.state import NodeState
from edged.protocol.event import ReplyUndelivered, RequestPoisoned
from edged.protocol.request import Answer
from edged.protocol.wire import Delivery
from edged.scheduling.latency_model import LatencyModel
from edged.scheduling.queued_request import RequestPhase

Event = (
    Delivery
    | Decoded
    | Prepared
    | Synced
    | CorrectionKept
    | EscalationReplied
    | Fragment
    | Finished
    | Paused
    | Probed
    | Confirmed
    | Tick
    | Drain
    | Abandon
)


# After these, neither a slot nor the intake is free that was not before.
_LEAVES_SLOTS = (Delivery, CorrectionKept, EscalationReplied, Fragment, Probed, Confirmed)


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
        self._replies = Replies(self._state)
        self._corrections = Corrections(self._state, self._replies)
        self._escalations = Escalations(self._state, self._replies)
        self._intake = Intake(self._state, self._replies, self._corrections, self._escalations)
        self.latency_model = latency_model
        self.scheduler = self._state.scheduler
        self.metrics = self._state.metrics
        self.guard = self._state.guard
        self.num_unfinished = self._state.journal.num_unfinished
        """Messages at work when the process before ended: above 0, it crashed."""

    @property
    def num_unconfirmed(self) -> int:
        """Replies that the broker has not confirmed yet."""
        return self._replies.num_unconfirmed

    def num_sessions(self, now_s: float) -> int:
        """Count the sessions that have not expired."""
        return self._state.sessions.count(now_s)

    def next_tick_s(self) -> float | None:
        """Return when a ``Tick`` will next have something to do; None while nothing waits."""
        times_s = [
            self.scheduler.next_deadline_s(self.latency_model.current),
            self._intake.next_tick_s(),
            self._corrections.next_tick_s(),
            self._escalations.next_tick_s(),
        ]
        return min((time_s for time_s in times_s if time_s is not None), default=None)

    def start(self) -> list[Effect]:
        """Return the effects of the start: the crash journal's pages as they are now."""
        return self._state.take_effects()

    def handle(self, event: Event, now_s: float, readings: Readings) -> list[Effect]:
        """Decide what an event entails.

        An event about a request that is unknown, or has ended, changes nothing.

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
            case Delivery() | Decoded() | Prepared() | CorrectionKept() | EscalationReplied():
                self._take_in(event)
            case Fragment() | Finished() | Paused() | Probed():
                self._take_run(event)
            case Synced():
                self._start(event.key)
            case Confirmed():
                self._confirm(event)
            case Drain() | Abandon():
                self._drain(event)
        # A schedule costs more than all else here. The others leave nothing to begin, but for a
        # cancel: what may begin in its place does so at the next tick.
        if not isinstance(event, (*_LEAVES_SLOTS, Decoded)):
            self._schedule()
        if not isinstance(event, _LEAVES_SLOTS):
            self._intake.take_arrivals()
        return self._state.take_effects()

    def _take_in(
        self, event: Delivery | Decoded | Prepared | CorrectionKept | EscalationReplied
    ) -> None:
        match event:
            case Delivery():
                self._intake.deliver(event)
            case Decoded():
                self._intake.decoded(event.result)
            case Prepared():
                self._intake.prepared(event)
            case CorrectionKept():
                self._corrections.kept(event)
            case _:
                self._escalations.replied(event.token, event.answer)

    def _drain(self, event: Drain | Abandon) -> None:
        self._state.is_draining = True
        self._intake.drain()
        self._escalations.drain()
        if isinstance(event, Abandon):
            self._state.journal.close()

    def _schedule(self) -> None:
        """Refuse what waited too long, and start, or make room for, what is due."""
        self._corrections.expire()
        self._escalations.expire()
        now_s, cost = self._state.now_s, self.latency_model.current
        self.scheduler.num_slots = self.guard.tick(self._state.readings.memory, now_s)
        for state in self.scheduler.expire(now_s, cost):
            self._replies.finish_queued(state)
        if self._state.is_draining or not self.scheduler.is_waiting:
            return
        dispatch = self.scheduler.at(now_s, cost)
        while (started := dispatch.to_start()) is not None:
            self.scheduler.start(started)
            self._begin(started)
            dispatch = self.scheduler.at(now_s, cost)
        victim = dispatch.to_pause()
        # One that is starting is asked to make room as soon as it runs.
        if victim is not None and victim.phase is RequestPhase.RUNNING:
            self._state.emit(Pause(victim.key))

    def _begin(self, state: RequestState) -> None:
        """Write a start down; the generation starts as soon as that is on the disk."""
        # One that was paused has its start on the disk already.
        if state.generation is not None:
            state.phase = RequestPhase.RUNNING
            self._state.emit(Start(state.generation))
            return
        is_redelivery = state.delivery.is_redelivery
        state.attempt = self._state.journal.begin(state.identity.key, is_redelivery=is_redelivery)
        if state.attempt > MAX_ATTEMPTS:
            self._state.emit(Report(RequestPoisoned(MAX_ATTEMPTS)))
            self.scheduler.remove(state)
            self._replies.finish(state, CRASHED_BEFORE)
        else:
            self._state.emit(SyncJournal(state.key))

    def _start(self, key: int) -> None:
        state = self.scheduler.running_request(key)
        if state is not None and state.phase is RequestPhase.STARTING:
            state.phase = RequestPhase.RUNNING
            self._state.emit(Start(state.new_generation()))

    def _take_run(self, event: Fragment | Finished | Paused | Probed) -> None:
        if isinstance(event, Probed):
            for timings in event.timings:
                self.latency_model.observe(timings)
        else:
            self._take_generation(event)

    def _take_generation(self, event: Fragment | Finished | Paused) -> None:
        key = event.key if isinstance(event, Fragment) else event.generation.key
        state = self.scheduler.running_request(key)
        if state is None:
            return
        if isinstance(event, Fragment):
            self._replies.publish_fragment(state, event)
        elif isinstance(event, Finished):
            self.scheduler.remove(state)
            if isinstance(event.outcome, Answer):
                self._corrections.remember(state.request, event.outcome)
            if not self._escalations.pass_on(state, event):
                self._replies.finish(state, event.outcome, event)
            self._learn(event)
        else:
            self._pause(state, event.generation)

    def _pause(self, state: RequestState, generation: Generation) -> None:
        """Let a paused request wait again, with its answer so far."""
        self.scheduler.pause(state, generation.num_counted)
        state.generation = generation
        self.metrics.count(Count.PAUSED)
        # The cancel came while the pause was on its way here: the engine had nothing to cancel.
        if state.is_cancelled:
            self.scheduler.remove(state)
            self._replies.finish_queued(state)

    def _confirm(self, confirmed: Confirmed) -> None:
        is_reply = self._replies.confirm(confirmed.handle)
        if confirmed.failure is not None and not is_reply:
            self._escalations.undelivered(confirmed.handle)
        if is_reply and confirmed.failure is not None:
            self.metrics.count(Count.UNDELIVERED)
            self._state.emit(Report(ReplyUndelivered(confirmed.failure)))

    def _learn(self, finished: Finished) -> None:
        """Take in what a request took: latencies for operators, costs for the next admission."""
        run = finished.generation
        if run.first_token_s is None:
            return
        usage, timing, spent = finished.usage, finished.timing(run.request.received_s), run.spent
        self.metrics.ttft_s.add(timing.ttft_s)
        # It computed its prompt twice, and waited in between: no measure of either.
        if run.was_paused:
            return
        # Attention over several prompts is not that over one of their length, and the first token
        # of the last of several answers is not that of all their tokens.
        if not run.has_one_run:
            return
        self.metrics.observe_decode(usage.completion_tokens - 1, timing.decode_s)
        spent.num_cached = run.cached_tokens
        spent.num_prefilled = usage.prompt_tokens - run.cached_tokens
        self.metrics.cost_error.add(self.latency_model.observe(spent))
