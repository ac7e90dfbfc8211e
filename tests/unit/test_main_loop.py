"""The main loop: events to the node, the watchdog from progress, and an orderly end."""

import queue
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast
from unittest.mock import patch

import pytest

from edged.config.keys import Config, ModelConfig, StateConfig
from edged.daemon.check import Checked
from edged.daemon.connection_log import ConnectionLog
from edged.daemon.driver import Driver
from edged.daemon.former_session import FromFormer
from edged.daemon.homeassistant import MAX_DELAY_S
from edged.daemon.inbox import Event, FromGroup, Inbox, ReloadRequested, StopRequested
from edged.daemon.main_loop import (
    DRAIN_LIMIT_S,
    LONGEST_WAIT_S,
    MAX_EVENTS,
    QUIET_S,
    STALL_LIMIT_S,
    MainLoop,
    Parts,
    StalledError,
)
from edged.daemon.model_trial import ModelTrial
from edged.daemon.reporting import Reporter
from edged.daemon.sdnotify import Notifier
from edged.errors import ConfigError, UnavailableError
from edged.node.events import CorrectionKept, EscalationReplied, Tick
from edged.node.generation import Finished
from edged.node.node import Event as NodeEvent
from edged.node.pressure import PressureLevel
from edged.protocol.request import Answer, FinishReason
from edged.protocol.wire import Delivery, Encoded
from edged.transport.events import Connected, ConnectFailed, Disconnected, Published
from tests.fakes import LIMITS, Bench, FakeWorker, ManualPreparer, fake_model, ran

if TYPE_CHECKING:
    from edged.bundle.folder import Bundle
    from edged.daemon.former_session import FormerSession
    from edged.daemon.group import Group
    from edged.transport.network import Transport


class RecordingNotifier(Notifier):
    """Remember what systemd would be told."""

    def __init__(self, interval_s: float | None = None) -> None:
        super().__init__({} if interval_s is None else {"WATCHDOG_USEC": f"{interval_s * 1e6:.0f}"})
        self.told: list[str] = []

    def _send(self, message: str) -> None:
        self.told.append(message)


@dataclass
class FakeThreads:
    """The threads, as far as the loop looks at them."""

    is_mqtt_alive: bool = True
    is_worker_alive: bool = True
    is_preparer_alive: bool = True
    stalled_s: float = 0.0
    busy_s: float = 0.0


class WatchedWorker(FakeWorker):
    """A worker whose thread a test lets die or hang."""

    threads: FakeThreads

    @property
    def is_alive(self) -> bool:
        return self.threads.is_worker_alive

    def stalled_s(self, now_s: float) -> float:
        return self.threads.stalled_s


class WatchedPreparer(ManualPreparer):
    """A preparer whose thread a test lets die or hang."""

    threads: FakeThreads

    @property
    def is_alive(self) -> bool:
        return self.threads.is_preparer_alive

    def busy_s(self, now_s: float) -> float:
        return self.threads.busy_s


class FakeTransportThread:
    def __init__(self, threads: FakeThreads) -> None:
        self._threads = threads
        self.num_stale_acknowledgements = 0

    def is_alive(self) -> bool:
        return self._threads.is_mqtt_alive


class ScriptedInbox:
    """Events in order; when none is left the wait ends, after as long as was asked for."""

    def __init__(self, bench: Bench, events: list[Event]) -> None:
        self._bench = bench
        self._events = events
        self.waits: list[float] = []

    def get(self, timeout_s: float) -> Event:
        self.waits.append(timeout_s)
        if not self._events:
            self._bench.clock.advance(timeout_s)
            raise queue.Empty
        return self._events.pop(0)


