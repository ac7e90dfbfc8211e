"""Any history of deliveries, connections and processes: each delivery is answered and acknowledged.

The machine is the broker, the engine and the disk around one node after the other. It delivers
again whatever is not acknowledged, ends processes by a crash or a stop, and lets time pass whatever
is at work.
"""

import json
from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edged.errors import ErrorCode
from edged.node.corrections import MAX_IN_HAND
from edged.node.crash_journal import INTAKE_PAGE, MAX_ATTEMPTS, STARTS_PAGE
from edged.node.effects import (
    Acknowledge,
    Cancel,
    Decode,
    Effect,
    KeepCorrection,
    Pause,
    Prepare,
    Publish,
    Start,
    SyncJournal,
    WriteJournal,
)
from edged.node.events import (
    Abandon,
    Confirmed,
    CorrectionKept,
    Decoded,
    Drain,
    EscalationReplied,
    Prepared,
    Readings,
    Synced,
    Tick,
)
from edged.node.generation import Finished, Generation, Paused
from edged.node.node import Event, Node
from edged.node.request_state import RequestState
from edged.protocol.decode import DecodedMessage
from edged.protocol.escalation import EscalationTarget
from edged.protocol.request import (
    Answer,
    CancelRequest,
    Correction,
    FinishReason,
    Priority,
    Rejected,
    ReplyAddress,
)
from edged.protocol.wire import Delivery, Dropped, DropReason, Refusal
from edged.scheduling.latency_model import LatencyModel
from tests.examples import num_examples
from tests.fakes import COST, LIMITS, ROOMY, CharacterStream
from tests.make_request import make_request

TOPIC = LIMITS.defaults.topics.request("generate")
CANCEL_REPLIES, CORRECTION_REPLIES = "reply/cancel", "reply/correct"
OTHER_NODE = EscalationTarget("attic", "other/requests", "own/escalations", b"secret")
UNSURE = Answer("on", FinishReason.UNSURE, detail={"specialist": "lamp"}, may_leave=True)
NUM_MESSAGES = 6
TIMEOUTS_S = (2.0, 20.0, 60.0)


def has_id(number: int) -> bool:
    """Every third message has neither an id nor Correlation Data."""
    return number % 3 > 0


def read(delivery: Delivery, received_s: float) -> DecodedMessage:
    """Decode the payloads of this test: what is asked, and a number."""
    kind, _, digits = delivery.payload.decode().partition(" ")
    number = int(digits)
    match kind:
        case "cancel":
            return CancelRequest(ReplyAddress(CANCEL_REPLIES, f"m{number}"))
        case "correct":
            request_id = f"m{number}" if has_id(number) else None
            return Correction(ReplyAddress(CORRECTION_REPLIES, request_id), "lamp", "x", "on")
        case "refused":
            return Refusal(ReplyAddress("reply/refused"), Rejected(ErrorCode.BAD_REQUEST, "no"))
        case "dropped":
            return Dropped(DropReason.FORBIDDEN_TOPIC, "no")
    return make_request(
        request_id=f"m{number}" if has_id(number) else None,
        topic="reply/shared" if has_id(number) else f"reply/{number}",
        received_s=received_s,
        deadline_s=received_s + TIMEOUTS_S[number % len(TIMEOUTS_S)],
        max_tokens=5,
        priority=Priority(number % 3),
    )


def message_of(address: ReplyAddress) -> int:
    """The message with a reply address, by its id or its topic."""
    return int((address.request_id or address.topic).lstrip("m").removeprefix("reply/"))


def number_of(run: Generation) -> int:
    """The message that a generation answers; its prompt says so."""
    return run.prompt_ids[0]


