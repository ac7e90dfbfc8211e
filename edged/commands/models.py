"""``edged model``: bring models and specialists onto this device, and go back if they do not do.

Each has a store (``edged.bundle.store``): that of the model is ``STORE/model``, that of a
specialist ``STORE/specialists/NAME``. What the configuration names is the link ``current`` in it.
What is new serves on trial, which the daemon watches (``edged.daemon.model_trial``). ``settle``
ends that; the unit calls it when the service has ended, and it is done here before anything else.
"""

import argparse
import contextlib
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edged.bundle.disk import Disk, replace_file
from edged.bundle.folder import open_bundle
from edged.bundle.store import Store, locked
from edged.bundle.trial_record import TrialRecord, read_record
from edged.bundle.trust import Trust
from edged.commands.candidate import LEAST_SPEED, try_out
from edged.commands.install.layout import InstallError, Layout
from edged.commands.install.settings import naming_another_model
from edged.commands.settling import service_failure, settle, settle_all
from edged.commands.staging import Arrived, bring_bundle, bring_specialist, said_name, version_of
from edged.config.keys import Config
from edged.config.load import load_config
from edged.daemon.invocation import configured_trust
from edged.daemon.model_trial import LONGEST_S, PROMPTS
from edged.errors import BundleError, ExitCode, UnavailableError, UsageError

# What a disk must have left beside the copy: the state of the service, and its log.
_SPARE_BYTES = 64 << 20
# What is loaded has a copy in the form of this processor's kernels, twice the size of the model.
_COPIES, _LOADED_COPIES = 1, 3
_POLL_S = 1.0
_SYSTEMD = Path("/run/systemd/system")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of ``edged model``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("install", help="check a folder, copy it, and have it serve on trial")
    add.add_argument("folder", type=Path, metavar="DIR", help="a bundle or a specialist")
    add.add_argument(
        "--unloaded",
        action="store_true",
        help="do not load the model first, where memory does not suffice for two",
    )
    add.add_argument(
        "--slower",
        action="store_true",
        help=f"install a model that is less than {LEAST_SPEED:.0%}% as fast as what serves",
    )
    add.add_argument(
        "--wait", action="store_true", help="return when the trial has ended; fails if it failed"
    )
    texts = {
        "list": "print what is there, and what serves",
        "commit": "accept what is on trial",
        "rollback": "have serve what served before",
        "remove": "remove what does not serve",
    }
    found = {name: actions.add_parser(name, help=text) for name, text in texts.items()}
    found["remove"].add_argument("id", metavar="ID", help="as `edged model list` prints it")
    for name, one in found.items():
        one.add_argument("--specialist", metavar="NAME", help=f"{name} this one, not the model")
    for one in (add, *found.values()):
        one.add_argument("--instance", metavar="NAME", help="the service edged@NAME, not edged")
        one.add_argument("--store", type=Path, metavar="DIR", help="their folder, if it is another")
        one.add_argument("--config", type=Path, metavar="FILE", help="its configuration, likewise")
        one.add_argument("--no-reload", action="store_true", help="leave the service as it is")
    settle = actions.add_parser("settle", help="end a trial; the unit calls it")
    settle.add_argument("--config", type=Path, required=True, metavar="FILE")


def main(arguments: argparse.Namespace) -> int:
    """Carry out the action.

    Raises:
        UsageError: There is nothing to do it to; the message says why.
        BundleError: The folder is damaged, not signed, or of a version that is too low.
        UnavailableError: Another command is at work.
        InstallError: The store cannot be written, or is full.
    """
    if arguments.action == "settle":
        config = _read_config(arguments.config)
        settle_all(config, service_failure(os.environ))
        return ExitCode.OK
    layout = Layout(instance=arguments.instance)
    arguments.config = arguments.config or layout.configuration
    store = _store(arguments, arguments.store or layout.store)
    try:
        if arguments.action == "list":
            _list(store)
            return ExitCode.OK
        with locked(store.root):
            settle(store, _record(arguments.config), None)
            is_changed = _ACTIONS[arguments.action](store, arguments)
        if is_changed and _is_reloadable(arguments):
            _reload(store, layout.unit, is_new=arguments.action == "install")
        if arguments.action == "install" and arguments.wait:
            _wait(store, arguments.config)
    except OSError as error:
        advice = "; use sudo" if isinstance(error, PermissionError) else ""
        if error.errno == errno.ENOSPC:
            advice = "; remove something with `edged model remove`, nothing was changed"
        raise InstallError(f"{store.root}: {error.strerror}{advice}") from error
    except ValueError as error:
        raise UsageError(f"{arguments.action}: {error}") from error
    return ExitCode.OK