class Stage:
    """A loop around a node, with fakes for every edge."""

    def __init__(
        self,
        folder: Path,
        events: list[Event],
        *,
        watchdog_s: float | None = None,
        reload: Callable[[], Checked] | None = None,
        exchange: Callable[[Checked], bool] = lambda _: False,
    ) -> None:
        self.threads = FakeThreads()
        worker = WatchedWorker()
        worker.threads = self.threads
        self.bench = Bench(worker=worker, folder=folder)
        bench = self.bench
        language = bench.language
        preparer = WatchedPreparer(
            language.encode_chat, language.compile_format, bench.limits, lambda _prepared: None
        )
        preparer.threads = self.threads
        bench.preparer = preparer
        bench.edges = replace(bench.edges, preparer=preparer)
        bench.driver = Driver(
            bench.node, bench.edges, bench.limits.defaults, decision_interval_s=0.0
        )
        self.notifier = RecordingNotifier(watchdog_s)
        self.inbox = ScriptedInbox(bench, events)
        config = Config(
            node="kitchen",
            model=ModelConfig(path=folder / "bundle"),
            state=StateConfig(file=folder / "state.json"),
        )
        trial = ModelTrial(config, bench.clock)
        self.reporter = Reporter(fake_model(config, bench.clock()), bench.driver, trial)
        transport = cast("Transport", FakeTransportThread(self.threads))
        connection = ConnectionLog(
            transport, "mqtt://broker:1883", bench.driver, self.reporter, self.notifier
        )
        self.parts = Parts(
            bench.driver,
            connection,
            self.reporter,
            self.notifier,
            trial,
        )
        self.loop = MainLoop(cast("Inbox", self.inbox), self.parts, reload, exchange)

    @property
    def states(self) -> list[str]:
        return [sent.json["state"] for sent in self.bench.transport.on("/state")]


STOP = StopRequested("SIGTERM")
CHANGED = Checked(
    Config(node="kitchen", model=ModelConfig(path=Path("other"))), cast("Bundle", None)
)


def test_a_stop_with_nothing_to_do_ends_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [STOP])
    stage.loop.run()
    assert stage.notifier.told == ["STOPPING=1"]
    assert stage.states[-1] == "stopping"


def test_a_reload_ends_the_loop_to_start_anew_and_is_no_stop_for_systemd(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [ReloadRequested()], reload=lambda: CHANGED)
    stage.loop.run()
    assert stage.loop.is_reloading
    (told,) = stage.notifier.told
    assert told.startswith("RELOADING=1\n")


def test_a_reload_of_nothing_but_specialists_goes_on_serving(tmp_path: Path) -> None:
    events: list[Event] = [ReloadRequested(), STOP]
    stage = Stage(tmp_path, events, reload=lambda: CHANGED, exchange=lambda it: it is CHANGED)
    stage.loop.run()
    assert not stage.loop.is_reloading
    reloading, ready, stopping = stage.notifier.told
    assert reloading.startswith("RELOADING=1\n")
    assert ready.startswith("READY=1")
    assert stopping == "STOPPING=1"


def test_a_bad_configuration_keeps_the_old_one_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def reload() -> Checked:
        raise ConfigError("nonsense: unknown key")

    stage = Stage(tmp_path, [ReloadRequested(), STOP], reload=reload)
    stage.loop.run()
    assert not stage.loop.is_reloading
    status, stopping = stage.notifier.told
    assert status.startswith("STATUS=serving with the old configuration: nonsense: unknown key")
    assert stopping == "STOPPING=1"
    assert "nonsense" in caplog.text


def test_specialists_that_cannot_be_taken_up_keep_the_old_configuration_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = UnavailableError("specialists: 9 MiB do not fit")

    def exchange(_changed: Checked) -> bool:
        raise error

    events: list[Event] = [ReloadRequested(), STOP]
    stage = Stage(tmp_path, events, reload=lambda: CHANGED, exchange=exchange)
    refused: list[tuple[Config, str]] = []
    monkeypatch.setattr(stage.parts.trial, "refuse", lambda *given: refused.append(given))
    stage.loop.run()
    assert not stage.loop.is_reloading
    assert refused == [(CHANGED.config, str(error))]
    reloading, ready, status, _ = stage.notifier.told
    assert (reloading[:12], ready[:7]) == ("RELOADING=1\n", "READY=1")
    assert status.startswith(f"STATUS=serving with the old configuration: {error}")
    assert f"the old one stays: {error}" in caplog.text


def test_a_stop_wins_over_a_reload_that_is_under_way(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [ReloadRequested(), STOP, ReloadRequested()], reload=lambda: CHANGED)
    stage.bench.deliver({"id": "a", "prompt": "x"})
    stage.loop.run()
    assert not stage.loop.is_reloading
    assert [told.partition("=")[0] for told in stage.notifier.told] == ["RELOADING", "STOPPING"]


def test_without_a_configuration_file_a_reload_does_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [ReloadRequested(), STOP])
    stage.loop.run()
    assert stage.notifier.told == ["STOPPING=1"]


