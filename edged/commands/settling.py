"""End the trial of a model: accept it, or take it back.

Whether it did well is in the note of the daemon (``edged.bundle.trial_record``); whether the
service failed is what systemd says when it has ended.
"""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from edged.bundle.store import Failure, Store, locked, stores_of
from edged.bundle.store_state import StoreState
from edged.bundle.trial_record import TrialRecord, read_record
from edged.commands.install.layout import InstallError
from edged.commands.staging import version_of
from edged.config.keys import Config
from edged.errors import BundleError, EdgedError, ExitCode, UnavailableError

# How long the unit waits for other commands, in all: less than its TimeoutStopSec=.
PAUSES_S = (1.0,) * 10
# Between two looks at a trial that is waited for.
_POLL_S = 1.0
_Sleep = Callable[[float], object]


def service_failure(environment: Mapping[str, str]) -> str | None:
    """Return how the service has failed; None where it was stopped, or its configuration is wrong.

    Args:
        environment: Of a command that systemd starts when a service has ended: systemd.exec(5).
    """
    result = environment.get("SERVICE_RESULT", "success")
    code, status = environment.get("EXIT_CODE", ""), environment.get("EXIT_STATUS", "")
    if result == "success" or status == str(int(ExitCode.CONFIG)):
        return None
    return f"the service ended with {result} ({code} {status})"


def record_of(config: Config) -> TrialRecord:
    """Return what the daemon has noted of a trial."""
    folder = config.state.folder
    return TrialRecord() if folder is None else read_record(folder)


def settle_all(
    config: Config,
    failure: str | None,
    pauses_s: Iterable[float] = (),
    sleep: _Sleep = time.sleep,
) -> None:
    """End the trials of what a service serves, if they can be ended.

    What is wrong with a store is raised when the others are done.

    Args:
        config: Of the service.
        failure: How it has failed; None where it has not.
        pauses_s: How long to wait, each time that another command is at work, until the next try.
        sleep: Blocks for so many seconds.

    Raises:
        BundleError: A store is damaged.
        UnavailableError: Another command is at work.
        OSError: A store cannot be written.
    """
    record, left_s = record_of(config), iter(pauses_s)
    problem: EdgedError | OSError | None = None
    for store in stores_of(config.served_folders):
        try:
            _settle_soon(store, record, failure, left_s, sleep)
        except (EdgedError, OSError) as error:
            problem = problem or error
    if problem is not None:
        raise problem


def _settle_soon(
    store: Store, record: TrialRecord, failure: str | None, pauses_s: Iterator[float], sleep: _Sleep
) -> None:
    """Settle a store when no other command is at work, as long as there are pauses left.

    Raises:
        BundleError: The store is damaged.
        UnavailableError: Another command was at work all the while.
        OSError: It cannot be written.
    """
    while True:
        try:
            with locked(store.root):
                settle(store, record, failure)
                return
        except UnavailableError:
            pause_s = next(pauses_s, None)
            if pause_s is None:
                raise
        sleep(pause_s)


def settle(store: Store, record: TrialRecord, failure: str | None) -> None:
    """End the trial of a store that is locked, if it can be ended, and say so.

    Raises:
        BundleError: The store is damaged.
        OSError: It cannot be written.
    """
    state = store.repair()
    if state.trial is None:
        return
    candidate = state.trial.candidate
    if candidate in record.passed:
        store.commit(*version_of(store.folder(candidate)))
        print(f"{candidate}: did well on trial, and is accepted")
    elif (reason := record.refused.get(candidate, failure)) is not None:
        store.roll_back(Failure(candidate, reason))
        fallback = state.trial.fallback
        print(f"{candidate}: on trial, and taken back, since {reason}; {fallback} serves")


def reload_service(store: Store, unit: str, before: StoreState) -> None:
    """Have the running service take it up, without losing a request.

    Args:
        store: What was changed.
        unit: Of the service.
        before: Of the store, to be restored where the service refuses the reload.

    Raises:
        InstallError: It refuses, and serves on with what it has.
        OSError: What was changed cannot be undone.
    """
    words = ["systemctl", "try-reload-or-restart", unit]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    problem = f"{' '.join(words)}: {done.stderr.strip()}; see `journalctl --unit {unit}`"
    with locked(store.root):
        changed = store.repair()
        if before.is_on_trial and before.current is not None:
            store.begin(before.current)
        elif changed.is_on_trial or before.current not in {None, changed.current}:
            store.roll_back()
        serving = store.state().current
    if serving != changed.current:
        problem += f"; so this was undone, and {serving} serves"
    raise InstallError(problem)


def is_active(unit: str) -> bool:
    """Return whether a service runs; one that waits, or starts again by itself, does."""
    words = ["systemctl", "is-active", unit]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() not in {"inactive", "failed"}


def wait_for_end(
    store: Store,
    config: Config,
    model_id: str | None,
    is_running: Callable[[], bool],
    sleep: _Sleep = time.sleep,
) -> None:
    """Wait until what was installed is not on trial any more; the trial ends by itself.

    Args:
        store: Where it was installed.
        config: Of the service.
        model_id: What was installed.
        is_running: Whether the service is.
        sleep: Blocks for so many seconds.

    Raises:
        BundleError: It was taken back, or another one serves.
        InstallError: The service has ended, and the trial has not.
        OSError: The store cannot be read or written.
    """
    while _is_on_trial(store, model_id):
        sleep(_POLL_S)
        # Asked before: a service that has ended has had its trial settled, if that can be.
        runs = is_running()
        # The unit may be ending the trial just now.
        with contextlib.suppress(UnavailableError), locked(store.root):
            settle(store, record_of(config), None)
        if not runs and _is_on_trial(store, model_id):
            problem = "is on trial, which ends only while the service runs; start it"
            raise InstallError(f"{model_id}: {problem}")
    if store.state().current == model_id:
        return
    failure = store.failure()
    if failure is None or failure.model != model_id:
        raise BundleError(f"{model_id}: does not serve; another `edged model` has ended its trial")
    raise BundleError(f"{model_id}: was taken back: {failure.reason}")


def _is_on_trial(store: Store, model_id: str | None) -> bool:
    state = store.state()
    return state.is_on_trial and state.current == model_id