def _store(arguments: argparse.Namespace, root: Path) -> Store:
    is_install = arguments.action == "install"
    name = said_name(arguments.folder) if is_install else arguments.specialist
    return Store(root / "model" if name is None else root / "specialists" / name, Disk())


def _install(store: Store, arguments: argparse.Namespace) -> bool:
    """Bring a folder into the store and have it serve; return whether that is a change.

    Raises:
        UsageError: The configuration names another folder than the store's, or one is on trial.
    """
    config = _adopted(store, arguments)
    state, serves = store.state(), config.served_folders
    if state.trial is not None:
        raise UsageError(
            f"{state.trial.candidate} is on trial; `edged model commit` or `rollback` ends that"
        )
    if state.current is not None and store.current not in serves:
        raise UsageError(f"{arguments.config} does not name {store.current}; {_advice(store)}")
    _check_room(store, arguments.folder, _COPIES if arguments.unloaded else _LOADED_COPIES)
    arrived: list[Arrived] = []
    bring = _bring(config, configured_trust(config.security), store.versions(), arguments.folder)

    def fill(folder: Path) -> str:
        arrived.append(bring(folder))
        return arrived[0].id

    model_id = store.stage(fill)
    if model_id == state.current:
        print(f"{model_id} serves already")
        return False
    if said_name(arguments.folder) is None and not arguments.unloaded:
        try_out(store, model_id, arguments.config, may_be_slower=arguments.slower)
    store.begin(model_id)
    print(f"{model_id}: checked, copied to {store.folder(model_id)}")
    if store.state().is_on_trial:
        print(
            f"on trial: accepted after {PROMPTS} answers or {LONGEST_S / 60:.0f} minutes, taken"
            " back if the service fails; `edged model commit` or `rollback` ends it now"
        )
    else:
        store.commit(arrived[0].name, arrived[0].version)
        if store.current not in serves:
            print(f"to have it serve, {_advice(store)}")
    return True


def _adopted(store: Store, arguments: argparse.Namespace) -> Config:
    """Have the model that serves be in the store, so that it can be gone back to.

    A configuration that was edited by hand is left alone. Return the one that holds now.

    Raises:
        UsageError: The configuration cannot be read.
        BundleError: The model is damaged, or not signed.
        OSError: A file cannot be read or written.
    """
    path = arguments.config
    config = _read_config(path)
    served = config.model.path
    if served == store.current or said_name(arguments.folder) is not None:
        return config
    layout = Layout(instance=arguments.instance)
    text = naming_another_model(path.read_text("utf-8"), layout, store.current)
    if text is None:
        return config
    _check_room(store, served, _COPIES)
    trust, arrived = configured_trust(config.security), []

    def fill(folder: Path) -> str:
        arrived.append(bring_bundle(served, trust, {}, folder))
        return arrived[0].id

    store.begin(store.stage(fill))
    store.commit(arrived[0].name, arrived[0].version)
    replace_file(Disk(), path, text.encode())
    print(f"{arrived[0].id}: serves, and can be gone back to; {served} is not needed any more")
    return _read_config(path)


def _read_config(path: Path) -> Config:
    """Read the configuration of the service.

    Raises:
        UsageError: It cannot be read.
        ConfigError: It is wrong.
    """
    try:
        return load_config(path.read_text("utf-8"), str(path))
    except OSError as error:
        problem = f"{path}: cannot be read: {error.strerror}"
        raise UsageError(f"{problem}; install the service first, or give --config") from error


