"""Stand-ins for every edge of the service: a clock, a transport, a worker, a language, memory."""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from edged.config.keys import Config
from edged.daemon.corrections_file import CorrectionKeeper
from edged.daemon.driver import Driver, Edges
from edged.daemon.journal_file import JournalFile
from edged.daemon.loader import ResidentModel
from edged.daemon.memory import KernelLimits
from edged.daemon.operator_events import OperatorEvents
from edged.daemon.preparer import Preparer
from edged.daemon.specialist_folders import SpecialistFolders
from edged.daemon.worker import Worker
from edged.engine.decoding import Constraint, Decoding, ForwardPass, HiddenReader
from edged.engine.loop import Engine
from edged.engine.steps import NO_ORIGIN, Prefilled, PromptOrigin, Step, Token
from edged.node.crash_journal import CrashJournal
from edged.node.effects import Effect, KeepCorrection, Prepare, WriteJournal
from edged.node.events import Prepared, Tick
from edged.node.generation import Finished, Generation
from edged.node.ledger import request_bytes
from edged.node.limits import Limits
from edged.node.node import Event, Node
from edged.node.throttling import DeviceReading
from edged.protocol.request import (
    Answer,
    ChatMessage,
    FinishReason,
    OutputFormat,
    SamplingParams,
)
from edged.protocol.wire import Delivery, Encoded, RequestDefaults, Topics, WireProperties
from edged.scheduling.latency_model import CostEstimate, LatencyModel
from edged.scheduling.memory_budget import MemoryBudget, MemoryPlan, MemorySnapshot
from edged.specialists.installed import Installed
from edged.specialists.scoring import OptionScoring

MIB = 1024**2


@dataclass
class FakeClock:
    """A monotonic clock that stands still until it is told otherwise."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass(frozen=True)
class Sent:
    """One message given to the transport."""

    handle: int
    message: Encoded
    qos: int
    retain: bool

    @property
    def json(self) -> dict[str, Any]:
        members = json.loads(self.message.payload)
        assert isinstance(members, dict)
        return members


@dataclass
class FakeTransport:
    """Remember what is published and acknowledged, in order."""

    sent: list[Sent] = field(default_factory=list)
    acknowledged: list[Delivery] = field(default_factory=list)

    def publish(self, message: Encoded, *, qos: int = 1, retain: bool = False) -> int:
        self.sent.append(Sent(len(self.sent), message, qos, retain))
        return len(self.sent) - 1

    def acknowledge(self, delivery: Delivery) -> None:
        self.acknowledged.append(delivery.receipt)

    def on(self, part: str) -> list[Sent]:
        """What was sent to topics that contain ``part``."""
        return [sent for sent in self.sent if part in sent.message.topic]

    @property
    def replies(self) -> list[Sent]:
        return self.on("/response/")


@dataclass
class FakeWorker(Worker):
    """Remember the generations; a test finishes them."""

    jobs: list[Generation] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    paused: list[int] = field(default_factory=list)
    resumed: list[Generation] = field(default_factory=list)
    releases: int = 0
    probes: int = 0
    num_touched: int = 0
    done: dict[int, tuple[int, int]] = field(default_factory=dict)
    """How far generations are, by their keys."""

    def progress(self) -> dict[int, tuple[int, int]]:
        return self.done

    def start(self, generation: Generation) -> None:
        is_new = all(generation is not job for job in self.jobs)
        (self.jobs if is_new else self.resumed).append(generation)

    def cancel(self, key: int) -> None:
        self.cancelled.append(key)

    def pause(self, key: int) -> None:
        self.paused.append(key)

    def release(self) -> None:
        self.releases += 1

    def probe(self) -> None:
        self.probes += 1


class PatientJournal(JournalFile):
    """A journal whose pages are on the disk as soon as they are written."""

    def sync(self, key: int) -> bool:
        return False


class SlowJournal(JournalFile):
    """A journal whose disk takes its time: a test says when a start is on it."""

    def __init__(self) -> None:
        super().__init__(None, lambda _key: None)
        self.keys: list[int] = []

    def sync(self, key: int) -> bool:
        self.keys.append(key)
        return True


def open_journal(folder: Path) -> CrashJournal:
    """Open the crash journal of a folder, as a process that starts does."""
    file = PatientJournal(folder, lambda _key: None)

    def write(effect: Effect) -> None:
        assert isinstance(effect, WriteJournal)
        file.write(effect.page, effect.content)

    return CrashJournal(file.read(), write)


class ManualPreparer(Preparer):
    """A preparer without a thread: a test lets it prepare."""

    def __init__(self, *args: Any) -> None:  # noqa: ANN401
        super().__init__(*args)
        self.waiting: list[Prepare] = []

    def submit(self, request: Prepare) -> Prepared | None:
        self.waiting.append(request)
        return None


def tokens(text: str) -> list[int]:
    return [ord(character) % 256 for character in text]


class ManualKeeper(CorrectionKeeper):
    """A disk that waits: a test says what becomes of a correction."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[KeepCorrection] = []

    def keep(self, effect: KeepCorrection) -> None:
        self.waiting.append(effect)


