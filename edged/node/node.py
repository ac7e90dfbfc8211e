"""The daemon's decisions: every delivery in, exactly one terminal reply out.

Rule: runs on the main thread only, fed with one event at a time; so nothing here needs a lock, and
nothing here may block. A delivery that may have ended a process before is taken in and answered
while nothing else is at work, so that a further crash is blamed on nobody who was only present.
"""

import logging
import traceback
from collections import deque
from dataclasses import dataclass

from edged.engine.generation import Finished, Fragment, Job, Paused
from edged.errors import ErrorCode
from edged.node.events import Events
from edged.node.intake import Intake, Pending
from edged.node.learning import Learning
from edged.node.metrics import Count, Metrics
from edged.node.ports import MAX_ATTEMPTS, Edges, Limits
from edged.node.replies import Identity, Replies
from edged.node.speaking import Speaker
from edged.protocol import Delivery, Dropped, Refusal, decode, reply_address
from edged.protocol.event import MessageDropped, ReplyUndelivered, RequestPoisoned, RequestRefused
from edged.protocol.request import (
    Answer,
    CancelOutcome,
    CancelRequest,
    FinishReason,
    Rejected,
    Reply,
    Request,
)
from edged.scheduling.latency_model import LatencyModel
from edged.scheduling.scheduler import RequestState, Scheduler

_LOG = logging.getLogger(__name__)

ISOLATION_LIMIT_S = 30.0
"""How long others wait at most for a suspect to be taken in or answered alone."""
MAX_ARRIVALS = 64
"""Deliveries that wait at most for that; beyond, they are taken in beside it."""
_CRASHED_BEFORE = "this request ended the node's process twice; do not send it again"
_WAITED_TOO_LONG = "waited too long for its deadline; allow more time or ask again later"
_INTERNAL = "the request could not be taken in; see the node's log"


@dataclass(slots=True)
class _Arrival:
    """A delivery that is not decoded yet."""

    delivery: Delivery
    fingerprint: str
    arrived_s: float
    is_suspect: bool


