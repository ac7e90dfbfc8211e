"""From a delivery to a decision: decode, refuse what costs nothing, prepare, admit.

What can be refused without a look at the content is refused before the content costs anything. One
delivery is decoded and one request is prepared at a time, in the order of their arrival, and each
is marked in the crash journal before: after a crash, the journal names the one that did it. A
delivery that may have ended a process before (a suspect) is taken in and answered while nothing
else is at work: a further crash is its own.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from edged.errors import ErrorCode
from edged.node.corrections import Corrections
from edged.node.crash_journal import MAX_ATTEMPTS
from edged.node.effects import Acknowledge, Cancel, Decode, Prepare, Probe, Report
from edged.node.escalations import Escalations
from edged.node.events import Prepared
from edged.node.ledger import ARRIVAL_BYTES
from edged.node.metrics import Count
from edged.node.replies import Replies
from edged.node.request_state import RequestState
from edged.node.state import NodeState
from edged.node.throttling import Throttling
from edged.protocol.decode import DecodedMessage, reply_address
from edged.protocol.event import MessageDropped, RequestPoisoned
from edged.protocol.request import (
    CancelOutcome,
    CancelRequest,
    Client,
    Correction,
    Priority,
    Rejected,
    Reply,
    Request,
)
from edged.protocol.wire import Delivery, Dropped, DropReason, Refusal
from edged.scheduling.admission import Demand, Resources, admit, refuse_early
from edged.scheduling.fair_share import MAX_NAMES
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.queued_request import RequestPhase
from edged.specialists.decider import MAX_PASS_TOKENS, Run

# How long others wait at most for a suspect to be taken in or answered alone.
ISOLATION_LIMIT_S = 30.0
# Deliveries that wait at most for that; beyond, the first is taken in beside what is at work.
MAX_ARRIVALS = 64
# Between two refusals of messages without an account.
ADVICE_INTERVAL_S = 1.0
_NO_IDENTITY = Dropped(DropReason.NO_IDENTITY, "not on the topics of an account")
# Between two looks at how fast an idle device is.
PROBE_INTERVAL_S = 10.0
# Devices cool down and charge slowly.
_THROTTLED_RETRY_S = 30.0
CRASHED_BEFORE = Rejected(
    ErrorCode.CRASHED_BEFORE, "this request ended the node's process twice; do not send it again"
)


class Intake:
    """Take in deliveries.

    Args:
        node: The state of the node.
        replies: What answers them.
        corrections: What takes those that are no requests.
        escalations: What waits for another node.
    """

    def __init__(
        self,
        node: NodeState,
        replies: Replies,
        corrections: Corrections,
        escalations: Escalations,
    ) -> None:
        self._node = node
        self._replies = replies
        self._corrections = corrections
        self._escalations = escalations
        self._throttling = Throttling(node.limits.max_temperature_c, node.limits.min_battery)
        self._next_key = 0
        self._next_advice_s = -math.inf
        """From when on those without an account may be told again what to do."""
        self._next_probe_s = -math.inf
        self._arrivals: deque[RequestState] = deque()
        self._decoding: RequestState | None = None
        self._preparing: deque[RequestState] = deque()
        """Decoded requests; the first is being prepared, even if it has ended meanwhile."""
        self._clients: tuple[Client, ...] = ()
        """Whose requests were prepared: first who has waited for it longest."""

    def next_tick_s(self) -> float | None:
        """Return when the first delivery will not be held back any more; None if none is."""
        if not self._arrivals:
            return None
        states = (self._arrivals[0], *self._isolated())
        return min(state.queued_s for state in states) + ISOLATION_LIMIT_S

    def deliver(self, delivery: Delivery) -> None:
        """Take in one delivered message: now, or as soon as a suspect lets it."""
        node, fingerprint = self._node, delivery.fingerprint
        if node.is_draining:
            return  # not acknowledged: the broker delivers it again to the next process
        self._next_key += 1
        state = RequestState(self._next_key, node.now_s, delivery=delivery, fingerprint=fingerprint)
        state.num_bytes = delivery.num_bytes
        state.is_suspect = node.journal.num_intake_crashes(fingerprint) > 0
        self._arrivals.append(state)
        self.take_arrivals()

    def drain(self) -> None:
        """Leave to the next process what is not decoded, and what is not being prepared now."""
        self._arrivals.clear()
        while len(self._preparing) > 1:
            self._preparing.pop()

    def take_arrivals(self) -> None:
        """Take in deliveries, until one must be decoded first or held back for a suspect."""
        while self._arrivals and self._decoding is None:
            first = self._arrivals[0]
            # What waits keeps its order: a cancel must not overtake the request that it is for.
            is_to_wait = bool(self._isolated()) or (first.is_suspect and self._is_busy)
            if is_to_wait and self._may_wait(first, len(self._arrivals) - 1):
                return
            self._arrivals.popleft()
            if first.is_decoded:
                self._accept(first)
            elif self._node.journal.num_intake_crashes(first.fingerprint) >= MAX_ATTEMPTS:
                self._refuse_poisoned(first)
            else:
                self._decoding = first
                self._mark()
                self._node.emit(Decode(first.delivery, first.queued_s))

    @property
    def _is_busy(self) -> bool:
        scheduler = self._node.scheduler
        return bool(self._preparing or scheduler.running or len(scheduler))

    def _isolated(self) -> list[RequestState]:
        """Return the suspects at work that have not been for long: nothing is taken in beside."""
        at_work = (*self._preparing, *self._node.scheduler.running)
        since_s = self._node.now_s - ISOLATION_LIMIT_S
        return [state for state in at_work if state.is_suspect and state.queued_s > since_s]

    def _may_wait(self, state: RequestState, num_behind: int) -> bool:
        """Tell whether a delivery can be held back; else it is taken in beside the others."""
        # A bound in time, number and bytes: one suspect must not stop the service for all others.
        waited_s = self._node.now_s - state.queued_s
        is_small = sum(one.num_bytes for one in self._arrivals) <= ARRIVAL_BYTES
        return waited_s < ISOLATION_LIMIT_S and num_behind < MAX_ARRIVALS and is_small

    def decoded(self, result: DecodedMessage) -> None:
        """Take in what the decoded delivery asks."""
        state, self._decoding = self._decoding, None
        if state is None:
            return
        if isinstance(result, Request):
            state.accept(result)
            self._accept(state)
            return
        if isinstance(result, CancelRequest):
            self._cancel(state, result)
        elif isinstance(result, Correction):
            self._corrections.take(state, result)
        elif isinstance(result, Refusal):
            self._refuse(state, result)
        else:
            self._drop(state, result)
        self._decided(state)

    def _cancel(self, canceller: RequestState, cancel: CancelRequest) -> None:
        matches = self._node.scheduler.cancel(cancel, self._escalations.states)
        outcome = CancelOutcome(is_found=bool(matches))
        self._replies.answer(canceller, Reply(cancel.reply_to, outcome))
        for state in matches:
            if state.phase is RequestPhase.RUNNING:
                self._node.emit(Cancel(state.key))
            else:
                self._escalations.abandon(state)
                self._replies.finish_queued(state)

    def _refuse(self, state: RequestState, refusal: Refusal) -> None:
        node = self._node
        if refusal.rejected.code is ErrorCode.IDENTITY_REQUIRED:
            # Everybody reads it: one tells all of them.
            if node.now_s < self._next_advice_s:
                self._drop(state, _NO_IDENTITY)
                return
            self._next_advice_s = node.now_s + ADVICE_INTERVAL_S
        self._replies.refuse(state, refusal.reply_to, refusal.rejected)

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
        # Not forgiven: it is refused for as long as the journal remembers it.
        self._replies.refuse(state, address, CRASHED_BEFORE, attempt=MAX_ATTEMPTS + 1)

    def _accept(self, state: RequestState) -> None:
        """Give a request its place in the queue, unless it is known or must wait or be refused."""
        node = self._node
        was_running = node.journal.was_left_running(state.identity.key)
        if was_running and self._is_busy and self._may_wait(state, len(self._arrivals)):
            state.is_suspect = True
            self._arrivals.appendleft(state)
            self._mark()
            return
        state.is_suspect = was_running or state.is_suspect
        # Before the queue is looked at: a duplicate needs no place in it.
        if not self._replies.open(state):
            self._decided(state)
            return
        node.metrics.count(Count.IGNORED_KEYS, len(state.request.ignored_keys))
        rejected = node.scheduler.enter(state, node.cost, node.now_s)
        if rejected is not None:
            self._replies.refuse(state, state.request.reply_to, rejected)
            self._decided(state)
            return
        self._preparing.append(state)
        # One at a time: a crash of the preparing thread is then the fault of one.
        if len(self._preparing) == 1:
            self._prepare_next()
        else:
            self._mark()

    def _prepare_next(self) -> None:
        """Have the next request prepared, unless it is refused before or has ended meanwhile."""
        node = self._node
        while self._preparing:
            # Clients in turn: many requests of some must not hold up all others.
            turns = {client: number for number, client in enumerate(self._clients)}
            state = min(self._preparing, key=lambda it: turns.get(it.payer, -1))
            self._preparing.remove(state)
            self._preparing.appendleft(state)
            if state.phase is RequestPhase.PREPARING:  # neither expired nor cancelled
                rejected = self._refuse_unprepared(state)
                if rejected is None:
                    state.turn = node.sessions.open(
                        state.request,
                        state.identity.key,
                        may_be_a_repeat=state.may_be_a_repeat,
                        now_s=node.now_s,
                    )
                    others = (client for client in self._clients if client != state.payer)
                    self._clients = (*others, state.payer)[-2 * MAX_NAMES :]
                    self._mark()  # before its prompt is touched: that may end the process
                    node.emit(Prepare(state.key, state.request, state.turn))
                    return
                self._reject(state, rejected)
            self._preparing.popleft()
            node.journal.forgive(state.fingerprint)
        self._mark()

    def _refuse_unprepared(self, state: RequestState) -> Rejected | None:
        """Refuse background work on a throttled device, and what has no room for any answer."""
        node, request = self._node, state.request
        if request.priority is Priority.BACKGROUND:
            reason = self._throttling.reason(node.readings.device)
            if reason is not None:
                message = f"{reason}; background work is held back"
                return Rejected(ErrorCode.QUEUE_FULL, message, retry_after_s=_THROTTLED_RETRY_S)
        state.max_tokens = min(request.max_tokens, node.limits.max_model_len - 1)
        test = node.scheduler.admission_test(state, node.cost, node.now_s)
        return refuse_early(request, self._resources(), test)

    def prepared(self, prepared: Prepared) -> None:
        """Decide on a request, and have the next one prepared."""
        if not self._preparing or self._preparing[0].key != prepared.key:
            return
        state = self._preparing.popleft()
        if state.phase is RequestPhase.PREPARING:  # else it expired or was cancelled meanwhile
            rejected = prepared.rejected or self._decide(state, prepared)
            if rejected is not None:
                self._reject(state, rejected)
        self._node.journal.forgive(state.fingerprint)
        self._prepare_next()

    def _decide(self, state: RequestState, prepared: Prepared) -> Rejected | None:
        """Admit a prepared request, or say why not."""
        node = self._node
        runs, num_needed = prepared.runs, prepared.num_needed
        demand, decision = self._admit(state, runs)
        if isinstance(decision, Rejected) and num_needed < len(runs):
            # What may follow is done only where it fits as well.
            runs = runs[:num_needed]
            demand, decision = self._admit(state, runs)
        if isinstance(decision, Rejected):
            return decision
        # Last, so that nothing can refuse the request after its memory is reserved.
        rejected = node.guard.reserve()
        if rejected is not None:
            return rejected
        state.has_memory = True
        state.num_prompt_tokens = demand.num_prompt_tokens + demand.num_other_tokens
        state.max_tokens, state.may_go_on = decision, len(runs) == len(prepared.runs)
        state.prompt_ids, state.constraint = prepared.prompt_ids, prepared.constraint
        state.decider = prepared.decider
        if state.turn is not None:
            state.turn = replace(state.turn, num_forgotten=prepared.num_forgotten)
        node.scheduler.admit(state, node.cost, node.now_s)
        return None

    def _admit(self, state: RequestState, runs: Sequence[Run]) -> tuple[Demand, int | Rejected]:
        """Return what these runs need, and the tokens that the answer may have."""
        node, limits, request = self._node, self._node.limits, state.request
        longest = max(run.num_positions for run in runs)
        written = [_num_written(run, request) for run in runs]
        max_tokens = min(written[-1], limits.max_model_len - longest)
        # Positions of the KV cache cost memory from their first use on, and keep it.
        num_tokens = min(longest + max(written), limits.max_model_len)
        num_new = max(num_tokens - node.readings.num_touched, 0)
        others = max(_num_computed(runs, written[:-1], node.cost) - longest, 0)
        demand = Demand(longest, max_tokens, others, limits.kv_bytes_per_token * num_new)
        state.num_prompt_tokens, state.max_tokens = longest + others, max_tokens
        test = node.scheduler.admission_test(state, node.cost, node.now_s)
        return demand, admit(request, demand, self._resources(), test)

    def _resources(self) -> Resources:
        node, limits = self._node, self._node.limits
        return Resources(limits.max_model_len, node.cost, node.readings.memory, limits.budget)

    def _reject(self, state: RequestState, rejected: Rejected) -> None:
        """Refuse a request that has a place in the queue."""
        if rejected.code not in (ErrorCode.TIMEOUT, ErrorCode.QUEUE_FULL):
            state.wanted_s = 0.0  # it is for no lack of time
        self._node.scheduler.remove(state)
        self._replies.refuse(state, state.request.reply_to, rejected)
        if rejected.code is ErrorCode.TIMEOUT:
            self._probe()

    def _probe(self) -> None:
        """Have an idle device timed again: what it refuses for lack of time teaches it nothing."""
        node = self._node
        is_idle = not (node.scheduler.running or len(node.scheduler))
        if is_idle and node.now_s >= self._next_probe_s:
            self._next_probe_s = node.now_s + PROBE_INTERVAL_S
            node.emit(Probe())

    def _mark(self) -> None:
        """Have the journal name what is being decoded and prepared now, and nothing else."""
        current = [self._decoding, *list(self._preparing)[:1]]
        self._node.journal.mark(state.fingerprint for state in current if state is not None)

    def _decided(self, state: RequestState) -> None:
        self._node.journal.forgive(state.fingerprint)
        self._mark()


def _num_written(run: Run, request: Request) -> int:
    """Return how many tokens a run may write."""
    if run.new_reader is not None:
        return 0
    return request.max_tokens if run.max_tokens is None else run.max_tokens


def _num_computed(runs: Sequence[Run], written: Sequence[int], cost: CostEstimate) -> int:
    """Return how many tokens of one prompt take as long as these runs one after the other, at most.

    What a prompt begins with in common with the one before it is in the cache.

    Args:
        runs: One after the other.
        written: The most tokens that each of them but the last writes.
        cost: Of this device.
    """
    pairs = zip(written, runs, strict=False)
    total_s = sum(cost.decode_s(count, len(run.prompt_ids)) for count, run in pairs)
    before: Sequence[int] = ()
    for run in runs:
        length = len(run.prompt_ids)
        both = enumerate(zip(run.prompt_ids, before, strict=False))
        num_shared = next((i for i, (one, other) in both if one != other), len(before))
        num_cached = min(num_shared, max(length - 1, 0))  # the last one is run anyway
        total_s += cost.prefill_s(length - num_cached, num_cached)
        total_s += sum(_behind_s(len(option) - 1, length, cost) for option in run.options)
        before = run.prompt_ids
    most = math.ceil(total_s / cost.prefill_token_s)
    return bisect_left(range(most), total_s, key=cost.prefill_s)


def _behind_s(num_tokens: int, context: int, cost: CostEstimate) -> float:
    """Predict the passes of one option's tokens behind a prompt."""
    num_passes = math.ceil(num_tokens / MAX_PASS_TOKENS)
    # Like a prompt's token, and unlike it with logits, as that of another answer in a batch.
    row_s = min(cost.prefill_token_s + cost.decode_row_s, cost.decode_token_s)
    rows_s = (num_tokens - num_passes) * (row_s - cost.decode_token_s)
    return cost.decode_s(num_tokens, context) + rows_s
