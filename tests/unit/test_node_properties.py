"""Admission, scheduler and ledger together: any history ends well, and promises hold."""

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from edged.node.ledger import Account, Ledger, Reservation
from edged.protocol.request import CancelRequest, OnDeadline, Priority, Rejected, ReplyAddress
from edged.scheduling.admission import Resources, admit
from edged.scheduling.latency_model import Cost
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot
from edged.scheduling.request_state import MAX_PAUSES
from edged.scheduling.scheduler import Entry, EntryState, Scheduler
from tests.examples import num_examples
from tests.make_request import make_request

BOUND = 3
BUDGET = MemoryBudget(limit_bytes=100, min_available_bytes=10)
COST = Cost(
    prefill_token_s=0.01,
    decode_token_s=0.1,
    prefill_pair_s=1e-5,
    decode_pair_s=1e-4,
    decode_row_s=0.02,
    run_s=0.05,
    chunk_tokens=64,
)
REQUEST_BYTES = 16


class Node(RuleBasedStateMachine):
    """What a service does with the core, driven by any sequence of events.

    The engine has as many slots as a history begins with, and takes up prompts in any order. It
    takes at most what is predicted, and so every promise must be kept: an admitted request ends at
    its own end before its deadline, unless it is cancelled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.memory = MemorySnapshot(rss_bytes=50, available_bytes=50)
        self.scheduler: Scheduler[int] = Scheduler(BOUND)
        self.ledger = Ledger(BUDGET.limit_bytes)
        self.held: dict[int, Reservation] = {}
        self.entries: list[Entry[int]] = []
        self.arrived = 0
        self.ended: Counter[int] = Counter()
        self.is_decodes_turn = False

    @initialize(num_slots=st.integers(1, 4))
    def choose_slots(self, num_slots: int) -> None:
        self.scheduler.num_slots = num_slots

    def end(self, entry: Entry[int]) -> None:
        assert entry.state is EntryState.FINISHED
        self.ended[entry.delivery] += 1
        if entry.delivery in self.held:
            self.held[entry.delivery].release()

    @rule(
        num_prompt_tokens=st.integers(1, 300),
        max_tokens=st.integers(1, 200),
        timeout_s=st.floats(0.1, 60),
        priority=st.sampled_from(Priority),
        on_deadline=st.sampled_from(OnDeadline),
        client=st.sampled_from("ab"),
    )
    def arrive(
        self,
        num_prompt_tokens: int,
        max_tokens: int,
        timeout_s: float,
        priority: Priority,
        on_deadline: OnDeadline,
        client: str,
    ) -> None:
        self.arrived += 1
        key, now_s = self.arrived, self.now_s
        request = make_request(
            request_id=f"id{key % 4}",
            topic=client,
            received_s=now_s,
            deadline_s=now_s + timeout_s,
            max_tokens=max_tokens,
            priority=priority,
            on_deadline=on_deadline,
        )
        resources = Resources(256, COST, self.memory, BUDGET)
        timetable = self.scheduler.timetable(request, COST, now_s)
        decision = admit(request, num_prompt_tokens, resources, timetable)
        held = self.ledger.reserve(Account.REQUESTS, REQUEST_BYTES)
        if isinstance(decision, Rejected) or held is None:
            self.ended[key] += 1
            if held is not None:
                held.release()
            return
        assert decision.max_tokens + num_prompt_tokens <= 256
        assert now_s + decision.predicted_s <= request.deadline_s + 1e-9
        entry = Entry(key, decision, (), key, now_s)
        self.held[key] = held
        was_full = len(self.scheduler) >= BOUND
        refusal = self.scheduler.add(entry, COST, now_s)
        assert refusal is not None or not was_full
        if refusal is not None:
            assert refusal.retry_after_s is not None
            assert refusal.retry_after_s > 0
            self.end(entry)
            return
        self.entries.append(entry)
        self.work()

    def work(self) -> None:
        """Do what the service does after each event."""
        for entry in self.scheduler.expire(self.now_s, COST):
            raise AssertionError(f"a promise is broken: {entry}")
        while self.scheduler.pop(self.now_s, COST) is not None:
            pass
        while (victim := self.scheduler.to_pause(self.now_s, COST)) is not None:
            self.scheduler.pause(victim.key, victim.num_done)
            while self.scheduler.pop(self.now_s, COST) is not None:
                pass
        assert self.scheduler.running or not len(self.scheduler)

    @precondition(lambda self: self.scheduler.running)
    @rule(count=st.integers(1, 60), speed=st.sampled_from((0.5, 1.0, 1.0)), data=st.data())
    def let_the_engine_work(self, count: int, speed: float, data: st.DataObject) -> None:
        """Let the engine do some steps: a piece of a prompt and a token of each answer in turn."""
        for _ in range(count):
            running = self.scheduler.running
            if not running:
                return
            prefilling = [entry for entry in running if entry.left().num_prefill]
            decoding = [entry for entry in running if not entry.left().num_prefill]
            if prefilling and not (decoding and self.is_decodes_turn):
                chosen = data.draw(st.sampled_from(prefilling)) if prefilling[1:] else prefilling[0]
                self.prefill(chosen, speed)
            else:
                self.decode(decoding, speed)
            self.is_decodes_turn = not self.is_decodes_turn
            ended = [e for e in running if e.num_done >= e.admitted.max_tokens or e.is_cancelled]
            for entry in ended:
                assert entry.is_cancelled or self.now_s <= entry.deadline_s + 1e-4
                self.end(self.scheduler.finish(entry.key))
            if ended:
                self.work()

    def prefill(self, entry: Entry[int], speed: float) -> None:
        left = entry.left()
        count = min(left.num_prefill, COST.chunk_tokens)
        self.now_s += speed * COST.margin * COST.prefill_s(count, left.context)
        is_last = count == left.num_prefill
        entry.note_progress(left.context + count, entry.num_done + int(is_last))

    def decode(self, entries: list[Entry[int]], speed: float) -> None:
        self.now_s += speed * COST.margin * COST.step_s([e.left().context for e in entries])
        for entry in entries:
            entry.note_progress(entry.num_prefilled, entry.num_done + 1)

    @precondition(lambda self: not self.scheduler.running)
    @rule(seconds=st.floats(0, 30))
    def rest(self, seconds: float) -> None:
        assert len(self.scheduler) == 0
        self.now_s += seconds

    @rule(num_slots=st.integers(1, 4))
    def change_slots(self, num_slots: int) -> None:
        """A rung of the memory ladder; what runs beyond the new number runs to its end."""
        self.scheduler.num_slots = num_slots
        self.work()

    @rule(number=st.integers(0, 4))
    def cancel(self, number: int) -> None:
        for entry in self.scheduler.cancel(CancelRequest(ReplyAddress("x"), f"id{number}")):
            assert entry.is_cancelled
            if entry not in self.scheduler.running:
                self.end(entry)
        self.work()

    @rule(rss_bytes=st.integers(0, 120), available_bytes=st.integers(0, 60))
    def read_memory(self, rss_bytes: int, available_bytes: int) -> None:
        self.memory = MemorySnapshot(rss_bytes, available_bytes)

    @invariant()
    def the_queue_is_bounded_and_holds_what_waits(self) -> None:
        waiting = [e for e in self.entries if e.state is EntryState.WAITING]
        assert len(self.scheduler) == len(waiting)
        # What was interrupted was taken in before it ran, so it may stand beyond the bound.
        assert sum(not entry.num_pauses for entry in waiting) <= BOUND
        assert all(e.num_pauses <= MAX_PAUSES for e in waiting)

    @invariant()
    def what_runs_is_in_time(self) -> None:
        assert all(self.now_s <= entry.deadline_s + 1e-4 for entry in self.scheduler.running)

    @invariant()
    def nothing_ends_twice(self) -> None:
        assert all(times == 1 for times in self.ended.values())

    @invariant()
    def the_ledger_is_inside_the_budget(self) -> None:
        assert 0 <= self.ledger.planned_bytes <= BUDGET.limit_bytes

    def teardown(self) -> None:
        """Stop: what is left is handed back; then each has ended once, and all is released."""
        for entry in self.scheduler.clear():
            self.end(entry)
        for entry in list(self.scheduler.running):
            self.end(self.scheduler.finish(entry.key))
        assert self.ended == Counter(range(1, self.arrived + 1))
        assert self.ledger.planned_bytes == 0


TestNode = Node.TestCase
TestNode.settings = settings(
    max_examples=num_examples(1000),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
"""1,000 histories of up to 40 events. With the examples of ``test_company``, ``test_promises``,
``test_ledger`` and ``test_pressure`` there are more than 5,000 over the core."""