def _bring(
    config: Config, trust: Trust, floors: dict[str, int], source: Path
) -> Callable[[Path], Arrived]:
    """Return what copies a folder into the store and checks the copy."""
    if said_name(source) is None:
        return partial(bring_bundle, source, trust, floors)
    return partial(bring_specialist, source, trust, floors, open_bundle(config.model.path).manifest)


def _check_room(store: Store, source: Path, copies: int) -> None:
    """Check that the copy fits on the disk.

    Raises:
        InstallError: It does not.
    """
    size_bytes = copies * sum(path.lstat().st_size for path in source.rglob("*"))
    free_bytes = shutil.disk_usage(store.root).free
    if free_bytes < size_bytes + _SPARE_BYTES:
        raise InstallError(
            f"{store.root}: {free_bytes >> 20} MiB free, the copy needs {size_bytes >> 20} and"
            f" {_SPARE_BYTES >> 20} must stay; remove something with `edged model remove`"
        )


def _commit(store: Store, _: argparse.Namespace) -> bool:
    state = store.state()
    if state.trial is None:
        raise UsageError("nothing is on trial")
    name, version = version_of(store.folder(state.trial.candidate))
    store.commit(name, version)
    print(f"{state.trial.candidate}: accepted")
    return False


def _roll_back(store: Store, _: argparse.Namespace) -> bool:
    before = store.state().current
    store.roll_back()
    print(f"{store.state().current} serves again, in the place of {before}")
    return True


def _remove(store: Store, arguments: argparse.Namespace) -> bool:
    store.remove(arguments.id)
    print(f"{arguments.id}: removed")
    return False


_ACTIONS: dict[str, Callable[[Store, argparse.Namespace], bool]] = {
    "install": _install,
    "commit": _commit,
    "rollback": _roll_back,
    "remove": _remove,
}


def _list(store: Store) -> None:
    state = store.state()
    marks = {state.previous: "previous", state.current: "current"}
    if state.trial is not None:
        marks = {state.trial.fallback: "previous", state.trial.candidate: "current, on trial"}
    for model_id in store.ids():
        try:
            version = str(version_of(store.folder(model_id))[1] or "-")
        except (OSError, BundleError) as error:
            version = f"damaged: {error}"
        print(f"{model_id}  version {version}  {marks.get(model_id, '')}".rstrip())


def _advice(store: Store) -> str:
    key = "model.path" if store.root.name == "model" else "specialists"
    return f"write `{store.current}` at {key} there, and `systemctl reload edged`"


def _record(config: Path) -> TrialRecord:
    """Return what the daemon has noted of a trial."""
    folder = _read_config(config).state.folder
    return TrialRecord() if folder is None else read_record(folder)


def _wait(store: Store, config: Path) -> None:
    """Wait until nothing is on trial; the trial ends by itself.

    Raises:
        BundleError: What was on trial was taken back.
        OSError: The store cannot be read or written.
    """
    while store.state().is_on_trial:
        time.sleep(_POLL_S)
        # The unit may be ending the trial just now.
        with contextlib.suppress(UnavailableError), locked(store.root):
            settle(store, _record(config), None)
    failure = store.failure()
    if failure is not None:
        raise BundleError(f"{failure.model}: was taken back: {failure.reason}")


def _is_reloadable(arguments: argparse.Namespace) -> bool:
    if arguments.no_reload or not _SYSTEMD.is_dir():
        print("a running service takes it up with `systemctl reload`")
        return False
    return True


def _reload(store: Store, unit: str, *, is_new: bool) -> None:
    """Have the running service take it up, without losing a request.

    Raises:
        InstallError: It refuses, and serves on with what it has.
        OSError: What is new cannot be taken back.
    """
    words = ["systemctl", "try-reload-or-restart", unit]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    problem = f"{' '.join(words)}: {done.stderr.strip()}; see `journalctl --unit {unit}`"
    if is_new:
        with locked(store.root):
            if store.repair().is_on_trial:
                store.roll_back()
                problem += "; what is new was taken back, and what served before serves"
    raise InstallError(problem)
