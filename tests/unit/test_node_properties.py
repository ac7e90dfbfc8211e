"""The node under any history: each delivery gets one reply, and no admitted deadline is missed."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from benchmarks.simulate.engine import step_s
from edged.errors import ErrorCode
from edged.node.effects import (
    Acknowledge,
    Cancel,
    Decode,
    Effect,
    Pause,
    Prepare,
    Publish,
    Start,
    SyncJournal,
)
from edged.node.events import Confirmed, Decoded, Drain, Prepared, Readings, Synced, Tick
from edged.node.generation import Finished, Generation, Paused
from edged.node.limits import Limits
from edged.node.node import Event, Node
from edged.protocol.request import (
    Answer,
    CancelRequest,
    FinishReason,
    OnDeadline,
    Priority,
    Rejected,
    ReplyAddress,
)
from edged.protocol.wire import Delivery, RequestDefaults, Topics
from edged.scheduling.latency_model import CostEstimate, LatencyModel
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot
from edged.scheduling.queued_request import MAX_PAUSES, RequestPhase
from tests.examples import num_examples
from tests.fakes import CharacterStream
from tests.make_request import make_request

BOUND = 3
MIB = 1024**2
LIMITS = Limits(
    defaults=RequestDefaults(Topics("edged", "n")),
    budget=MemoryBudget(limit_bytes=MIB, min_available_bytes=MIB // 10),
    max_model_len=256,
    kv_bytes_per_token=0,
    max_waiting=BOUND,
    model_id="m",
)
COST = CostEstimate(
    prefill_token_s=0.01,
    decode_token_s=0.1,
    prefill_pair_s=1e-5,
    decode_pair_s=1e-4,
    decode_row_s=0.02,
    run_s=0.05,
    chunk_tokens=64,
)
EPSILON_S = 1e-4


@dataclass
class Running:
    """What the engine has done for one generation since its start."""

    generation: Generation
    num_prompt: int
    """Tokens before the next one of the answer: of the prompt, and of the answer before a pause."""
    num_prefilled: int = 0
    is_cancelled: bool = False
    is_to_pause: bool = False

    @property
    def num_done(self) -> int:
        return self.generation.num_output_tokens


def _is_called(it: Running) -> bool:
    return it.is_cancelled or it.is_to_pause


class NodeMachine(RuleBasedStateMachine):
    """The node as the daemon drives it, with any sequence of events.

    The engine has as many slots as a history begins with, and takes up prompts in any order. It
    takes at most what is predicted, so every admitted deadline must be met: an admitted request
    ends at its own end before its deadline, unless it is cancelled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.memory = MemorySnapshot(rss_bytes=MIB // 2, available_bytes=MIB // 2)
        self.node = Node(LIMITS, LatencyModel(COST))
        self.cost = self.node.latency_model.current
        self.requests: dict[int, Any] = {}
        """What each delivery asks, by its packet id."""
        self.preparing: Prepare | None = None
        self.prompt_tokens: dict[str, int] = {}
        self.admitted: set[str] = set()
        """Reply topics of the requests that were not refused."""
        self.syncing: list[int] = []
        self.running: dict[int, Running] = {}
        self.unconfirmed: list[int] = []
        self.replies: Counter[str] = Counter()
        self.acknowledged: Counter[int | None] = Counter()
        self.is_decodes_turn = False

    @initialize(num_slots=st.integers(1, 4))
    def choose_slots(self, num_slots: int) -> None:
        self.node = Node(replace(LIMITS, num_slots=num_slots), LatencyModel(COST))

    def take(self, event: Event) -> None:
        """Give the node an event, and do what it says."""
        events = [event]
        while events:
            progress = {key: (it.num_prefilled, it.num_done) for key, it in self.running.items()}
            readings = Readings(self.memory, progress=progress)
            for effect in self.node.handle(events.pop(0), self.now_s, readings):
                if isinstance(effect, Decode):
                    events.append(Decoded(self.requests[effect.delivery.packet_id or 0]))
                else:
                    self.carry_out(effect)

    def carry_out(self, effect: Effect) -> None:
        match effect:
            case Prepare():
                assert self.preparing is None, "one request is prepared at a time"
                self.preparing = effect
            case SyncJournal():
                self.syncing.append(effect.key)
            case Start():
                run = effect.generation
                run.start(CharacterStream(), self.now_s)
                self.running[run.key] = Running(run, len(run.prompt_ids) + run.num_output_tokens)
            case Cancel():
                self.running[effect.key].is_cancelled = True
            case Pause():
                self.running[effect.key].is_to_pause = True
            case Publish():
                assert effect.handle is not None
                is_late = b"waited too long" in effect.message.payload
                assert not (is_late and effect.message.topic in self.admitted), "a missed deadline"
                self.unconfirmed.append(effect.handle)
                self.replies[effect.message.topic] += 1
            case Acknowledge():
                self.acknowledged[effect.delivery.packet_id] += 1

    def deliver(self, asked: Any) -> None:  # noqa: ANN401
        packet_id = len(self.requests) + 1
        self.requests[packet_id] = asked
        topic = "edged/n/request/generate"
        # Each delivery is a message of its own, and its reply goes to a topic of its own.
        self.take(Delivery(topic, str(packet_id).encode(), qos=1, packet_id=packet_id))

    @rule(
        num_prompt_tokens=st.integers(1, 200),
        max_tokens=st.integers(1, 80),
        deadline_s=st.floats(0.0, 40.0),
        priority=st.sampled_from(Priority),
        on_deadline=st.sampled_from(OnDeadline),
        number=st.integers(0, 4),
        user=st.sampled_from((None, "a", "b")),
    )
    def arrive(
        self,
        num_prompt_tokens: int,
        max_tokens: int,
        deadline_s: float,
        number: int,
        user: str | None,
        **more: Any,  # noqa: ANN401
    ) -> None:
        topic = f"reply/{len(self.requests) + 1}"
        self.prompt_tokens[topic] = num_prompt_tokens
        request = make_request(
            request_id=f"id{number}",
            topic=topic,
            received_s=self.now_s,
            deadline_s=self.now_s + deadline_s,
            max_tokens=max_tokens,
            **more,
        )
        self.deliver(replace(request, reply_to=replace(request.reply_to, user=user)))

    @rule(number=st.integers(0, 4))
    def cancel(self, number: int) -> None:
        topic = f"reply/{len(self.requests) + 1}"
        self.deliver(CancelRequest(ReplyAddress(topic, f"id{number}")))

    @precondition(lambda self: self.preparing is not None)
    @rule(is_refused=st.sampled_from((False, False, False, True)))
    def prepare(self, *, is_refused: bool = False) -> None:
        asked, self.preparing = self.preparing, None
        assert asked is not None
        refused = Rejected(ErrorCode.BAD_REQUEST, "no") if is_refused else None
        topic = asked.request.reply_to.topic
        self.take(Prepared(asked.key, [0] * self.prompt_tokens[topic], rejected=refused))
        if not self.replies[topic]:
            self.admitted.add(topic)

    @precondition(lambda self: self.syncing)
    @rule()
    def sync(self) -> None:
        self.take(Synced(self.syncing.pop(0)))

    @precondition(lambda self: self.unconfirmed)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(self.unconfirmed))
        self.unconfirmed.remove(handle)
        self.take(Confirmed(handle))

    @precondition(lambda self: self.running)
    @rule(count=st.integers(1, 60), speed=st.sampled_from((0.5, 1.0, 1.0)), data=st.data())
    def let_the_engine_work(self, count: int, speed: float, data: st.DataObject) -> None:
        """Let the engine do some steps: a prefill chunk and a token of each answer in turn."""
        self.settle()
        for _ in range(count):
            if not self.running:
                return
            prefilling = [it for it in self.running.values() if it.num_prefilled < it.num_prompt]
            decoding = [it for it in self.running.values() if it.num_prefilled >= it.num_prompt]
            if prefilling and not (decoding and self.is_decodes_turn):
                chosen = data.draw(st.sampled_from(prefilling)) if prefilling[1:] else prefilling[0]
                self.prefill(chosen, speed)
            else:
                self.decode(decoding, speed)
            self.is_decodes_turn = not self.is_decodes_turn
            self.end_step()

    def settle(self) -> None:
        """Let all happen that takes no time of the engine: preparing, writing, and its commands."""
        while (
            self.preparing is not None
            or self.syncing
            or any(map(_is_called, self.running.values()))
        ):
            if self.preparing is not None:
                self.prepare()
            if self.syncing:
                self.sync()
            self.obey()

    def obey(self) -> None:
        """Take cancels and pauses, as the worker does between two forward passes."""
        for key, it in list(self.running.items()):
            run = it.generation
            if it.is_cancelled:
                del self.running[key]
                self.take(Finished(run, run.end(FinishReason.CANCELLED), self.now_s))
            elif it.is_to_pause:
                del self.running[key]
                self.take(Paused(run))

    def prefill(self, it: Running, speed: float) -> None:
        count = min(it.num_prompt - it.num_prefilled, self.cost.chunk_tokens)
        self.now_s += speed * self.cost.margin * self.cost.prefill_s(count, it.num_prefilled)
        it.num_prefilled += count
        if it.num_prefilled >= it.num_prompt:
            it.generation.output_ids.append(0)

    def decode(self, batch: list[Running], speed: float) -> None:
        contexts = [len(it.generation.prompt_ids) + it.num_done - 1 for it in batch]
        self.now_s += speed * self.cost.margin * step_s(self.cost, contexts)
        for it in batch:
            it.generation.output_ids.append(0)

    def end_step(self) -> None:
        """Report what ended with this step; what was to pause or to be cancelled was too late."""
        for key, it in list(self.running.items()):
            if it.num_done >= it.generation.max_tokens:
                assert self.now_s <= it.generation.request.deadline_s + EPSILON_S
                del self.running[key]
                outcome = Answer("", FinishReason.LENGTH)
                self.take(Finished(it.generation, outcome, self.now_s))
        self.settle()

    @precondition(lambda self: not self.running and not self.syncing and self.preparing is None)
    @rule(seconds=st.floats(0, 30))
    def rest(self, seconds: float) -> None:
        assert len(self.node.scheduler) == 0, "requests wait for an idle engine"
        self.now_s += seconds
        self.take(Tick())

    @rule(rss=st.floats(0.0, 1.2), available=st.floats(0.0, 0.6))
    def read_memory(self, rss: float, available: float) -> None:
        """Readings that make the ladder climb, and come down again."""
        self.memory = MemorySnapshot(round(rss * MIB), round(available * MIB))
        self.take(Tick())

    @invariant()
    def the_queue_is_bounded(self) -> None:
        scheduler = self.node.scheduler
        queued = scheduler.queued()
        # What was paused was taken in before it ran, so it may stand beyond the bound; and one may
        # of a client that has no other.
        assert sum(not state.num_pauses for state in queued) <= BOUND + 1
        assert all(state.num_pauses <= MAX_PAUSES for state in queued)
        assert all(state.phase is not RequestPhase.FINISHED for state in queued)

    @invariant()
    def the_ledger_is_inside_the_budget(self) -> None:
        assert 0 <= self.node.guard.ledger.planned_bytes <= LIMITS.budget.limit_bytes

    @invariant()
    def nothing_is_replied_to_twice_or_acknowledged_unreplied(self) -> None:
        assert all(times == 1 for times in self.replies.values())
        assert all(times == 1 for times in self.acknowledged.values())
        assert self.acknowledged.total() == self.replies.total() - len(self.unconfirmed)

    def teardown(self) -> None:
        """Let all that was taken in end: each delivery has its one reply, and all is given back."""
        self.settle()
        while self.running:
            for it in self.running.values():
                it.is_cancelled = True
            self.settle()
        self.take(Drain())
        for handle in self.unconfirmed:
            self.take(Confirmed(handle))
        assert self.acknowledged.total() == self.replies.total() == len(self.requests)
        assert self.node.guard.ledger.accounts()["requests"] == 0


TestNode = NodeMachine.TestCase
TestNode.settings = settings(
    max_examples=num_examples(600),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
"""600 histories of up to 40 events."""