@dataclass
class FakeLanguage:
    """One token per character; raises ``error`` where a test asks for it."""

    error: Exception | None = None

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        if self.error is not None:
            raise self.error
        return [token for message in messages for token in tokens(message.content)]

    def compile_format(self, output_format: OutputFormat) -> Constraint | None:
        return None


class FakeSequence(Decoding):
    """An answer whose steps are scripted."""

    def __init__(self, steps: Iterator[Step], num_tokens: int) -> None:
        self.steps = steps
        self.num_tokens = num_tokens
        self.is_over = False


@dataclass
class FakeEngine(Engine):
    """Run scripted steps, one for each answer at a time; an exception among them is raised."""

    steps: Sequence[Prefilled | Token | Exception] = ()
    num_touched: int = 0
    calls: int = 0
    releases: int = 0
    active: list[FakeSequence] = field(default_factory=list)
    interrupted: list[Decoding] = field(default_factory=list)

    def release(self) -> None:
        self.releases += 1

    def start(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
        origin: PromptOrigin = NO_ORIGIN,
        reader: HiddenReader | None = None,
    ) -> Decoding:
        steps = self.generate(prompt_ids, sampling, max_tokens=max_tokens, constraint=constraint)
        self.active.append(FakeSequence(iter(steps), len(prompt_ids)))
        return self.active[-1]

    def step(self) -> ForwardPass:
        outcomes: dict[Decoding, list[Step]] = {}
        for sequence in self.active:
            step = next(sequence.steps, None)
            sequence.is_over = step is None
            sequence.num_tokens += isinstance(step, Token)
            outcomes[sequence] = [] if step is None else [step]
        num_rows = sum(isinstance(s, Token) for steps in outcomes.values() for s in steps)
        return ForwardPass(outcomes, num_rows, sum(s.num_tokens - 1 for s in self.active))

    def end(self, sequence: Decoding) -> None:
        self.active = [other for other in self.active if other is not sequence]

    def interrupt(self, sequence: Decoding) -> None:
        self.interrupted.append(sequence)

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> Generator[Prefilled | Token, None, None]:
        self.calls += 1
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            yield step


class CharacterStream:
    """A detokenizer of one character per token."""

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


LIMITS = Limits(
    defaults=RequestDefaults(Topics("edged", "kitchen")),
    budget=MemoryBudget(400 * MIB, 64 * MIB),
    max_model_len=256,
    kv_bytes_per_token=MIB,
    max_waiting=2,
    model_id="tiny@abcdef",
    plan=MemoryPlan(20 * MIB, 30 * MIB, 30 * MIB, 20 * MIB),
)
REQUEST_BYTES = request_bytes(LIMITS.defaults.max_payload_bytes, LIMITS.max_model_len)
"""What each request reserves with these limits."""
ROOMY = MemorySnapshot(rss_bytes=100 * MIB, available_bytes=500 * MIB)
COST = CostEstimate(prefill_token_s=0.01, decode_token_s=0.08)


