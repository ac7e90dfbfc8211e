"""Have a model that is to serve be loaded beside the service, and compare it with what serves."""

import signal
import subprocess
from pathlib import Path

from edged.bundle.disk import Disk
from edged.bundle.store import LOADING, Store
from edged.bundle.strict_json import decode, read_json
from edged.commands.load_child import GOLDEN, Measured, command_line
from edged.daemon.sdnotify import START_LIMIT_S
from edged.errors import BundleError

# Four times what the unit gives a start: the model is loaded twice, at half the speed where the
# service answers meanwhile.
_LIMIT_S = 4 * round(START_LIMIT_S)
# What is slower than this share of what serves is not installed; what is, is measured again.
LEAST_SPEED, _ROUNDS = 0.8, 3


def try_out(store: Store, model_id: str, config: Path, *, may_be_slower: bool) -> None:
    """Have the model loaded, answer and be compared with what serves; blocks for seconds.

    Raises:
        BundleError: It cannot, or is slower; it is removed again, and the message has the reason.
    """
    serving = store.state().current
    try:
        print(f"{model_id}: {_loaded(store, model_id, config, GOLDEN).answers}")
        if serving is not None and not may_be_slower:
            speed = _speed(store, model_id, serving, config)
            print(f"{model_id}: {speed:.0%} as fast as {serving}")
    except BundleError:
        if model_id not in store.state().needed:  # it may be what served before
            store.remove(model_id)
        raise


def _speed(store: Store, model_id: str, serving: str, config: Path) -> float:
    """Return how fast a model is, as a share of what serves.

    Raises:
        BundleError: It is too slow, or one of them cannot be loaded.
    """
    shares: list[float] = []
    # The service answers meanwhile, so one measurement of each may mislead.
    while not shares or (max(shares) < LEAST_SPEED and len(shares) < _ROUNDS):
        old, new = (_loaded(store, one, config).typical_s for one in (serving, model_id))
        shares.append(old / new)
    if max(shares) < LEAST_SPEED:
        raise BundleError(
            f"{model_id}: {max(shares):.0%} as fast as {serving}, so it is not installed; --slower"
            " installs it nevertheless"
        )
    return max(shares)


def _loaded(store: Store, model_id: str, config: Path, *options: str) -> Measured:
    """Have a model loaded and measured in a process of its own, with ``options`` for it.

    Raises:
        BundleError: It cannot be loaded in time, or answers otherwise than where it was built.
    """
    scratch = store.root / LOADING
    scratch.mkdir(mode=0o700)
    try:
        words = command_line(config.resolve(), store.folder(model_id), scratch, _LIMIT_S)
        done = subprocess.run([*words, *options], capture_output=True, text=True, check=False)
    finally:
        Disk().remove(scratch)
    if done.returncode == -signal.SIGALRM:
        raise BundleError(
            f"{model_id}: has not answered within {_LIMIT_S / 60:.0f} minutes, so it is not"
            " installed; build it again, or add --unloaded where this device is that slow"
        )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise BundleError(
            f"{model_id}: cannot be loaded and answer here, so it is not installed: {lines[-1]};"
            " where memory does not suffice for two models, add --unloaded"
        )
    return decode(Measured, read_json(done.stdout.encode()))