class DeliveryMachine(RuleBasedStateMachine):
    """One node after the other, and all that is around them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.pages = {STARTS_PAGE: b"", INTAKE_PAGE: b""}
        self.unacknowledged: dict[int, Delivery] = {}
        """The broker's, by packet id."""
        self.num_packets = 0
        self.epoch = 0
        self.limits = LIMITS
        self.crashes: Counter[int] = Counter()
        """Processes that ended while a message ran, since its last reply."""
        self.refused: set[int] = set()
        """Messages that were refused for it, and not published anew since."""
        self.once_refused: set[int] = set()
        """All of them: one that is published anew is tried again, unless it comes by a redelivery
        before that, which is as if it had never been away."""

    @initialize(num_slots=st.integers(1, 3))
    def begin(self, num_slots: int) -> None:
        limits = replace(LIMITS, max_waiting=3, num_slots=num_slots)
        self.limits = replace(limits, escalation=OTHER_NODE)
        self.start_process()

    def start_process(self) -> None:
        self.preparing: Prepare | None = None
        self.syncing: list[int] = []
        self.running: dict[int, Generation] = {}
        self.cancelled: set[int] = set()
        self.to_pause: set[int] = set()
        self.unconfirmed: list[int] = []
        self.keeping: list[KeepCorrection] = []
        self.keeping_since_s: dict[int, float] = {}
        self.passed_on: list[str] = []
        self.num_delivered = self.num_replies = 0
        self.final_until_s: dict[int, float] = {}
        """Until when the answer to a message with an id is repeated instead of made again."""
        pages = self.pages[STARTS_PAGE], self.pages[INTAKE_PAGE]
        self.node = Node(self.limits, LatencyModel(COST), pages)
        for effect in self.node.start():
            self.carry_out(effect)

    def take(self, event: Event) -> list[Effect]:
        """Give the node an event, and carry out all that follows; return it."""
        events, done = [event], []
        while events:
            for effect in self.node.handle(events.pop(0), self.now_s, Readings(ROOMY)):
                done.append(effect)
                self.carry_out(effect)
                if isinstance(effect, Decode):
                    events.append(Decoded(read(effect.delivery, effect.received_s)))
        return done

    def carry_out(self, effect: Effect) -> None:
        match effect:
            case Start() | Cancel() | Pause() | KeepCorrection():
                self.command(effect)
            case WriteJournal():
                self.pages[effect.page] = effect.content
            case Decode():
                assert effect.delivery.fingerprint in self.intake_page()["marked"]
            case Prepare():
                assert self.preparing is None, "one request is prepared at a time"
                self.preparing = effect
            case SyncJournal():
                self.syncing.append(effect.key)
            case Publish():
                self.send(effect)
            case Acknowledge():
                self.acknowledge(effect.delivery)

    def begin_to_keep(self, effect: KeepCorrection) -> None:
        token = effect.correction.reply_to.request_id
        # One that the disk took too long for was answered, and its sender may try again.
        since_s = self.now_s - LIMITS.defaults.timeout_s
        others = [
            other.correction.reply_to.request_id
            for other in self.keeping
            if self.keeping_since_s[other.key] > since_s
        ]
        assert token is None or token not in others, "it is on its way already"
        self.keeping.append(effect)
        self.keeping_since_s[effect.key] = self.now_s
        assert len(self.keeping) <= MAX_IN_HAND

    def acknowledge(self, delivery: Delivery) -> None:
        # Over a connection that is gone, nothing can be acknowledged any more.
        if delivery.connection_epoch == self.epoch:
            del self.unacknowledged[delivery.packet_id]

    def command(self, effect: Start | Cancel | Pause | KeepCorrection) -> None:
        match effect:
            case KeepCorrection():
                self.begin_to_keep(effect)
            case Start():
                self.begin_generation(effect.generation)
            case Cancel():
                self.cancelled.add(effect.key)
            case Pause():
                self.to_pause.add(effect.key)

    def begin_generation(self, run: Generation) -> None:
        number = number_of(run)
        if not run.was_paused:
            assert self.crashes[number] < MAX_ATTEMPTS, "it ended the process too often"
        # Of equal messages without an id, one may be refused and another tried.
        if has_id(number):
            assert number not in self.refused, "it was refused for good"
            assert number not in map(number_of, self.running.values()), "it runs already"
            assert self.now_s > self.final_until_s.get(number, -1.0), "it was answered already"
        run.start(CharacterStream(), self.now_s)
        self.running[run.key] = run

    def send(self, published: Publish) -> None:
        assert published.handle is not None
        if published.message.topic == OTHER_NODE.request_topic:
            self.passed_on.append(json.loads(published.message.payload)["id"])
            return
        self.unconfirmed.append(published.handle)
        self.num_replies += 1
        assert self.num_replies <= self.num_delivered, "a second reply"
        reply, topic = json.loads(published.message.payload), published.message.topic
        number = reply["id"][1:] if reply["id"] else topic.removeprefix("reply/")
        if number.isdigit() and topic not in {CANCEL_REPLIES, CORRECTION_REPLIES}:
            is_refused = reply.get("error", {}).get("code") == "crashed_before"
            if is_refused and not reply["duplicate"]:
                self.refuse_crashed(int(number))
            self.crashes[int(number)] = 0

    def refuse_crashed(self, number: int) -> None:
        """Take a refusal of what ended the process twice."""
        # Several messages without an id may be equal, and a reply does not say to which it is.
        if has_id(number) and number not in self.once_refused:
            assert self.crashes[number] >= MAX_ATTEMPTS, "it did not end the process twice"
        self.refused.add(number)
        self.once_refused.add(number)

    def intake_page(self) -> dict[str, list[str]]:
        page = json.loads(self.pages[INTAKE_PAGE])
        assert isinstance(page, dict)
        return page

    def deliver(self, delivery: Delivery) -> None:
        self.unacknowledged[delivery.packet_id] = delivery
        self.num_delivered += 1
        self.take(delivery)

    def publish(self, text: str) -> None:
        self.num_packets += 1
        packet_id, epoch = self.num_packets, self.epoch
        self.deliver(
            Delivery(TOPIC, text.encode(), qos=1, packet_id=packet_id, connection_epoch=epoch)
        )

    def redeliver(self) -> None:
        """Deliver what is not acknowledged over a new connection, in its order."""
        self.epoch += 1
        for delivery in list(self.unacknowledged.values()):
            self.deliver(replace(delivery, is_redelivery=True, connection_epoch=self.epoch))

    @rule(number=st.integers(0, NUM_MESSAGES - 1))
    def ask(self, number: int) -> None:
        self.refused.discard(number)
        self.publish(f"generate {number}")

    @rule(
        kind=st.sampled_from(("cancel", "cancel", "correct", "correct", "refused", "dropped")),
        number=st.integers(0, 5),
    )
    def send_other(self, kind: str, number: int) -> None:
        self.publish(f"{kind} {number}")

    @rule()
    def reconnect(self) -> None:
        self.redeliver()

    @precondition(lambda self: self.preparing is not None)
    @rule(is_refused=st.sampled_from((False, False, False, True)))
    def prepare(self, *, is_refused: bool = False) -> None:
        asked, self.preparing = self.preparing, None
        assert asked is not None
        number = message_of(asked.request.reply_to)
        refused = Rejected(ErrorCode.BAD_REQUEST, "no") if is_refused else None
        self.take(Prepared(asked.key, [number], rejected=refused))

    @precondition(lambda self: self.syncing)
    @rule()
    def sync(self) -> None:
        self.take(Synced(self.syncing.pop(0)))

    @precondition(lambda self: self.keeping)
    @rule(is_refused=st.sampled_from((False, False, True)))
    def keep(self, *, is_refused: bool = False) -> None:
        refused = Rejected(ErrorCode.BAD_REQUEST, "no") if is_refused else None
        key = self.keeping.pop(0).key
        self.take(CorrectionKept(key, 1, is_new=not is_refused, rejected=refused))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), is_broken=st.sampled_from((False, False, False, True)))
    def finish(self, data: st.DataObject, *, is_broken: bool) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.running))), is_broken=is_broken)

    @precondition(lambda self: self.running)
    @rule()
    def decide(self) -> None:
        """Let a specialist be unsure, so that the other node is asked."""
        run = self.running.pop(min(self.running))
        run.first_token_s = self.now_s
        self.take(Finished(run, UNSURE, self.now_s))

    @precondition(lambda self: self.passed_on)
    @rule(data=st.data(), is_sure=st.booleans())
    def answer_elsewhere(self, data: st.DataObject, *, is_sure: bool) -> None:
        """Let the other node answer, perhaps again or too late."""
        token = data.draw(st.sampled_from(self.passed_on))
        answer = Answer("on", FinishReason.STOP) if is_sure else None
        self.take(EscalationReplied(token, answer))

    def end(self, key: int, *, is_broken: bool = False) -> None:
        run = self.running.pop(key)
        if is_broken:
            self.take(Finished(run, Rejected(ErrorCode.INTERNAL, "broken"), self.now_s))
        else:
            run.output_ids.append(0)
            self.final_until_s[number_of(run)] = run.request.deadline_s
            self.take(Finished(run, Answer("x", FinishReason.STOP), self.now_s))

    @precondition(lambda self: self.cancelled or self.to_pause)
    @rule()
    def obey(self) -> None:
        """Take the commands of the engine."""
        cancelled, self.cancelled = self.cancelled, set()
        to_pause, self.to_pause = self.to_pause, set()
        for key in sorted(cancelled & set(self.running)):
            run = self.running.pop(key)
            self.take(Finished(run, run.end(FinishReason.CANCELLED), self.now_s))
        for key in sorted(to_pause & set(self.running)):
            run = self.running.pop(key)
            run.was_paused = True
            self.take(Paused(run))

    @precondition(lambda self: self.unconfirmed)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        self.confirm_one(data.draw(st.sampled_from(self.unconfirmed)))

    def confirm_one(self, handle: int) -> None:
        self.unconfirmed.remove(handle)
        done = self.take(Confirmed(handle))
        assert [type(effect) for effect in done] == [Acknowledge]

    @rule(seconds=st.floats(0.0, 25.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.take(Tick())

    @rule()
    def crash(self) -> None:
        """End the process wherever it is."""
        page = self.intake_page()
        is_known = any(fingerprint in page["crashes"] for fingerprint in page["marked"])
        self.crashes.update({state.prompt_ids[0] for state in self.in_progress()})
        if is_known:  # it did this and the crash before, at both of which the others were present
            self.crashes = Counter({number: n - 1 for number, n in self.crashes.items() if n > 1})
        self.start_process()
        self.redeliver()

    def in_progress(self) -> list[RequestState]:
        """The requests whose start is written down."""
        scheduler = self.node.scheduler
        paused = [state for state in scheduler.queued() if state.num_pauses]
        return [*paused, *scheduler.running, *self.node._escalations.states]

    @rule(ends_first=st.booleans())
    def stop(self, *, ends_first: bool) -> None:
        """Stop the process as a signal does; it is no crash."""
        self.take(Drain())
        if ends_first and self.running:
            self.end(min(self.running))
        self.take(Abandon())
        self.start_process()
        assert self.node.num_unfinished == 0
        assert self.intake_page()["marked"] == []
        self.redeliver()

    @invariant()
    def at_most_two_deliveries_are_marked(self) -> None:
        if self.pages[INTAKE_PAGE]:
            assert len(self.intake_page()["marked"]) <= 2

    @invariant()
    def nothing_has_a_start_that_is_not_written(self) -> None:
        if self.pages[STARTS_PAGE]:
            starts = json.loads(self.pages[STARTS_PAGE])["starts"]
            assert {state.identity.key for state in self.in_progress()} <= set(starts)

    def settle(self) -> None:
        """Let everything happen but what somebody would have to ask for."""
        for _ in range(200):
            if self.preparing is not None:
                self.prepare()
            elif self.syncing or self.keeping:
                self.sync() if self.syncing else self.keep()
            elif self.cancelled or self.to_pause:
                self.obey()
            elif self.running:
                self.end(min(self.running))
            elif self.unconfirmed:
                self.confirm_one(self.unconfirmed[0])
            elif self.unacknowledged:
                self.wait(1.0)
            else:
                return

    def teardown(self) -> None:
        """Let all end: each delivery was answered and acknowledged, and all memory given back."""
        self.settle()
        assert self.unacknowledged == {}
        assert self.node.num_unconfirmed == 0
        assert self.node.guard.ledger.accounts()["requests"] == 0
        self.now_s += 1000.0
        assert self.node.next_tick_s() is None


TestDeliveries = DeliveryMachine.TestCase
TestDeliveries.settings = settings(max_examples=num_examples(400), stateful_step_count=40)
"""400 histories of up to 40 events."""
