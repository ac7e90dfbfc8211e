"""A model on trial passes or fails, and is accepted or taken back when the service has ended."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import edged.daemon.run
from edged.bundle.disk import Disk
from edged.bundle.folder import write_manifest
from edged.bundle.store import Failure, Store, locked
from edged.bundle.trial_record import RECORD, read_record, remove_record
from edged.cli import main
from edged.commands.install.layout import InstallError
from edged.commands.settling import PAUSES_S, settle_all, wait_for_end
from edged.config.keys import BrokerConfig, Config, ModelConfig, StateConfig
from edged.daemon.inbox import Inbox, ReloadRequested
from edged.daemon.loader import ResidentModel
from edged.daemon.model_trial import LONGEST_S, MAX_STARTS, PROMPTS, ModelTrial, TrialFailedError
from edged.daemon.run import serve
from edged.daemon.sdnotify import Notifier
from edged.errors import BundleError, ConfigError, ExitCode, UnavailableError
from edged.protocol.event import TrialFailed, TrialPassed
from tests.unit.test_bundle import GRAPH
from tests.unit.test_manifest import make_manifest

CRASH = {"SERVICE_RESULT": "core-dump", "EXIT_CODE": "dumped", "EXIT_STATUS": "SEGV"}
STOP = {"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"}


class Device:
    """A store with an old model and a new one on trial, and the note of a daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = 1000.0
        self.store = Store(folder / "store" / "model", Disk())
        self.state = folder / "state"
        self.state.mkdir()
        self.store.root.parent.mkdir()
        self.config = Config(
            model=ModelConfig(path=self.store.current), state=StateConfig(folder=self.state)
        )
        self.file = folder / "edged.yaml"
        self.specialist = Store(folder / "store" / "specialists" / "six", Disk())
        self.specialist.root.parent.mkdir()
        self.file.write_text(
            f"model: {{path: {self.store.current}}}\nstate: {{folder: {self.state}}}\n"
            f"specialists: [{self.specialist.current}]\n"
        )
        self.options = ["--store", str(folder / "store"), "--config", str(self.file)]
        self.install("old")
        self.install("new")

    def install(self, name: str) -> None:
        def fill(target: Path) -> str:
            target.mkdir()
            (target / "model.onnx").write_bytes(GRAPH)
            (target / "model.onnx.data").write_bytes(name.encode())
            (target / "tokenizer.json").write_bytes(b"{}")
            write_manifest(target, make_manifest())
            return name

        self.store.stage(fill)
        self.store.begin(name)

    def teach(self, *names: str) -> Config:
        """Have specialists serve, each after the other; return the configuration with the last."""

        def fill(target: Path) -> str:
            target.mkdir()
            (target / "specialist.json").write_text('{"name": "six"}')
            return name

        for name in names:
            self.specialist.stage(fill)
            self.specialist.begin(name)
        return replace(self.config, specialists=(self.specialist.current,))

    def start(self) -> ModelTrial:
        return ModelTrial(self.config, lambda: self.now_s)

    def end(self, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> str | None:
        """Do what the unit does when the service has ended; return what serves then."""
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert main(["model", "settle", "--config", str(self.file)]) == ExitCode.OK
        return self.store.state().current


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def never(_: float) -> None:
    raise AssertionError("it waits")


End = Callable[[dict[str, str]], str | None]


@pytest.fixture
def end(device: Device, monkeypatch: pytest.MonkeyPatch) -> End:
    return lambda environment: device.end(monkeypatch, environment)


def test_a_model_that_answers_passes_and_is_accepted_whatever_ends_the_service(
    device: Device, end: End
) -> None:
    trial = device.start()
    assert trial.tick(PROMPTS - 1) == []
    assert trial.members() == {"models": ["new"], "status": "running", "reason": None}
    assert trial.tick(PROMPTS) == [TrialPassed("new")]
    assert trial.tick(PROMPTS + 1) == []
    assert trial.members() == {"models": ["new"], "status": "passed", "reason": None}
    assert end(CRASH) == "new"
    assert device.store.state().trial is None
    assert device.start().members() is None


def test_a_model_that_is_asked_nothing_passes_after_ten_minutes(device: Device, end: End) -> None:
    trial = device.start()
    device.now_s += LONGEST_S - 1
    assert trial.tick(0) == []
    device.now_s += 1
    assert trial.tick(0) == [TrialPassed("new")]
    assert end(STOP) == "new"
    assert device.store.state().trial is None


def test_a_crash_takes_it_back_and_is_told_once(device: Device, end: End) -> None:
    device.start().tick(3)
    assert end(CRASH) == "old"
    assert device.store.state().trial is None
    trial = device.start()
    reason = "the service ended with core-dump (dumped SEGV)"
    assert trial.tick(0) == [TrialFailed("new", reason)]
    assert trial.members() == {"models": ["new"], "status": "failed", "reason": reason}
    again = device.start()
    assert again.tick(0) == []
    assert again.status == "failed"
    device.install("newer")
    assert device.start().status == "running"


def test_a_stop_and_a_wrong_configuration_leave_it_on_trial(device: Device, end: End) -> None:
    device.start().stop()
    assert end(STOP) == "new"
    assert end({"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "78"}) == "new"
    assert device.store.state().is_on_trial


@pytest.mark.parametrize("error", [BundleError("damaged"), ConfigError("too large"), MemoryError()])
def test_what_is_on_trial_and_cannot_be_loaded_is_not_waited_for(
    device: Device, error: Exception
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(TrialFailedError, match=str(error) or "memory ran out") as raised:
        device.start().load(fail)
    assert raised.value.exit_code is ExitCode.SOFTWARE


def test_what_was_accepted_and_cannot_be_loaded_is_waited_for(device: Device) -> None:
    device.store.commit("tiny", 0)

    def fail() -> None:
        raise BundleError("not mounted yet")

    with pytest.raises(BundleError, match="not mounted yet"):
        device.start().load(fail)


def test_starts_that_nothing_ended_are_counted_and_stops_are_not(device: Device) -> None:
    for _ in range(2 * MAX_STARTS):
        trial = device.start()
        assert trial.load(lambda: "loaded") == "loaded"
        trial.stop()
    for _ in range(MAX_STARTS):
        assert device.start().load(lambda: "loaded") == "loaded"
    with pytest.raises(TrialFailedError, match="3 starts were not ended"):
        device.start().load(lambda: "loaded")


def test_a_reload_that_changes_nothing_goes_on_with_the_trial(device: Device) -> None:
    trial = device.start()
    trial.begin(device.config, 5)
    assert read_record(device.state).starts == 1
    assert trial.tick(PROMPTS) == [TrialPassed("new")]


def test_a_reload_of_a_start_that_waits_is_no_start_that_failed(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RestartedError(BaseException):
        """In the place of a new process."""

    def restart() -> None:
        raise RestartedError

    def load(_: Config) -> ResidentModel:
        raise AssertionError("the password is missing")

    monkeypatch.setattr("edged.daemon.run._restart", restart)
    broker = BrokerConfig(username="edged", password_file=device.folder / "missing")
    config = replace(device.config, broker=broker)
    for _ in range(MAX_STARTS + 1):
        inbox = Inbox()
        inbox.put(ReloadRequested())
        with pytest.raises(RestartedError):
            edged.daemon.run._start(lambda: config, load, inbox, Notifier({}))
    assert read_record(device.state).starts == 0
    assert device.start().load(lambda: "loaded") == "loaded"


def test_what_comes_on_trial_at_a_reload_has_a_trial_of_its_own(device: Device) -> None:
    device.store.commit("tiny", 0)
    trial = device.start()
    device.install("newer")
    trial.begin(device.config, 7)
    assert trial.tick(PROMPTS) == []
    assert trial.tick(PROMPTS + 7) == [TrialPassed("newer")]


def test_a_specialist_on_trial_that_cannot_be_read_fails_whoever_else_answers(
    device: Device,
) -> None:
    model = ModelConfig(path=device.folder / "bundle")
    config = replace(device.config, model=model, specialists=(device.store.current,))
    trial = ModelTrial(config, lambda: device.now_s)
    trial.check({"other": "taught to another model"})
    with pytest.raises(TrialFailedError, match="new: on trial, and taken back: damaged"):
        trial.check({"model": "damaged"})
    trial.tick(PROMPTS)
    trial.check({"model": "damaged later, when it had passed"})


def test_a_start_fails_with_a_specialist_on_trial_that_cannot_be_read(device: Device) -> None:
    model = ModelConfig(path=device.folder / "bundle")
    config = replace(device.config, model=model, specialists=(device.store.current,))

    def load(_: Config) -> ResidentModel:
        specialists = SimpleNamespace(problems={"model": "damaged"})
        return cast("ResidentModel", SimpleNamespace(specialists=specialists))

    with pytest.raises(TrialFailedError, match="taken back: damaged"):
        serve(lambda: config, load)


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"models": [], "starts": -1}', b"\xff" * 99999])
def test_a_damaged_note_accepts_nothing(device: Device, end: End, content: bytes) -> None:
    device.start().tick(PROMPTS)
    (device.state / RECORD).write_bytes(content)
    assert end(STOP) == "new"
    assert device.store.state().is_on_trial
    assert device.start().status == "running"


def test_a_note_that_cannot_be_written_stops_nothing(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    Path(device.state).rmdir()
    trial = device.start()
    assert trial.load(lambda: "loaded") == "loaded"
    assert trial.tick(PROMPTS) == [TrialPassed("new")]
    trial.stop()
    assert caplog.text.count("cannot be written") == 1


def test_a_damaged_store_is_said_and_stops_nothing(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    (device.store.root / "trial.json").write_text("{")
    assert device.start().status is None
    assert "not known whether it is on trial" in caplog.text


def test_without_a_store_or_a_folder_there_is_nothing_to_note(
    device: Device, tmp_path: Path
) -> None:
    plain = Config(model=ModelConfig(path=tmp_path / "current"))
    trial = ModelTrial(plain, lambda: 0.0)
    assert trial.members() is None
    assert trial.tick(PROMPTS) == []
    assert ModelTrial(Config(model=ModelConfig(path=device.store.current)), lambda: 0.0).status


def test_each_command_ends_a_trial_that_was_passed(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    device.start().tick(PROMPTS)
    assert main(["model", "rollback", "--no-reload", *device.options]) == ExitCode.OK
    assert "new: did well on trial, and is accepted" in capsys.readouterr().out
    assert device.store.state().current == "old"
    assert device.store.state().previous == "new"


def test_each_command_ends_the_trials_that_were_passed_of_all_that_serves(
    device: Device, end: End
) -> None:
    trial = device.start()
    assert trial.tick(PROMPTS) == [TrialPassed("new")]
    config = device.teach("six-old", "six-new")
    words = ["model", "commit", "--specialist", "six", "--no-reload", *device.options]
    assert main(words) == ExitCode.OK
    config = device.teach("six-newer")
    trial.begin(config, PROMPTS)
    assert trial.members() == {"models": ["six-newer"], "status": "running", "reason": None}
    assert end(CRASH) == "new"
    assert device.specialist.state().current == "six-new"


def test_what_passes_while_another_one_is_installed_is_not_taken_back_with_it(
    device: Device, end: End
) -> None:
    device.teach("six-old")
    trial = device.start()
    # When the command began, it had not passed.
    assert trial.tick(PROMPTS) == [TrialPassed("new")]
    config = device.teach("six-new")
    trial.begin(config, PROMPTS)
    assert trial.members() == {"models": ["six-new"], "status": "running", "reason": None}
    trial.check({"model": "damaged later"})
    assert end(CRASH) == "new"
    assert device.store.state().trial is None
    assert device.specialist.state().current == "six-old"


@pytest.mark.parametrize("content", [None, "{"])
def test_what_another_store_has_does_not_stop_a_command(
    device: Device, content: str | None
) -> None:
    device.teach("six-old", "six-new")
    words = ["model", "rollback", "--specialist", "six", "--no-reload", *device.options]
    if content is not None:
        (device.store.root / "trial.json").write_text(content)
    with locked(device.store.root):
        assert main(words) == ExitCode.OK
    assert device.specialist.state().current == "six-old"


def test_a_store_that_is_locked_or_damaged_is_settled_later_and_the_others_at_once(
    device: Device,
) -> None:
    config = device.teach("six-old", "six-new")
    with locked(device.store.root), pytest.raises(UnavailableError, match="is at work"):
        settle_all(config, "it crashed")
    assert device.specialist.state().current == "six-old"
    device.specialist.begin("six-new")
    (device.store.root / "trial.json").write_text("{")
    with pytest.raises(BundleError, match=r"trial\.json: not valid JSON"):
        settle_all(config, "it crashed", PAUSES_S, never)
    assert device.specialist.state().current == "six-old"


def test_the_unit_waits_for_a_command_that_is_at_work(device: Device) -> None:
    pauses_s = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(device.store.root))

        def sleep(pause_s: float) -> None:
            pauses_s.append(pause_s)
            if len(pauses_s) == len(PAUSES_S):
                stack.close()

        settle_all(device.config, "it crashed", PAUSES_S, sleep)
    assert sum(pauses_s) == 10
    assert device.store.state().current == "old"


def test_a_trial_is_waited_for_until_it_was_passed(device: Device) -> None:
    trial = device.start()
    wait_for_end(device.store, device.config, "new", lambda: True, lambda _: trial.tick(PROMPTS))
    assert device.store.state().trial is None
    assert device.store.state().current == "new"


@pytest.mark.parametrize(
    ("failure", "problem"),
    [(None, "new: does not serve; another"), (Failure("new", "crash"), "new: was taken back: cr")],
)
def test_who_waits_is_told_how_it_ended(
    device: Device, failure: Failure | None, problem: str
) -> None:
    def sleep(_: float) -> None:
        device.store.roll_back(failure)

    with pytest.raises(BundleError, match=problem):
        wait_for_end(device.store, device.config, "new", lambda: True, sleep)
    # What was installed before is not told of it.
    wait_for_end(device.store, device.config, "old", lambda: True, never)


def test_what_a_running_service_does_not_take_up_is_not_waited_for(
    device: Device, end: End
) -> None:
    device.store.commit("tiny", 0)
    config = device.teach("six-old")
    device.install("newer")
    trial = ModelTrial(config, lambda: device.now_s)
    device.teach("six-new")

    def sleep(_: float) -> None:
        trial.refuse(config, "9 MiB do not fit")
        trial.tick(PROMPTS)

    problem = "six-new: was taken back: the service refuses it: 9 MiB do not fit"
    with pytest.raises(BundleError, match=problem):
        wait_for_end(device.specialist, config, "six-new", lambda: True, sleep)
    assert device.specialist.state().current == "six-old"
    assert end(CRASH) == "newer", "what served did well all the while"


def test_what_was_refused_may_be_taken_up_later(device: Device, end: End) -> None:
    device.store.commit("tiny", 0)
    config = device.teach("six-old")
    trial = ModelTrial(config, lambda: device.now_s)
    device.teach("six-new")
    trial.refuse(config, "9 MiB do not fit")
    trial.begin(config, 0)
    end(STOP)
    assert device.specialist.state().is_on_trial


def test_nobody_waits_for_a_service_that_has_ended(device: Device) -> None:
    pauses = iter(range(3))
    with pytest.raises(InstallError, match="new: is on trial"):
        wait_for_end(device.store, device.config, "new", lambda: False, lambda _: next(pauses))
    assert device.store.state().is_on_trial


def test_what_has_passed_stays_so_at_a_reload_unless_it_was_installed_again(
    device: Device,
) -> None:
    trials = []
    for state in (StateConfig(), StateConfig(folder=device.state)):
        config = replace(device.config, state=state)
        trials.append(ModelTrial(config, lambda: device.now_s))
        assert trials[-1].tick(PROMPTS) == [TrialPassed("new")]
        trials[-1].begin(config, PROMPTS)
        assert trials[-1].status == "passed"
    # As `edged model install` does.
    remove_record(device.state)
    trials[-1].begin(device.config, PROMPTS)
    assert trials[-1].status == "running"