def test_what_another_node_says_is_acknowledged_and_goes_to_the_node(tmp_path: Path) -> None:
    payload = b'{"id": "t", "status": "error", "data": {}}'
    reply = Delivery("edged/kitchen/response/escalation/kitchen", payload, qos=1, packet_id=7)
    kept = CorrectionKept(3, count=1)
    stage = Stage(tmp_path, [reply, kept, STOP])
    taken: list[NodeEvent] = []
    take = stage.bench.driver.take

    def note(event: NodeEvent) -> None:
        taken.append(event)
        take(event)

    with patch.object(stage.bench.driver, "take", note):
        stage.loop.run()
    assert taken[:2] == [EscalationReplied("t", None), kept]
    assert stage.bench.transport.acknowledged == [reply.receipt]


def test_a_stop_waits_for_the_running_answer_and_its_confirmation(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [STOP])
    delivery = stage.bench.deliver({"id": "a", "prompt": "x"})
    job = ran(stage.bench.worker.jobs[0], 1000.0, 1000.0, num_output_tokens=1)
    stage.inbox._events.append(Finished(job, Answer("Pa", FinishReason.STOP), 1000.0))
    publish = stage.bench.transport.publish

    def publish_and_confirm(message: Encoded, *, qos: int = 1, retain: bool = False) -> int:
        handle = publish(message, qos=qos, retain=retain)
        if "/response/" in message.topic:
            stage.inbox._events.append(Published(handle))
        return handle

    stage.bench.transport.publish = publish_and_confirm  # type: ignore[method-assign]
    stage.loop.run()
    assert stage.bench.transport.acknowledged == [delivery.receipt]


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [STOP])
    stage.bench.deliver({"id": "a", "prompt": "x"})
    before_s = stage.bench.clock()
    stage.loop.run()
    assert stage.bench.clock() - before_s == pytest.approx(DRAIN_LIMIT_S)
    assert stage.bench.transport.acknowledged == []


def test_a_request_that_a_stop_cuts_off_has_not_crashed_the_process(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [STOP])
    stage.bench.deliver({"id": "a", "prompt": "x"})
    stage.loop.run()
    again = Bench(folder=tmp_path)
    again.deliver({"id": "a", "prompt": "x"})
    again.finish()
    assert again.transport.replies[0].json["attempt"] == 1


def test_asked_twice_it_stops_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [STOP, STOP])
    stage.bench.deliver({"id": "a", "prompt": "x"})
    before_s = stage.bench.clock()
    stage.loop.run()
    assert stage.bench.clock() - before_s <= QUIET_S


def test_what_follows_an_event_closely_is_taken_before_anything_else(tmp_path: Path) -> None:
    events: list[Event] = [Published(1000 + i) for i in range(3)]
    stage = Stage(tmp_path, [*events, STOP])
    stage.loop.run()
    assert stage.inbox.waits[1 : len(events) + 1] == [QUIET_S] * len(events)


def test_a_flood_of_events_does_not_keep_the_loop_from_looking_after_itself(tmp_path: Path) -> None:
    events: list[Event] = [Published(1000 + i) for i in range(2 * MAX_EVENTS)]
    stage = Stage(tmp_path, [*events, STOP])
    stage.loop.run()
    fresh = [i for i, wait_s in enumerate(stage.inbox.waits) if wait_s != QUIET_S]
    assert fresh == [0, MAX_EVENTS, 2 * MAX_EVENTS]


def test_the_watchdog_is_fed_between_two_events_that_take_long(tmp_path: Path) -> None:
    deliveries: list[Event] = [Delivery("edged/kitchen/request/generate", b"x") for _ in range(5)]
    stage = Stage(tmp_path, [*deliveries, STOP], watchdog_s=60.0)
    take = stage.bench.driver.take

    def take_long(event: NodeEvent) -> None:
        if isinstance(event, Delivery):
            stage.bench.clock.advance(21.0)
        take(event)

    stage.bench.driver.take = take_long  # type: ignore[method-assign]
    stage.loop.run()
    assert stage.notifier.told.count("WATCHDOG=1") >= len(deliveries)


def test_a_thread_that_died_is_seen_before_the_next_event(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [Published(1000 + i) for i in range(MAX_EVENTS)])
    stage.threads.is_mqtt_alive = False
    with pytest.raises(StalledError):
        stage.loop.run()
    assert len(stage.inbox.waits) == 1


