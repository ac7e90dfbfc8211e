"""A model that was just installed is on trial: whether it does well is noted here.

It has passed when it has answered ``PROMPTS`` requests, or served for ``LONGEST_S``. It has failed
when it cannot be loaded or read, or when the process ends otherwise than by a stop. The daemon may
not change the store of the models: when the service has ended, the unit calls ``edged model
settle``, which reads the note and accepts the model, or takes it back.

Rule: a note that cannot be written or read leaves the trial open, and never stops an answer.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from edged.bundle.store import stores_of
from edged.bundle.trial_record import TrialRecord, read_record, write_record
from edged.config.keys import Config
from edged.daemon.atomic_file import WriteErrors
from edged.errors import BundleError, EdgedError, ExitCode
from edged.protocol.event import Event, TrialFailed, TrialPassed

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

PROMPTS, LONGEST_S = 10, 600.0
# A device that a model brings down as a whole is never seen to fail; so many starts are.
MAX_STARTS = 3


class TrialFailedError(EdgedError):
    """What is on trial cannot serve; the process ends, to be started again with what did before."""

    exit_code = ExitCode.SOFTWARE


class ModelTrial:
    """The trials of a node's model and specialists.

    Args:
        config: Names them; what is in no store is not on trial.
        clock: Gives monotonic seconds.
    """

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._folder = config.state.folder
        self._clock = clock
        self._errors = WriteErrors("state.folder: the note of the trial")
        self._record = TrialRecord()
        self._since_s = clock()
        self._served_before = 0
        self._failed: tuple[TrialFailed, ...] = ()
        self._specialists: dict[str, str] = {}
        self._events: list[Event] = []
        self.begin(config, 0)

    def begin(self, config: Config, num_served: int) -> None:
        """Look at what is on trial, at a start or when specialists are read again.

        Args:
            config: As it was read.
            num_served: Answers of this process until now.
        """
        on_trial, self._failed = _on_trial(config)
        ids = {*on_trial.values()}
        roots = {folder.parent for folder in config.specialists}
        self._specialists = {root.name: one for root, one in on_trial.items() if root in roots}
        # What has passed may be on trial anew: then its note was removed.
        before = self._record if self._folder is None else read_record(self._folder)
        passed = tuple(one for one in before.passed if one in ids)
        models = tuple(sorted(ids.difference(passed)))
        if models and models == self._record.models:
            return
        self._events += [event for event in self._failed if event.model in before.models]
        self._since_s, self._served_before = self._clock(), num_served
        self._record = before
        starts = before.starts + 1 if models == before.models else 1
        self._note(TrialRecord(models, starts if models else 0, passed))
        if models:
            _LOG.info("on trial: %s", ", ".join(models))

    def load(self, load: Callable[[], _T]) -> _T:
        """Load a model; one on trial is not waited for.

        Raises:
            TrialFailedError: It is on trial, and cannot be loaded; or was started too often.
        """
        if not self._is_running:
            return load()
        if self._record.starts > MAX_STARTS:
            raise TrialFailedError(
                f"{self._names}: {MAX_STARTS} starts were not ended by a stop; it is taken back"
            )
        try:
            return load()
        except (EdgedError, OSError, MemoryError) as error:
            problem = str(error) or "memory ran out"
            raise TrialFailedError(f"{self._names}: on trial, and taken back: {problem}") from error

    def check(self, problems: Mapping[str, str]) -> None:
        """Fail where a specialist on trial does not serve: others' answers say nothing of it.

        Args:
            problems: Of specialists that were just read; as ``SpecialistFolders`` has them.

        Raises:
            TrialFailedError: It is to be taken back.
        """
        for name, candidate in self._specialists.items():
            if candidate in self._record.models and name in problems:
                raise TrialFailedError(f"{candidate}: on trial, and taken back: {problems[name]}")

    def refuse(self, config: Config, problem: str) -> None:
        """Note that what was just installed is not taken up: what served before goes on.

        Args:
            config: As it was read.
            problem: Why.
        """
        known = {*self._record.models, *self._record.passed}
        refused = sorted({*_on_trial(config)[0].values()} - known)
        reason = f"the service refuses it: {problem}"
        self._note(replace(self._record, refused=dict.fromkeys(refused, reason)))

    def tick(self, num_served: int) -> list[Event]:
        """End the trial if it was long enough; return what operators were not told yet."""
        if self._is_running and self._is_long_enough(num_served):
            models = self._record.models
            passed = tuple(sorted({*self._record.passed, *models}))
            self._note(replace(self._record, models=(), starts=0, passed=passed))
            self._events += [TrialPassed(model) for model in models]
        events, self._events = self._events, []
        return events

    def _is_long_enough(self, num_served: int) -> bool:
        has_served = num_served - self._served_before >= PROMPTS
        return has_served or self._clock() - self._since_s >= LONGEST_S

    def stop(self) -> None:
        """Note that the process is ended by a stop or a reload."""
        if self._is_running:
            self._note(replace(self._record, starts=0))

    @property
    def status(self) -> str | None:
        """How it goes, or how the last one failed; None where there was none."""
        if self._record.models:
            return "running"
        if self._record.passed:
            return "passed"
        return "failed" if self._failed else None

    def members(self) -> dict[str, Any] | None:
        """Return the member ``trial`` of ``state``."""
        if self.status is None:
            return None
        if found := self._record.models or self._record.passed:
            return {"models": list(found), "status": self.status, "reason": None}
        models = [event.model for event in self._failed]
        reason = "; ".join(event.reason for event in self._failed)
        return {"models": models, "status": self.status, "reason": reason}

    @property
    def _is_running(self) -> bool:
        return bool(self._record.models)

    @property
    def _names(self) -> str:
        return ", ".join(self._record.models)

    def _note(self, record: TrialRecord) -> None:
        if self._folder is not None and record != self._record:
            with self._errors.caught():
                write_record(self._folder, record)
        self._record = record


def _on_trial(config: Config) -> tuple[dict[Path, str], tuple[TrialFailed, ...]]:
    """Return what is on trial, by its store, and what was taken back since it was installed."""
    models: dict[Path, str] = {}
    failed = []
    for store in stores_of(config.served_folders):
        try:
            state, gone = store.state(), store.failure()
        except (OSError, BundleError) as error:
            _LOG.warning("%s: not known whether it is on trial: %s", store.root, error)
            continue
        if state.is_on_trial and state.trial is not None:
            models[store.root] = state.trial.candidate
        elif gone is not None:
            failed.append(TrialFailed(gone.model, gone.reason))
    return models, tuple(failed)
