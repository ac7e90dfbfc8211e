"""From a delivery to a decision: decode, refuse what costs nothing, prepare, admit.

What can be refused without a look at the content is refused before the content costs anything. One
delivery is decoded and one request is prepared at a time, in the order of their arrival: after a
crash, the journal names the one that did it. A delivery that may have ended a process before (a
suspect) is taken in and answered while nothing else is at work: a further crash is its own.
"""

import logging
import traceback
from collections import deque

from edged.errors import ErrorCode
from edged.node.crash_journal import MAX_ATTEMPTS
from edged.node.effects import Acknowledge, Decode, Prepare, Report
from edged.node.events import Prepared
from edged.node.metrics import Count
from edged.node.request_state import Identity, RequestState
from edged.node.state import NodeState
from edged.node.throttling import Throttling
from edged.protocol import Delivery, Dropped, Refusal, reply_address
from edged.protocol.event import MessageDropped, RequestPoisoned
from edged.protocol.request import CancelRequest, Priority, Rejected, Reply, Request
from edged.scheduling.admission import Resources, admit, refuse_early
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.queued_request import RequestPhase

_LOG = logging.getLogger(__name__)

# How long others wait at most for a suspect to be taken in or answered alone.
ISOLATION_LIMIT_S = 30.0
# Deliveries that wait at most for that; beyond, they are taken in beside it.
MAX_ARRIVALS = 64
# Devices cool down and charge slowly.
CRASHED_BEFORE = Rejected(
    ErrorCode.CRASHED_BEFORE, "this request ended the node's process twice; do not send it again"
)
_THROTTLED_RETRY_S = 30.0
_INTERNAL = Rejected(ErrorCode.INTERNAL, "the request could not be taken in; see the node's log")