class Service:
    """Turn events into decisions.

    Args:
        edges: The transport, the worker, the language of the model, clock and memory.
        limits: Defaults, budgets and bounds.
        costs: What answers take on this device.
        metrics: Where everything is counted.
    """

    def __init__(self, edges: Edges, limits: Limits, costs: LatencyModel, metrics: Metrics) -> None:
        self._edges = edges
        self._limits = limits
        self._metrics = metrics
        self.scheduler: Scheduler[Pending] = Scheduler(limits.max_waiting, limits.num_slots)
        self._speaker = Speaker(edges, limits, metrics)
        self._replies = Replies(self._speaker.reply, edges.transport.acknowledge, edges.attempts)
        self._intake = Intake(edges, limits)
        self.guard = self._intake.guard
        self._next_key = 0
        self._is_draining = False
        self._arrivals: deque[_Arrival] = deque()
        self._failures_logged: set[type[Exception]] = set()
        self.events = Events(edges.transport, limits.defaults.topics, metrics, edges.clock)
        self._learning = Learning(costs, metrics)
        self.costs = costs

    @property
    def num_waiting(self) -> int:
        """Requests that wait for the engine."""
        return len(self.scheduler)

    @property
    def num_running(self) -> int:
        """Requests that are being answered."""
        return len(self.scheduler.running)

    @property
    def num_sessions(self) -> int:
        """Dialogues that are held."""
        return self._intake.num_sessions

    @property
    def num_unconfirmed(self) -> int:
        """Replies that the broker has not confirmed yet."""
        return self._replies.num_unconfirmed

    def deliver(self, delivery: Delivery) -> None:
        """Take in one delivered message: at once, or as soon as a suspect lets it."""
        if self._is_draining:
            return  # not acknowledged: the broker brings it again to the next process
        fingerprint = delivery.fingerprint
        is_suspect = self._edges.attempts.num_intake_crashes(fingerprint) > 0
        self._arrivals.append(_Arrival(delivery, fingerprint, self._edges.clock(), is_suspect))
        self._take_arrivals()

    def _take_arrivals(self) -> None:
        while self._arrivals and not self._is_draining:
            now_s, first = self._edges.clock(), self._arrivals[0]
            is_held = self._is_isolating(now_s) or (first.is_suspect and self._is_busy)
            may_wait = (
                now_s - first.arrived_s < ISOLATION_LIMIT_S and len(self._arrivals) <= MAX_ARRIVALS
            )
            if is_held and may_wait:
                return
            self._take_in(self._arrivals.popleft(), may_wait=may_wait)

    @property
    def _is_busy(self) -> bool:
        return bool(self.scheduler.running or len(self.scheduler))

    def _is_isolating(self, now_s: float) -> bool:
        """Tell whether a suspect runs, and has not run for long."""
        return any(
            entry.ticket.is_suspect and now_s - entry.queued_s < ISOLATION_LIMIT_S
            for entry in self.scheduler.running
        )

    def _take_in(self, arrival: _Arrival, *, may_wait: bool) -> None:
        attempts, delivery = self._edges.attempts, arrival.delivery
        if attempts.num_intake_crashes(arrival.fingerprint) >= MAX_ATTEMPTS:
            self._refuse_poisoned(delivery)
            return
        attempts.begin_intake(arrival.fingerprint)
        decoded = decode(delivery, self._limits.defaults, arrival.arrived_s)
        if isinstance(decoded, Request):
            self._accept(arrival, decoded, may_wait=may_wait)
        attempts.end_intake(arrival.fingerprint)
        now_s = self._edges.clock()
        match decoded:
            case Dropped():
                self._drop(delivery, decoded)
            case Refusal():
                self._refuse(delivery, Reply(decoded.reply_to, decoded.rejected), decoded.rejected)
            case CancelRequest():
                self._cancel(delivery, decoded, now_s)
            case Request():
                self._schedule()

    def _drop(self, delivery: Delivery, dropped: Dropped) -> None:
        self._metrics.count_dropped(dropped.reason)
        self.events.tell(MessageDropped(dropped.reason, dropped.detail))
        self._edges.transport.acknowledge(delivery)

    def _refuse(self, delivery: Delivery, reply: Reply, rejected: Rejected) -> None:
        self._count_refused(rejected.code)
        expires_s = self._default_expiry_s(self._edges.clock())
        self._replies.answer(delivery, reply, expires_s=expires_s)

    def _refuse_poisoned(self, delivery: Delivery) -> None:
        """Refuse, undecoded, what ended the process twice while it was taken in."""
        address = reply_address(delivery, self._limits.defaults)
        if isinstance(address, Dropped):
            self._drop(delivery, address)
            return
        self.events.tell(RequestPoisoned(MAX_ATTEMPTS))
        rejected = Rejected(ErrorCode.CRASHED_BEFORE, _CRASHED_BEFORE)
        attempt = MAX_ATTEMPTS + 1
        self._refuse(delivery, Reply(address, rejected, attempt=attempt), rejected)

    def confirm(self, handle: int, failure: str | None = None) -> bool:
        """Note that the broker has a published message, or why it never will.

        Returns:
            Whether it was a reply; a failure of it is counted, sent as an event and logged here.
        """
        is_reply = not self.events.confirm(handle) and self._replies.confirm(handle)
        if is_reply and failure is not None:
            self._metrics.count(Count.UNDELIVERED)
            self.events.tell(ReplyUndelivered(failure))
        return is_reply

    def fragment(self, fragment: Fragment) -> None:
        """Publish a piece of a streamed answer."""
        for running in self.scheduler.running:
            if running.key == fragment.key:
                self._speaker.fragment(running.admitted.request, fragment)

    def finish(self, finished: Finished | Paused) -> None:
        """Reply with the outcome of the running job, if it is over, and start the next one."""
        if isinstance(finished, Paused):
            self._pause(finished)
            return
        entry = self.scheduler.finish(finished.key)
        self._reply(entry, finished.outcome, finished)
        self._learning.take(finished, entry.admitted.request.received_s)
        self.tick()

    def _pause(self, paused: Paused) -> None:
        """Let the interrupted job wait again, with its answer so far, and start what is urgent."""
        entry = self.scheduler.pause(paused.run.job.key, paused.run.num_output_tokens)
        entry.ticket.run = paused.run
        self._metrics.count(Count.PAUSED)
        if entry.is_cancelled:  # asked for while the pause was on its way here
            self.scheduler.drop(entry)
            self._end_waiting(entry, Rejected(ErrorCode.CANCELLED, "cancelled while interrupted"))
        self.tick()

    def tick(self) -> None:
        """Refuse what waited too long, start what there is a slot for, take in what was held."""
        self._schedule()
        self._take_arrivals()

    def _schedule(self) -> None:
        now_s, cost = self._edges.clock(), self.costs.current
        self.scheduler.note_progress(self._edges.worker.progress)
        self.scheduler.num_slots = self.guard.tick(now_s)
        for entry in self.scheduler.expire(now_s, cost):
            self._end_waiting(entry, Rejected(ErrorCode.TIMEOUT, _WAITED_TOO_LONG))
        if self._is_draining:
            return
        while (started := self.scheduler.start_next(now_s, cost)) is not None:
            self._start(started)
        victim = self.scheduler.to_pause(now_s, cost)
        if victim is not None:
            self._edges.worker.pause(victim.key)

    def next_tick_s(self) -> float | None:
        """Return when ``tick`` will next have something to do; None while nothing waits."""
        next_s = self.scheduler.next_deadline_s(self.costs.current)
        if not self._arrivals:
            return next_s
        held_until_s = self._arrivals[0].arrived_s + ISOLATION_LIMIT_S
        return held_until_s if next_s is None else min(next_s, held_until_s)

    def drain(self) -> None:
        """Stop taking and starting work; what is not answered is left to the next process."""
        self._is_draining = True

    def abandon(self) -> None:
        """Leave the running request to the next process: it is stopped, and did not crash us."""
        for entry in self.scheduler.in_progress():
            self._edges.attempts.end(entry.ticket.ticket.identity.key)

    def _accept(self, arrival: _Arrival, request: Request, *, may_wait: bool) -> None:
        delivery = arrival.delivery
        identity = Identity.of(delivery, request.reply_to)
        is_suspect = self._edges.attempts.was_left_running(identity.key)
        if is_suspect and self._is_busy and may_wait:
            arrival.is_suspect = True
            self._arrivals.appendleft(arrival)
            return
        ticket = self._replies.open(
            delivery,
            identity,
            request.reply_to,
            expires_s=request.deadline_s,
            now_s=self._edges.clock(),
        )
        if ticket is None:
            return
        self._metrics.count(Count.IGNORED_KEYS, len(request.ignored_keys))
        rejected = self._enqueue(Pending(ticket, is_suspect=is_suspect), request)
        if rejected is not None:
            self._count_refused(rejected.code)
            self._replies.finish(ticket, Reply(request.reply_to, rejected))

    def _enqueue(self, pending: Pending, request: Request) -> Rejected | None:
        now_s, cost = self._edges.clock(), self.costs.current
        refused = self.scheduler.refusal(request.reply_to.topic, cost, now_s)
        if refused is not None:
            return refused
        self.scheduler.note_progress(self._edges.worker.progress)
        admission_test = self.scheduler.admission_test(request, cost, now_s)
        try:
            decision = self._intake.decide(request, pending.ticket, cost, admission_test)
        except Exception as error:  # noqa: BLE001 - the per-request boundary: it must reply
            return self._internal(error)
        if isinstance(decision, Rejected):
            return decision
        pending.accept(decision)
        self._next_key += 1
        entry = RequestState(self._next_key, decision.admitted, decision.prompt_ids, pending, now_s)
        return pending.release(self.scheduler.add(entry, cost, now_s))

    def _internal(self, error: Exception) -> Rejected:
        """Refuse a request that a fault of ours keeps out; its words stay out of the log."""
        if type(error) not in self._failures_logged:
            self._failures_logged.add(type(error))
            where = traceback.extract_tb(error.__traceback__)[-1]
            _LOG.error("intake: %s in %s:%d", type(error).__name__, where.filename, where.lineno)
        return Rejected(ErrorCode.INTERNAL, _INTERNAL)

    def _start(self, entry: RequestState[Pending]) -> None:
        pending, wish = entry.ticket, entry.admitted
        if pending.run is not None:
            self._edges.worker.resume(pending.run)
            return
        pending.attempt = self._edges.attempts.begin(pending.ticket.identity.key)
        if pending.attempt > MAX_ATTEMPTS:
            self.events.tell(RequestPoisoned(pending.attempt - 1))
            self.scheduler.finish(entry.key)
            self._reply(entry, Rejected(ErrorCode.CRASHED_BEFORE, _CRASHED_BEFORE))
        else:
            self._edges.worker.submit(
                Job(entry.key, entry.prompt_ids, wish.request, wish.max_tokens, pending.constraint)
            )

    def _cancel(self, delivery: Delivery, cancel: CancelRequest, now_s: float) -> None:
        matches = self.scheduler.cancel(cancel)
        reply = Reply(cancel.reply_to, CancelOutcome(is_found=bool(matches)))
        self._replies.answer(delivery, reply, expires_s=self._default_expiry_s(now_s))
        for entry in matches:
            if entry in self.scheduler.running:
                self._edges.worker.cancel(entry.key)
            else:
                self._end_waiting(entry, Rejected(ErrorCode.CANCELLED, "cancelled while waiting"))

    def _end_waiting(self, entry: RequestState[Pending], rejected: Rejected) -> None:
        """Reply to what does not run: with the answer so far, if there is one."""
        run = entry.ticket.run
        if run is None:
            self._reply(entry, rejected)
            return
        now_s, request = self._edges.clock(), entry.admitted.request
        reason = FinishReason.CANCELLED if entry.is_cancelled else FinishReason.DEADLINE
        finished = Finished.of(run, run.end(reason), now_s)
        if request.is_stream:
            self._speaker.fragment(request, run.last_fragment(now_s))
        self._reply(entry, finished.outcome, finished)

    def _reply(
        self,
        entry: RequestState[Pending],
        outcome: Answer | Rejected,
        finished: Finished | None = None,
    ) -> None:
        if isinstance(outcome, Rejected) and outcome.code is ErrorCode.INTERNAL:
            self.events.tell(RequestRefused(outcome.code))
        pending, request = entry.ticket, entry.admitted.request
        timing = None if finished is None else finished.timing(request.received_s)
        usage = None if finished is None else finished.usage
        session, attempt = self._intake.remember(pending.turn, outcome), pending.attempt
        reply = Reply(request.reply_to, outcome, usage, timing, session, attempt=attempt)
        self._replies.finish(pending.ticket, reply)
        self._metrics.count_outcome(outcome)
        pending.end()

    def _count_refused(self, code: ErrorCode) -> None:
        self._metrics.count_refused(code)
        self.events.tell(RequestRefused(code))

    def _default_expiry_s(self, now_s: float) -> float:
        return now_s + self._limits.defaults.timeout_s
