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
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edged.bundle.disk import Disk, replace_file
from edged.bundle.folder import open_bundle
from edged.bundle.store import Store, locked
from edged.bundle.trial_record import remove_record
from edged.bundle.trust import Trust
from edged.commands.candidate import LEAST_SPEED, try_out
from edged.commands.install.layout import InstallError, Layout
from edged.commands.install.settings import naming_another_model
from edged.commands.settling import (
    PAUSES_S,
    is_active,
    record_of,
    reload_service,
    service_failure,
    settle,
    settle_all,
    wait_for_end,
)
from edged.commands.staging import Arrived, bring_bundle, bring_specialist, said_name, version_of
from edged.config.keys import Config
from edged.config.load import load_config
from edged.daemon.invocation import configured_trust
from edged.daemon.model_trial import LONGEST_S, PROMPTS
from edged.errors import BundleError, EdgedError, ExitCode, UsageError
from edged.specialists.names import PLAIN_MODEL

# What a disk must have left beside the copy: the state of the service, and its log.
_SPARE_BYTES = 64 << 20
# What is loaded has a copy in the form of this processor's kernels, twice the size of the model.
_COPIES, _LOADED_COPIES = 1, 3
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
        failure = service_failure(os.environ)
        # That it has failed is told once, and what it did well stays noted.
        settle_all(config, failure, () if failure is None else PAUSES_S)
        return ExitCode.OK
    layout = Layout(instance=arguments.instance)
    arguments.config = arguments.config or layout.configuration
    store = _store(arguments, arguments.store or layout.store)
    try:
        if arguments.action == "list":
            _list(store)
        else:
            _change(store, arguments, layout.unit)
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
    return Store(root / PLAIN_MODEL if name is None else root / "specialists" / name, Disk())


def _change(store: Store, arguments: argparse.Namespace, unit: str) -> None:
    """Carry out an action that may change what serves, and have the service take it up.

    Raises:
        UsageError: It is to be done to what was never installed.
    """
    config = _read_config(arguments.config)
    if arguments.action != "install" and not store.root.is_dir():
        raise UsageError(f"{store.root}: is not there; nothing was installed in it")
    # The trials of what serves beside it would begin again with that of what is new. What is wrong
    # with another store, the service says, and the commands for that one.
    with contextlib.suppress(EdgedError, OSError):
        settle_all(config, None)
    with locked(store.root):
        # The configuration need not name this one.
        settle(store, record_of(config), None)
        before = store.state()
        is_changed = _ACTIONS[arguments.action](store, arguments, config)
        serving = store.state().current
    if is_changed and _is_reloadable(arguments):
        reload_service(store, unit, before)
    elif is_changed:
        print("a running service takes it up with `systemctl reload`")
    if arguments.action == "install" and arguments.wait:
        wait_for_end(store, config, serving, partial(is_active, unit))


def _install(store: Store, arguments: argparse.Namespace, config: Config) -> bool:
    """Bring a folder into the store and have it serve; return whether that is a change.

    Raises:
        UsageError: The configuration names another folder than the store's, or one is on trial; or
            the trial cannot be waited for.
    """
    _check_wait(arguments, config)
    config = _adopted(store, arguments, config)
    state, serves = store.state(), config.served_folders
    if state.trial is not None:
        raise UsageError(
            f"{state.trial.candidate} is on trial; `edged model commit` or `rollback` ends that"
        )
    if state.current is not None and store.current not in serves:
        raise UsageError(f"{arguments.config} does not name {store.current}; {_advice(store)}")
    _check_room(store, arguments.folder, _COPIES if arguments.unloaded else _LOADED_COPIES)
    arrived: list[Arrived] = []
    bring = _bring(config, configured_trust(config.security), store, arguments.folder)

    def fill(folder: Path) -> str:
        arrived.append(bring(folder))
        return arrived[0].id

    model_id, is_new = store.stage(fill)
    if model_id == state.current:
        # What had this id may have been damaged, or signed by another key.
        print(f"{model_id} serves already{', and was replaced by this copy' * is_new}")
        return is_new
    if _is_model(store) and not arguments.unloaded:
        try_out(store, model_id, arguments.config, may_be_slower=arguments.slower)
    _begin(store, arrived[0], config)
    print(f"{model_id}: checked, copied to {store.folder(model_id)}")
    if store.state().is_on_trial:
        print(
            f"on trial: accepted after {PROMPTS} answers or {LONGEST_S / 60:.0f} minutes, taken"
            " back if the service fails; `edged model commit` or `rollback` ends it now"
        )
    elif store.current not in serves:
        print(f"to have it serve, {_advice(store)}")
    return True


