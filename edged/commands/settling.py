"""End the trial of a model: accept it, or take it back.

Whether it did well is in the note of the daemon (``edged.bundle.trial_record``); whether the
service failed is what systemd says when it has ended.
"""

from collections.abc import Mapping

from edged.bundle.store import Failure, Store, locked, stores_of
from edged.bundle.trial_record import TrialRecord, read_record
from edged.commands.staging import version_of
from edged.config.keys import Config
from edged.errors import ExitCode


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


def settle_all(config: Config, failure: str | None) -> None:
    """End the trials of what a service serves, if they can be ended.

    Args:
        config: Of the service.
        failure: How it has failed; None where it has not.

    Raises:
        BundleError: A store is damaged.
        UnavailableError: Another command is at work.
        OSError: A store cannot be written.
    """
    folder = config.state.folder
    record = TrialRecord() if folder is None else read_record(folder)
    for store in stores_of(config.served_folders):
        with locked(store.root):
            settle(store, record, failure)


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
    if record.is_passed and candidate in record.models:
        store.commit(*version_of(store.folder(candidate)))
        print(f"{candidate}: did well on trial, and is accepted")
    elif failure is not None:
        store.roll_back(Failure(candidate, failure))
        fallback = state.trial.fallback
        print(f"{candidate}: on trial, and taken back, since {failure}; {fallback} serves")