def test_a_connection_is_announced_and_told(tmp_path: Path) -> None:
    events: list[Event] = [
        ConnectFailed("connection refused", 1.0),
        Connected(1, is_session_present=False, protocol_version="5"),
        Disconnected("gone", 1.0),
        Connected(2, is_session_present=False, protocol_version="5"),
        STOP,
    ]
    stage = Stage(tmp_path, events)
    stage.loop.run()
    statuses = [line for line in stage.notifier.told if line.startswith("STATUS=")]
    assert statuses == [
        "STATUS=waiting for a broker: mqtt://broker:1883: connection refused",
        "STATUS=serving on mqtt://broker:1883",
        "STATUS=waiting for mqtt://broker:1883: gone",
        "STATUS=serving on mqtt://broker:1883",
    ]
    online = stage.bench.transport.on("/availability")
    assert [sent.message.payload for sent in online] == [b"online", b"online"]
    assert all(sent.retain for sent in online)
    assert stage.bench.transport.on("/info")[0].json["model"]["name"] == "tiny"
    counts = stage.bench.metrics.snapshot()
    assert (counts["connects"], counts["lost_sessions"]) == (2, 1)


def test_the_watchdog_is_fed_three_times_an_interval(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [], watchdog_s=6.0)
    feeding = stage.notifier.watchdog

    def feed() -> None:
        feeding()
        if stage.notifier.told.count("WATCHDOG=1") == 4:
            stage.inbox._events.append(STOP)

    stage.notifier.watchdog = feed  # type: ignore[method-assign]
    stage.loop.run()
    assert all(wait <= 2.0 for wait in stage.inbox.waits)


def test_memory_that_stays_over_the_budget_ends_the_process_to_be_started_again(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path, [])
    stage.bench.node.guard._ladder.level = PressureLevel.RESTART
    with pytest.raises(StalledError, match=r"memory stays over budget\.memory"):
        stage.loop.run()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"is_mqtt_alive": False}, "MQTT thread"),
        ({"is_worker_alive": False}, "inference thread"),
        ({"is_preparer_alive": False}, "preparing thread"),
        ({"stalled_s": STALL_LIMIT_S + 1}, "no step for 31 s"),
        ({"busy_s": STALL_LIMIT_S + 1}, "prepared for 31 s"),
    ],
)
def test_a_part_that_stands_still_ends_the_process_unfed(
    tmp_path: Path, change: dict[str, float], named: str
) -> None:
    stage = Stage(tmp_path, [], watchdog_s=6.0)
    for name, value in change.items():
        setattr(stage.threads, name, value)
    with pytest.raises(StalledError, match=named):
        stage.loop.run()
    assert "WATCHDOG=1" not in stage.notifier.told


def test_a_message_the_broker_refuses_is_logged_and_does_not_block(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, [Published(7, failure="too large"), STOP])
    stage.loop.run()
    assert "too large" in caplog.text


def test_the_loop_wakes_up_to_refuse_what_waits_too_long(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [])
    bench = stage.bench
    bench.deliver({"id": "long", "prompt": "x", "max_tokens": 5})
    bench.deliver({"id": "wait", "prompt": "x", "max_tokens": 5, "timeout_ms": 2000})

    take = bench.driver.take

    def take_and_stop(event: NodeEvent) -> None:
        take(event)
        if isinstance(event, Tick) and bench.transport.replies:
            stage.inbox._events.append(STOP)

    bench.driver.take = take_and_stop  # type: ignore[method-assign]
    stage.loop.run()
    assert stage.inbox.waits[0] < 2.0
    assert bench.transport.replies[0].json["error"]["code"] == "timeout"


def test_a_state_file_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, [])
    (tmp_path / "state.json").mkdir()
    stage.reporter.tick()
    stage.reporter.tick(is_forced=True)
    assert caplog.text.count("state.file") == 1
    (tmp_path / "state.json").rmdir()
    stage.reporter.tick(is_forced=True)
    assert '"ready"' in (tmp_path / "state.json").read_text()


class FakeGroup:
    """A group, as far as the loop looks at it."""

    is_alive = True
    membership = None

    def __init__(self) -> None:
        self.taken: list[Event] = []

    def take(self, event: Event) -> None:
        self.taken.append(event)

    def tick(self) -> None:
        pass

    def next_tick_s(self) -> float:
        return float("inf")


