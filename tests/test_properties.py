"""Admission and scheduler together: for any history, each request ends exactly once."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edged.admission import MemoryBudget, MemorySnapshot, Resources, Speed, admit
from edged.request import CancelRequest, OnDeadline, Priority, Rejected, ReplyAddress
from edged.scheduler import PROMOTE_AFTER_S, Entry, EntryState, Scheduler
from tests.make_request import make_request

BOUND = 3
BUDGET = MemoryBudget(limit_bytes=100, min_available_bytes=10)


class Node(RuleBasedStateMachine):
    """What a service does with the core, driven by any sequence of events."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.speed = Speed(prefill_tok_s=100.0, decode_tok_s=10.0, overhead_s=0.1)
        self.memory = MemorySnapshot(rss_bytes=50, available_bytes=50)
        self.scheduler: Scheduler[None] = Scheduler(BOUND)
        self.entries: dict[int, Entry[None]] = {}
        self.arrived = 0
        self.ended: Counter[int] = Counter()

    def end(self, entry: Entry[None]) -> None:
        assert entry.state is EntryState.FINISHED
        self.ended[entry.key] += 1

    @rule(
        num_prompt_tokens=st.integers(1, 300),
        max_tokens=st.integers(1, 200),
        timeout_s=st.floats(0.1, 60),
        priority=st.sampled_from(Priority),
        on_deadline=st.sampled_from(OnDeadline),
        needed_bytes=st.integers(0, 20),
    )
    def arrive(
        self,
        num_prompt_tokens: int,
        max_tokens: int,
        timeout_s: float,
        priority: Priority,
        on_deadline: OnDeadline,
        needed_bytes: int,
    ) -> None:
        self.arrived += 1
        key, now_s = self.arrived, self.now_s
        request = make_request(
            request_id=f"id{key % 4}",
            received_s=now_s,
            deadline_s=now_s + timeout_s,
            max_tokens=max_tokens,
            priority=priority,
            on_deadline=on_deadline,
        )
        decision = admit(
            request,
            num_prompt_tokens,
            Resources(256, self.speed, self.memory, BUDGET),
            backlog_s=self.scheduler.backlog_s(self.speed, now_s, priority, request.deadline_s),
            now_s=now_s,
            needed_bytes=needed_bytes,
        )
        if isinstance(decision, Rejected):
            self.ended[key] += 1
            return
        assert self.memory.rss_bytes + needed_bytes <= BUDGET.limit_bytes
        assert self.memory.available_bytes - needed_bytes >= BUDGET.min_available_bytes
        assert now_s + decision.predicted_s <= request.deadline_s + 1e-9
        entry = Entry(key, decision, (), None, now_s)
        was_full = len(self.scheduler) == BOUND
        refusal = self.scheduler.add(entry, self.speed, now_s)
        assert (refusal is not None) == was_full
        if refusal is not None:
            assert refusal.retry_after_s is not None
            assert refusal.retry_after_s > 0
            self.end(entry)
            return
        self.entries[key] = entry

    @rule(seconds=st.floats(0, 30))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.expire()

    @rule()
    def wait_for_the_next_deadline(self) -> None:
        """Waking at ``next_deadline_s`` is enough: then something does expire."""
        next_s = self.scheduler.next_deadline_s(self.speed)
        if next_s is not None:
            self.now_s = max(self.now_s, next_s)
            assert self.expire() > 0

    def expire(self) -> int:
        expired = self.scheduler.expire(self.now_s, self.speed)
        for entry in expired:
            self.end(entry)
        late = [e for e in self.waiting() if e.deadline_s <= self.now_s]
        assert late == []
        return len(expired)

    @precondition(lambda self: self.scheduler.running is None)
    @rule()
    def start(self) -> None:
        self.expire()

        def place(entry: Entry[None]) -> tuple[int, float, int]:
            waited_s = self.now_s - entry.queued_s
            request = entry.admitted.request
            rises = sum(waited_s >= n * PROMOTE_AFTER_S for n in (1, 2))
            return max(0, request.priority - rises), request.deadline_s, entry.key

        expected = min(self.waiting(), key=place, default=None)
        assert self.scheduler.pop(self.now_s) is expected
        assert expected is None or expected.state is EntryState.RUNNING

    @precondition(lambda self: self.scheduler.running is not None)
    @rule(late_s=st.floats(0, 5))
    def finish(self, late_s: float) -> None:
        self.now_s += late_s
        self.end(self.scheduler.finish())

    @rule(number=st.integers(0, 4))
    def cancel(self, number: int) -> None:
        for entry in self.scheduler.cancel(CancelRequest(ReplyAddress("x"), f"id{number}")):
            assert entry.is_cancelled
            if entry is not self.scheduler.running:
                self.end(entry)

    @rule(rss_bytes=st.integers(0, 120), available_bytes=st.integers(0, 60))
    def read_memory(self, rss_bytes: int, available_bytes: int) -> None:
        self.memory = MemorySnapshot(rss_bytes, available_bytes)

    @rule(num_tokens=st.integers(1, 200), seconds=st.floats(0.001, 100))
    def measure(self, num_tokens: int, seconds: float) -> None:
        self.speed = self.speed.observe_prefill(num_tokens, seconds)
        self.speed = self.speed.observe_decode(num_tokens, seconds)

    def waiting(self) -> list[Entry[None]]:
        return [e for e in self.entries.values() if e.state is EntryState.WAITING]

    @invariant()
    def the_queue_is_bounded_and_holds_what_waits(self) -> None:
        assert len(self.scheduler) == len(self.waiting()) <= BOUND

    @invariant()
    def nothing_ends_twice(self) -> None:
        assert all(times == 1 for times in self.ended.values())

    def teardown(self) -> None:
        """Stop: what is left is handed back, and then every request has ended exactly once."""
        for entry in self.scheduler.clear():
            self.end(entry)
        if self.scheduler.running is not None:
            self.end(self.scheduler.finish())
        assert self.ended == Counter(range(1, self.arrived + 1))


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