class Intake:
    """Take in deliveries.

    Args:
        node: What the node holds.
    """

    def __init__(self, node: NodeState) -> None:
        self._node = node
        self._journal = node.journal
        self._throttling = Throttling(node.limits.throttling)
        self._next_key = 0
        self._arrivals: deque[RequestState] = deque()
        self._decoding: RequestState | None = None
        self._preparing: deque[RequestState] = deque()
        """Decoded requests; the first is being prepared."""
        self._failures_logged: set[type[Exception]] = set()

    def next_tick_s(self) -> float | None:
        """Return when the first delivery will not be held back any more; None if none is."""
        return self._arrivals[0].queued_s + ISOLATION_LIMIT_S if self._arrivals else None

    def deliver(self, delivery: Delivery) -> None:
        """Take in one delivered message: now, or as soon as a suspect lets it."""
        node, fingerprint = self._node, delivery.fingerprint
        if node.is_draining:
            return  # not acknowledged: the broker delivers it again to the next process
        self._next_key += 1
        state = RequestState(self._next_key, node.now_s, delivery=delivery, fingerprint=fingerprint)
        state.is_suspect = self._journal.num_intake_crashes(fingerprint) > 0
        self._arrivals.append(state)
        self.take_arrivals()

    def take_arrivals(self) -> None:
        """Take in deliveries, until one must be decoded first or held back for a suspect."""
        while self._arrivals and self._decoding is None and not self._node.is_draining:
            first = self._arrivals[0]
            is_held = self._is_isolating or (first.is_suspect and self._is_busy)
            if is_held and self._may_wait(first, len(self._arrivals) - 1):
                return
            self._arrivals.popleft()
            if first.is_decoded:
                self._accept(first)
            elif self._journal.num_intake_crashes(first.fingerprint) >= MAX_ATTEMPTS:
                self._refuse_poisoned(first)
            else:
                self._decoding = first
                self._mark()
                self._node.emit(Decode(first.delivery, first.queued_s))

    @property
    def _is_busy(self) -> bool:
        scheduler = self._node.scheduler
        return bool(scheduler.running or len(scheduler))

    @property
    def _is_isolating(self) -> bool:
        """Whether a suspect is at work, and has not been for long."""
        return any(
            state.is_suspect and self._node.now_s - state.queued_s < ISOLATION_LIMIT_S
            for state in (*self._preparing, *self._node.scheduler.running)
        )

    def _may_wait(self, state: RequestState, num_behind: int) -> bool:
        """Tell whether a delivery can be held back; else it is taken in beside the others."""
        waited_s = self._node.now_s - state.queued_s
        return waited_s < ISOLATION_LIMIT_S and num_behind < MAX_ARRIVALS

    def decoded(
        self, result: Request | Refusal | Dropped | CancelRequest
    ) -> tuple[RequestState, CancelRequest] | None:
        """Take in what the decoded delivery asks; return a cancel with its delivery."""
        state, self._decoding = self._decoding, None
        if state is None:
            return None
        match result:
            case Request():
                state.request, state.is_decoded = result, True
                state.identity = Identity.of(state.delivery, result.reply_to)
                state.expires_s = result.deadline_s
                self._accept(state)
            case Dropped():
                self._drop(state, result)
            case Refusal():
                self._node.refuse(state, Reply(result.reply_to, result.rejected), result.rejected)
        if not isinstance(result, Request):
            self._decided(state)
        return (state, result) if isinstance(result, CancelRequest) else None

    def _drop(self, state: RequestState, dropped: Dropped) -> None:
        self._node.metrics.count_dropped(dropped.reason)
        self._node.emit(Report(MessageDropped(dropped.reason, dropped.detail)))
        self._node.emit(Acknowledge(state.delivery))

    def _refuse_poisoned(self, state: RequestState) -> None:
        """Refuse, undecoded, what ended the process twice while it was taken in."""
        address = reply_address(state.delivery, self._node.limits.defaults)
        if isinstance(address, Dropped):
            self._drop(state, address)
            return
        self._node.emit(Report(RequestPoisoned(MAX_ATTEMPTS)))
        reply = Reply(address, CRASHED_BEFORE, attempt=MAX_ATTEMPTS + 1)
        self._node.refuse(state, reply, CRASHED_BEFORE)

    def _accept(self, state: RequestState) -> None:
        """Give a request its place in the queue, unless it is known or must wait or be refused."""
        node = self._node
        was_running = self._journal.was_left_running(state.identity_key)
        if was_running and self._is_busy and self._may_wait(state, len(self._arrivals)):
            state.is_suspect = True
            self._arrivals.appendleft(state)
            self._mark()
            return
        state.is_suspect = was_running or state.is_suspect
        if not node.replies.open(state, node.now_s):
            self._decided(state)
            return
        node.metrics.count(Count.IGNORED_KEYS, len(state.request.ignored_keys))
        rejected = node.scheduler.enter(state, node.latency_model.current, node.now_s)
        if rejected is not None:
            node.reject(state, rejected)
            self._decided(state)
            return
        self._preparing.append(state)
        if len(self._preparing) == 1:
            self._prepare_next()
        self._mark()

    def _prepare_next(self) -> None:
        """Have the next request prepared, unless it is refused before or gone meanwhile."""
        node = self._node
        while self._preparing:
            state = self._preparing[0]
            if state.phase is RequestPhase.PREPARING:  # neither expired nor cancelled
                rejected = self._refuse_unprepared(state.request)
                if rejected is None:
                    state.turn = node.sessions.open(
                        state.request,
                        state.identity_key,
                        may_be_a_repeat=state.may_be_a_repeat,
                        now_s=node.now_s,
                    )
                    node.emit(Prepare(state.key, state.request, state.turn))
                    return
                node.scheduler.drop(state)
                node.reject(state, rejected)
            self._preparing.popleft()
            self._journal.forgive(state.fingerprint)

    def _refuse_unprepared(self, request: Request) -> Rejected | None:
        """Refuse background work on a throttled device, and what has no room for any answer."""
        node, cost = self._node, self._node.latency_model.current
        if request.priority is Priority.BACKGROUND:
            reason = self._throttling.reason(node.readings.device)
            if reason is not None:
                message = f"{reason}; background work is held back"
                return Rejected(ErrorCode.QUEUE_FULL, message, retry_after_s=_THROTTLED_RETRY_S)
        test = node.scheduler.admission_test(request, cost, node.now_s)
        return refuse_early(request, self._resources(cost), test)

    def prepared(self, prepared: Prepared) -> None:
        """Decide on a request, and have the next one prepared."""
        if not self._preparing or self._preparing[0].key != prepared.key:
            return
        state = self._preparing.popleft()
        if state.phase is RequestPhase.PREPARING:
            try:
                rejected = self._decide(state, prepared)
            except Exception as error:  # noqa: BLE001 - the per-request boundary: it must reply
                rejected = self._internal(error)
            if rejected is not None:
                self._node.scheduler.drop(state)
                self._node.reject(state, rejected)
        self._prepare_next()
        self._decided(state)

    def _decide(self, state: RequestState, prepared: Prepared) -> Rejected | None:
        """Admit a prepared request, or say why not."""
        if prepared.rejected is not None:
            return prepared.rejected
        node, request, cost = self._node, state.request, self._node.latency_model.current
        num_prompt_tokens, limits = len(prepared.prompt_ids), node.limits
        # Positions of the KV cache cost memory from their first use on, and keep it.
        num_tokens = min(num_prompt_tokens + request.max_tokens, limits.max_model_len)
        num_new = max(num_tokens - node.readings.num_touched, 0)
        decision = admit(
            request,
            num_prompt_tokens,
            self._resources(cost),
            node.scheduler.admission_test(request, cost, node.now_s),
            needed_bytes=limits.kv_bytes_per_token * num_new,
        )
        if isinstance(decision, Rejected):
            return decision
        held = node.guard.hold()
        if isinstance(held, Rejected):
            return held
        state.reservation = held
        state.num_prompt_tokens, state.max_tokens = num_prompt_tokens, decision.max_tokens
        state.prompt_ids, state.constraint = prepared.prompt_ids, prepared.constraint
        if state.turn is not None:
            state.turn = state.turn.forgetting(prepared.num_forgotten)
        node.scheduler.admit(state, cost, node.now_s)
        return None

    def _resources(self, cost: CostEstimate) -> Resources:
        limits, memory = self._node.limits, self._node.readings.memory
        return Resources(limits.max_model_len, cost, memory, limits.budget)

    def _mark(self) -> None:
        """Have the journal name what is being decoded and prepared now, and nothing else."""
        current = [self._decoding, *list(self._preparing)[:1]]
        self._journal.mark(state.fingerprint for state in current if state is not None)

    def _decided(self, state: RequestState) -> None:
        self._journal.forgive(state.fingerprint)
        self._mark()

    def _internal(self, error: Exception) -> Rejected:
        """Refuse a request that a fault of ours keeps out; its words stay out of the log."""
        if type(error) not in self._failures_logged:
            self._failures_logged.add(type(error))
            where = traceback.extract_tb(error.__traceback__)[-1]
            _LOG.error("intake: %s in %s:%d", type(error).__name__, where.filename, where.lineno)
        return _INTERNAL