def _check_wait(arguments: argparse.Namespace, config: Config) -> None:
    """Check that a trial that is to be waited for would begin, and end.

    Raises:
        UsageError: It would not.
    """
    if not arguments.wait:
        return
    if not _is_reloadable(arguments):
        raise UsageError("--wait: a trial begins when systemd reloads the service; leave it out")
    if config.state.folder is None:
        raise UsageError(
            f"--wait: {arguments.config} has no state.folder, where the service notes how a trial"
            " goes; configure it, or leave --wait out"
        )


def _begin(store: Store, arrived: Arrived, config: Config) -> None:
    """Have a folder serve: the first is accepted at once, another one is on trial."""
    record = record_of(config)
    noted = {*record.models, *record.passed, *record.refused}
    if store.state().current is None:
        # The version comes first: if the power fails between the two, nothing serves yet and the
        # command is given again. The other way, an older version could be installed after it.
        store.commit(arrived.name, arrived.version)
    elif config.state.folder is not None and arrived.id in noted:
        # It was on trial before: how it did then means no more. It comes first, so that no trial
        # ever begins with an old note.
        remove_record(config.state.folder)
    store.begin(arrived.id)


def _adopted(store: Store, arguments: argparse.Namespace, config: Config) -> Config:
    """Have the model that serves be in the store, so that it can be gone back to.

    A configuration that was edited by hand is left alone. Return the one that holds now.

    Raises:
        UsageError: The configuration cannot be read.
        BundleError: The model is damaged, or not signed.
        OSError: A file cannot be read or written.
    """
    path, served = arguments.config, config.model.path
    if served == store.current or not _is_model(store):
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

    store.stage(fill)
    _begin(store, arrived[0], config)
    # The store may have served another one before.
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


def _bring(config: Config, trust: Trust, store: Store, source: Path) -> Callable[[Path], Arrived]:
    """Return what copies a folder into the store and checks the copy."""
    # What the source is, and is called, was asked once: its owner may change it meanwhile.
    name, floors = store.root.name, store.versions()
    if _is_model(store):
        return partial(bring_bundle, source, trust, floors)
    base = open_bundle(config.model.path).manifest
    return partial(bring_specialist, name, source, trust, floors, base)


def _is_model(store: Store) -> bool:
    """Return whether a store is that of the model; no specialist may be called so."""
    return store.root.name == PLAIN_MODEL


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


def _commit(store: Store, _arguments: argparse.Namespace, _config: Config) -> bool:
    state = store.state()
    if state.trial is None:
        raise UsageError("nothing is on trial")
    name, version = version_of(store.folder(state.trial.candidate))
    store.commit(name, version)
    print(f"{state.trial.candidate}: accepted")
    return False


def _roll_back(store: Store, _: argparse.Namespace, config: Config) -> bool:
    state = store.state()
    target = state.previous if state.trial is None else state.trial.fallback
    if target is not None:
        _check_usable(store, target, configured_trust(config.security))
    store.roll_back()
    print(f"{target} serves again, in the place of {state.current}")
    return True


def _check_usable(store: Store, model_id: str, trust: Trust) -> None:
    """Check what served once; blocks while it reads its files.

    Raises:
        BundleError: It is damaged, or not signed by a key that counts now.
    """
    if _is_model(store):
        open_bundle(store.folder(model_id), trust=trust)
    else:
        # One that is damaged, where nobody signs, the service leaves out; the others serve.
        trust.check_read(store.folder(model_id), {})


def _remove(store: Store, arguments: argparse.Namespace, _: Config) -> bool:
    store.remove(arguments.id)
    print(f"{arguments.id}: removed")
    return False


_ACTIONS: dict[str, Callable[[Store, argparse.Namespace, Config], bool]] = {
    "install": _install,
    "commit": _commit,
    "rollback": _roll_back,
    "remove": _remove,
}


def _list(store: Store) -> None:
    state = store.state()
    marks = {state.previous: "previous", state.current: "current"}
    if state.trial is not None and state.is_on_trial:
        marks = {state.trial.fallback: "previous", state.trial.candidate: "current, on trial"}
    for model_id in store.ids():
        try:
            version = str(version_of(store.folder(model_id))[1] or "-")
        except (OSError, BundleError) as error:
            version = f"damaged: {error}"
        print(f"{model_id}  version {version}  {marks.get(model_id, '')}".rstrip())


def _advice(store: Store) -> str:
    key = "model.path" if _is_model(store) else "specialists"
    return f"write `{store.current}` at {key} there, and `systemctl reload edged`"


def _is_reloadable(arguments: argparse.Namespace) -> bool:
    return not arguments.no_reload and _SYSTEMD.is_dir()