def fake_model(config: Config, started_s: float = 0.0) -> ResidentModel:
    """Make what the status of a node has of its model."""
    manifest = SimpleNamespace(name="tiny", scheme="int8-w8a8")
    bundle = SimpleNamespace(manifest=manifest, model_id="tiny@abcdef", sha256="ab" * 32)
    engine = SimpleNamespace(max_model_len=LIMITS.max_model_len, num_slots=1)
    memory = SimpleNamespace(budget=LIMITS.budget, limits=KernelLimits(None, None))
    parts = {"config": config, "bundle": bundle, "engine": engine, "memory": memory}
    parts["specialists"] = SpecialistFolders()
    return cast("ResidentModel", SimpleNamespace(**parts, started_s=started_s))


@dataclass
class Bench:
    """A node with its driver, and fakes all around them."""

    limits: Limits = LIMITS
    clock: FakeClock = field(default_factory=FakeClock)
    transport: FakeTransport = field(default_factory=FakeTransport)
    worker: FakeWorker = field(default_factory=FakeWorker)
    language: FakeLanguage = field(default_factory=FakeLanguage)
    installed: Installed = field(default_factory=lambda: Installed(scoring=OptionScoring(tokens)))
    """The specialists."""
    keeper: ManualKeeper = field(default_factory=ManualKeeper)
    folder: Path | None = None
    """Of the crash journal."""
    journal: JournalFile | None = None
    cost: CostEstimate = COST
    memory: MemorySnapshot = ROOMY
    device: DeviceReading = field(default_factory=DeviceReading)
    packets: int = 0
    is_preparing: bool = True
    """Whether requests are prepared at once; else ``prepare`` does it."""

    def __post_init__(self) -> None:
        journal = self.journal or PatientJournal(self.folder, lambda _key: None)
        self.node = Node(self.limits, LatencyModel(self.cost), journal.read())
        self.metrics = self.node.metrics
        self.preparer = ManualPreparer(
            self.language.encode_chat,
            self.language.compile_format,
            self.limits,
            lambda _prepared: None,
            lambda: self.installed,
        )
        self.operator_events = OperatorEvents(
            self.transport, self.limits.defaults.topics, self.metrics, self.clock
        )
        self.edges = Edges(
            self.transport,
            self.worker,
            self.preparer,
            journal,
            self.operator_events,
            self.clock,
            lambda: self.memory,
            lambda: self.device,
            self.keeper,
        )
        self.driver = Driver(self.node, self.edges, self.limits.defaults, decision_interval_s=0.0)

    def take(self, event: Event) -> None:
        """Give the node an event, and let what it asks for be prepared."""
        self.driver.take(event)
        while self.is_preparing and self.preparer.waiting:
            self.prepare()

    def prepare(self) -> None:
        """Prepare what the node waits for."""
        self.driver.take(self.preparer.prepare(self.preparer.waiting.pop(0)))

    def tick(self) -> None:
        self.take(Tick())

    def delivery(self, payload: object, operation: str = "generate", **more: object) -> Delivery:
        self.packets += 1
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        topic = self.limits.defaults.topics.request(operation)
        return replace(Delivery(topic, data, qos=1, packet_id=self.packets), **more)  # type: ignore[arg-type]

    def deliver(self, payload: object, operation: str = "generate", **more: object) -> Delivery:
        delivery = self.delivery(payload, operation, **more)
        self.take(delivery)
        return delivery

    def finish(self, text: str = "Paris", seconds: float = 1.0) -> None:
        """End the running answer with a text, ``seconds`` after it was started."""
        started_s = self.clock()
        self.clock.advance(seconds)
        first_s = started_s + seconds / 2
        job = ran(self.worker.jobs[-1], started_s, first_s, num_output_tokens=len(text))
        job.spent.prefill_s = job.spent.decode_s = seconds / 2
        job.spent.decode_runs = len(text) - 1
        self.take(Finished(job, Answer(text, FinishReason.STOP), self.clock()))

    def confirm_all(self) -> None:
        """Let the broker confirm everything that was published."""
        for sent in list(self.transport.sent):
            self.driver.confirm(sent.handle)


def ran(
    job: Generation, started_s: float, first_s: float | None, *, num_output_tokens: int
) -> Generation:
    """Let a generation have run."""
    job.start(CharacterStream(), started_s)
    job.started_s, job.first_token_s = started_s, first_s
    job.output_ids[:] = range(num_output_tokens)
    return job


def correlation(data: bytes, **more: object) -> WireProperties:
    return replace(WireProperties(correlation_data=data), **more)  # type: ignore[arg-type]