def told(stage: Stage) -> list[str]:
    return [sent.json["event"] for sent in stage.bench.transport.on("/event")]


def test_the_groups_events_go_to_the_group(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [FromGroup(Published(1)), STOP])
    group = FakeGroup()
    stage.loop._parts = replace(stage.parts, group=cast("Group", group))
    stage.loop.run()
    assert group.taken == [Published(1)]


def test_a_group_whose_thread_is_dead_ends_the_process_and_says_why(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [])
    group = FakeGroup()
    group.is_alive = False
    stage.loop._parts = replace(stage.parts, group=cast("Group", group))
    with pytest.raises(StalledError, match="thread of the group"):
        stage.loop.run()
    assert told(stage) == ["stalled"]


def test_without_a_group_its_events_are_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [FromGroup(Published(1)), STOP])
    stage.loop.run()
    assert told(stage) == ["stopping"]


def test_home_assistants_start_is_answered_with_announcement_and_state(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [Delivery("homeassistant/status", b"online", qos=1)])
    announced = stage.bench.transport.on("homeassistant/device/edged_kitchen/config")
    assert announced == []
    tick = stage.reporter.tick

    def stop_when_announced(*, is_forced: bool = False) -> None:
        tick(is_forced=is_forced)
        if stage.bench.transport.on("homeassistant/device/edged_kitchen/config"):
            stage.inbox._events.append(STOP)

    stage.reporter.tick = stop_when_announced  # type: ignore[method-assign]
    stage.loop.run()
    assert stage.inbox.waits[1] <= MAX_DELAY_S
    assert stage.states[-1] == "stopping"


def test_memory_that_gets_short_and_recovers_is_told_once_each(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [])
    roomy = stage.bench.memory
    for memory in (roomy, type(roomy)(LIMITS.budget.limit_bytes + 1, 10**9)) * 2:
        stage.bench.memory = memory
        for _ in range(2):
            stage.reporter.tick(is_forced=True)
    kinds = [kind for kind in told(stage) if kind in ("degraded", "recovered")]
    assert kinds == ["degraded", "recovered", "degraded"]
    assert stage.bench.transport.on("/event")[0].json["missing_bytes"] == 1


class FakeFormer:
    """A former session; remembers what the loop tells it."""

    is_alive = True

    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self, now_s: float) -> None:
        self.told.append("begin")

    def take(self, event: FromFormer, now_s: float) -> None:
        self.told.append(event.event)

    def tick(self, now_s: float) -> None: ...

    def next_tick_s(self) -> float:
        return float("inf")


def test_a_former_session_begins_when_the_node_is_connected_and_its_requests_are_taken_in(
    tmp_path: Path,
) -> None:
    asked = Delivery("edged/kitchen/request/generate", b'{"id": "a", "prompt": "x"}', qos=1)
    broken = Disconnected("broken", 1.0)
    up = Connected(1, is_session_present=False, protocol_version="5")
    stage = Stage(tmp_path, [FromFormer(asked, 1), FromFormer(broken, 1), up, STOP])
    former = FakeFormer()
    stage.parts = replace(stage.parts, former=cast("FormerSession", former))
    stage.loop = MainLoop(cast("Inbox", stage.inbox), stage.parts)
    stage.loop.run()
    assert former.told == [broken, "begin"]
    assert len(stage.bench.preparer.waiting) == 1


def test_a_dead_thread_of_a_former_session_ends_the_process(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [])
    former = FakeFormer()
    former.is_alive = False
    stage.parts = replace(stage.parts, former=cast("FormerSession", former))
    with pytest.raises(StalledError, match="former session is dead"):
        MainLoop(cast("Inbox", stage.inbox), stage.parts).run()


def test_a_pause_of_the_whole_process_is_no_stall_and_one_after_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that was suspended: the engine seems to have taken no step for an hour."""
    stage = Stage(tmp_path, [])
    stage.threads.stalled_s = STALL_LIMIT_S + 1
    stage.bench.clock.advance(3600.0)
    woken_s = stage.bench.clock()
    with pytest.raises(StalledError, match="no step for 31 s"):
        stage.loop.run()
    assert STALL_LIMIT_S <= stage.bench.clock() - woken_s <= STALL_LIMIT_S + LONGEST_WAIT_S
    assert caplog.text.count("paused for 3600 s") == 1
