"""The daemon's decisions: every delivery in, exactly one terminal reply out.

Rule: runs on the main thread only, fed with one event at a time; so nothing here needs a lock, and
nothing here may block.
"""

import logging

from edged.admission import Speed
from edged.attempts import MAX_ATTEMPTS
from edged.errors import ErrorCode
from edged.generation import Fragment, Job
from edged.intake import Intake, Pending
from edged.messages import (
    Delivery,
    Dropped,
    Refusal,
    decode,
    encode_event,
    encode_fragment,
    encode_reply,
)
from edged.metrics import Count, Metrics
from edged.ports import Edges, Limits
from edged.replies import Replies
from edged.request import (
    Answer,
    CancelOutcome,
    CancelRequest,
    Rejected,
    Reply,
    Request,
    Timing,
    Usage,
)
from edged.scheduler import Entry, Scheduler
from edged.worker import Finished

_LOG = logging.getLogger(__name__)
_CRASHED_BEFORE = "this request ended the node's process twice; do not send it again"
_WAITED_TOO_LONG = "waited too long for its deadline; allow more time or ask again later"


class Service:
    """Turn events into decisions.

    Args:
        edges: The transport, the worker, the language of the model, clock and memory.
        limits: Defaults, budgets and bounds.
        speed: The measured speed of this device.
        metrics: Where everything is counted.
    """

    def __init__(self, edges: Edges, limits: Limits, speed: Speed, metrics: Metrics) -> None:
        self._edges = edges
        self._limits = limits
        self._metrics = metrics
        self._scheduler: Scheduler[Pending] = Scheduler(limits.max_waiting)
        self._replies = Replies(self._publish_reply, edges.transport.acknowledge)
        self._intake = Intake(edges, limits)
        self._next_key = 0
        self._is_draining = False
        self.speed = speed

    @property
    def num_waiting(self) -> int:
        """Requests that wait for the engine."""
        return len(self._scheduler)

    @property
    def is_running(self) -> bool:
        """Whether a request is being answered."""
        return self._scheduler.running is not None

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
                self.publish_event("dropped", reason=decoded.reason, detail=decoded.detail)
                self._edges.transport.acknowledge(delivery)
            case Refusal():
                reply = Reply(decoded.reply_to, decoded.rejected)
                self._metrics.count_refused(decoded.rejected.code)
                self._replies.answer(delivery, reply, expires_s=self._default_expiry_s(now_s))
            case CancelRequest():
                self._cancel(delivery, decoded, now_s)
            case Request():
                self._accept(delivery, decoded, now_s)

    def confirm(self, handle: int) -> None:
        """Note that the broker has a published message."""
        self._replies.confirm(handle)

    def fragment(self, fragment: Fragment) -> None:
        """Publish a piece of a streamed answer."""
        running = self._scheduler.running
        if running is not None and running.key == fragment.key:
            reply_to = running.admitted.request.reply_to
            if reply_to.request_id is not None:
                message = encode_fragment(
                    self._limits.defaults.topics,
                    reply_to.request_id,
                    fragment.sequence,
                    fragment.delta,
                    is_done=fragment.is_done,
                )
                self._edges.transport.publish(message, qos=0)

    def finish(self, finished: Finished) -> None:
        """Reply with the outcome of the running job and start the next one."""
        entry = self._scheduler.finish()
        timing = finished.timing(entry.admitted.request.received_s)
        usage = finished.usage
        self._intake.note_used(usage.prompt_tokens + usage.completion_tokens)
        if finished.first_token_s is not None:
            self._observe(usage, timing)
        self._reply(entry, finished.outcome, usage, timing)
        self.tick()

    def tick(self) -> None:
        """Refuse what waited too long, and start the next request if the engine is free."""
        now_s = self._edges.clock()
        for entry in self._scheduler.expire(now_s, self.speed):
            self._reply(entry, Rejected(ErrorCode.TIMEOUT, _WAITED_TOO_LONG))
        while self._scheduler.running is None and not self._is_draining:
            following = self._scheduler.pop(now_s)
            if following is None:
                break
            self._start(following)

    def next_tick_s(self) -> float | None:
        """Return when ``tick`` will next have something to refuse; None while nothing waits."""
        return self._scheduler.next_deadline_s(self.speed)

    def drain(self) -> None:
        """Stop taking and starting work; what is not answered is left to the next process."""
        self._is_draining = True

    def abandon(self) -> None:
        """Leave the running request to the next process: it is stopped, and did not crash us."""
        if self._scheduler.running is not None:
            self._edges.attempts.end(self._scheduler.running.delivery.ticket.identity.key)

    def publish_event(self, name: str, **members: str | float) -> None:
        """Tell operators of something; never prompt text."""
        _LOG.info("%s: %s", name, " ".join(f"{key}={value}" for key, value in members.items()))
        topics = self._limits.defaults.topics
        self._edges.transport.publish(encode_event(topics, name, members), qos=1)

    def _accept(self, delivery: Delivery, request: Request, now_s: float) -> None:
        ticket = self._replies.open(
            delivery, request.reply_to, expires_s=request.deadline_s, now_s=now_s
        )
        if ticket is None:
            return
        self._metrics.count(Count.IGNORED_KEYS, len(request.ignored_keys))
        rejected = self._enqueue(Pending(ticket), request, now_s)
        if rejected is not None:
            reply = Reply(request.reply_to, rejected)
            self._metrics.count_refused(rejected.code)
            self.publish_event("refused", code=rejected.code)
            self._replies.finish(ticket, reply)
        self.tick()

    def _enqueue(self, pending: Pending, request: Request, now_s: float) -> Rejected | None:
        backlog_s = self._scheduler.backlog_s(
            self.speed, now_s, request.priority, request.deadline_s
        )
        decision = self._intake.decide(request, self.speed, backlog_s=backlog_s, now_s=now_s)
        if isinstance(decision, Rejected):
            return decision
        pending.constraint = decision.constraint
        self._next_key += 1
        entry = Entry(self._next_key, decision.admitted, decision.prompt_ids, pending, now_s)
        return self._scheduler.add(entry, self.speed, now_s)

    def _start(self, entry: Entry[Pending]) -> None:
        pending, wish = entry.delivery, entry.admitted
        pending.attempt = self._edges.attempts.begin(pending.ticket.identity.key)
        if pending.attempt > MAX_ATTEMPTS:
            self.publish_event("crashed_before", attempts=pending.attempt - 1)
            self._scheduler.finish()
            self._reply(entry, Rejected(ErrorCode.CRASHED_BEFORE, _CRASHED_BEFORE))
        else:
            self._edges.worker.submit(
                Job(entry.key, entry.prompt_ids, wish.request, wish.max_tokens, pending.constraint)
            )

    def _cancel(self, delivery: Delivery, cancel: CancelRequest, now_s: float) -> None:
        matches = self._scheduler.cancel(cancel)
        reply = Reply(cancel.reply_to, CancelOutcome(is_found=bool(matches)))
        self._replies.answer(delivery, reply, expires_s=self._default_expiry_s(now_s))
        for entry in matches:
            if entry is self._scheduler.running:
                self._edges.worker.cancel(entry.key)
            else:
                self._reply(entry, Rejected(ErrorCode.CANCELLED, "cancelled while waiting"))

    def _reply(
        self,
        entry: Entry[Pending],
        outcome: Answer | Rejected,
        usage: Usage | None = None,
        timing: Timing | None = None,
    ) -> None:
        pending = entry.delivery
        reply_to = entry.admitted.request.reply_to
        reply = Reply(reply_to, outcome, usage, timing, attempt=pending.attempt)
        self._edges.attempts.end(pending.ticket.identity.key)
        self._metrics.count_outcome(outcome)
        self._replies.finish(pending.ticket, reply)

    def _publish_reply(self, reply: Reply, expires_s: float) -> tuple[int, int]:
        if reply.is_duplicate:
            self._metrics.count(Count.DUPLICATES)
        defaults = self._limits.defaults
        message = encode_reply(
            reply,
            node=defaults.node,
            model_id=self._limits.model_id,
            seconds_left=expires_s - self._edges.clock(),
        )
        return self._edges.transport.publish(message, qos=1), len(message.payload)

    def _observe(self, usage: Usage, timing: Timing) -> None:
        num_prefilled = usage.prompt_tokens - usage.cached_tokens
        num_decoded = usage.completion_tokens - 1
        self._metrics.observe_ttft(timing.ttft_s)
        self._metrics.observe_decode(num_decoded, timing.decode_s)
        self.speed = self.speed.observe_prefill(num_prefilled, timing.prefill_s).observe_decode(
            num_decoded, timing.decode_s
        )

    def _default_expiry_s(self, now_s: float) -> float:
        return now_s + self._limits.defaults.timeout_s
