"""The daemon's decisions: every delivery in, exactly one terminal reply out.

Rule: runs on the main thread only, fed with one event at a time; so nothing here needs a lock, and
nothing here may block.
"""

from edged.attempts import MAX_ATTEMPTS
from edged.costmodel import CostModel
from edged.errors import ErrorCode
from edged.events import Events
from edged.finished import Finished, Paused
from edged.generation import Fragment, Job
from edged.intake import Intake, Pending
from edged.learning import Learning
from edged.messages import Delivery, Dropped, Refusal, decode
from edged.messages.event import MessageDropped, ReplyUndelivered, RequestPoisoned, RequestRefused
from edged.metrics import Count, Metrics
from edged.ports import Edges, Limits
from edged.replies import Replies
from edged.request import (
    Answer,
    CancelOutcome,
    CancelRequest,
    FinishReason,
    Rejected,
    Reply,
    Request,
)
from edged.scheduler import Entry, Scheduler
from edged.speaking import Speaker

_CRASHED_BEFORE = "this request ended the node's process twice; do not send it again"
_WAITED_TOO_LONG = "waited too long for its deadline; allow more time or ask again later"


class Service:
    """Turn events into decisions.

    Args:
        edges: The transport, the worker, the language of the model, clock and memory.
        limits: Defaults, budgets and bounds.
        costs: What answers take on this device.
        metrics: Where everything is counted.
    """

    def __init__(self, edges: Edges, limits: Limits, costs: CostModel, metrics: Metrics) -> None:
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
        """Take in one delivered message."""
        if self._is_draining:
            return  # not acknowledged: the broker brings it again to the next process
        now_s = self._edges.clock()
        decoded = decode(delivery, self._limits.defaults, now_s)
        match decoded:
            case Dropped():
                self._metrics.count_dropped(decoded.reason)
                self.events.tell(MessageDropped(decoded.reason, decoded.detail))
                self._edges.transport.acknowledge(delivery)
            case Refusal():
                reply = Reply(decoded.reply_to, decoded.rejected)
                self._count_refused(decoded.rejected.code)
                self._replies.answer(delivery, reply, expires_s=self._default_expiry_s(now_s))
            case CancelRequest():
                self._cancel(delivery, decoded, now_s)
            case Request():
                self._accept(delivery, decoded, now_s)

    def confirm(self, handle: int, failure: str | None = None) -> None:
        """Note that the broker has a published message, or why it never will."""
        is_event = self.events.confirm(handle)
        if not is_event and self._replies.confirm(handle) and failure is not None:
            self._metrics.count(Count.UNDELIVERED)
            self.events.tell(ReplyUndelivered(failure))

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
        entry.delivery.run = paused.run
        self._metrics.count(Count.PAUSED)
        if entry.is_cancelled:  # asked for while the pause was on its way here
            self.scheduler.drop(entry)
            self._end_waiting(entry, Rejected(ErrorCode.CANCELLED, "cancelled while interrupted"))
        self.tick()

    def tick(self) -> None:
        """Refuse what waited too long, and start what there is a slot for."""
        now_s, cost = self._edges.clock(), self.costs.current
        self.scheduler.note_progress(self._edges.worker.progress)
        self.scheduler.num_slots = self.guard.tick(now_s)
        for entry in self.scheduler.expire(now_s, cost):
            self._end_waiting(entry, Rejected(ErrorCode.TIMEOUT, _WAITED_TOO_LONG))
        if self._is_draining:
            return
        while (started := self.scheduler.pop(now_s, cost)) is not None:
            self._start(started)
        victim = self.scheduler.to_pause(now_s, cost)
        if victim is not None:
            self._edges.worker.pause(victim.key)

    def next_tick_s(self) -> float | None:
        """Return when ``tick`` will next have something to refuse; None while nothing waits."""
        return self.scheduler.next_deadline_s(self.costs.current)

    def drain(self) -> None:
        """Stop taking and starting work; what is not answered is left to the next process."""
        self._is_draining = True

    def abandon(self) -> None:
        """Leave the running request to the next process: it is stopped, and did not crash us."""
        for entry in self.scheduler.begun():
            self._edges.attempts.end(entry.delivery.ticket.identity.key)

    def _accept(self, delivery: Delivery, request: Request, now_s: float) -> None:
        ticket = self._replies.open(
            delivery, request.reply_to, expires_s=request.deadline_s, now_s=now_s
        )
        if ticket is None:
            return
        self._metrics.count(Count.IGNORED_KEYS, len(request.ignored_keys))
        rejected = self._enqueue(Pending(ticket), request, now_s)
        if rejected is not None:
            self._count_refused(rejected.code)
            self._replies.finish(ticket, Reply(request.reply_to, rejected))
        self.tick()

    def _enqueue(self, pending: Pending, request: Request, now_s: float) -> Rejected | None:
        if self.scheduler.join(request, pending):
            return None
        cost = self.costs.current
        self.scheduler.note_progress(self._edges.worker.progress)
        timetable = self.scheduler.timetable(request, cost, now_s)
        decision = self._intake.decide(request, pending.ticket, cost, timetable)
        if isinstance(decision, Rejected):
            return decision
        pending.accept(decision)
        self._next_key += 1
        entry = Entry(self._next_key, decision.admitted, decision.prompt_ids, pending, now_s)
        return pending.release(self.scheduler.add(entry, cost, now_s))

    def _start(self, entry: Entry[Pending]) -> None:
        pending, wish = entry.delivery, entry.admitted
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

    def _end_waiting(self, entry: Entry[Pending], rejected: Rejected) -> None:
        """Reply to what does not run: with the answer so far, if there is one."""
        run = entry.delivery.run
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
        entry: Entry[Pending],
        outcome: Answer | Rejected,
        finished: Finished | None = None,
    ) -> None:
        if isinstance(outcome, Rejected) and outcome.code is ErrorCode.INTERNAL:
            self.events.tell(RequestRefused(outcome.code))
        for member in entry.members():
            pending, request = member.delivery, member.request
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
