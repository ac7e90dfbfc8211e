"""A broker and a daemon that many attacks share until a test fails."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import pytest

from edged.commands.local_broker import mosquitto as configure_mosquitto
from edged.commands.local_broker import running
from tests.system.broker.configured import configured
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import Daemon
from tests.system.hostile.accounts_site import AccountsSite
from tests.system.hostile.attacker import Attacker, attacker
from tests.system.hostile.supervisor import Terms


class _Closeable(Protocol):
    def close(self) -> None: ...


class Site:
    """A broker, a daemon that serves on it, and the attacker."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self._stack = contextlib.ExitStack()
        (folder / "mosquitto").mkdir(parents=True)
        terms = configure_mosquitto(folder / "mosquitto", is_persistent=True)
        broker = self._stack.enter_context(running(terms))
        state = {"folder": str(folder), "interval": "1s"}
        arguments = configured(folder, bundle, broker, state=state, queue={"size": 64})
        # The unit's limit: an attack that allocates gigabytes must end the daemon, not the machine.
        limits = ("prlimit", f"--data={Terms.of_unit().data_bytes}", "--core=0")
        self.daemon = Daemon(folder, arguments, before=limits)
        self._stack.callback(self.daemon.close)
        self.daemon.until("STATUS=serving")
        self.attacker: Attacker = self._stack.enter_context(attacker(broker.port))

    def close(self) -> None:
        """Stop everything."""
        self._stack.close()


_Site = TypeVar("_Site", bound=_Closeable)


class Sites(Generic[_Site]):
    """One site for all tests, and a new one after a failed test.

    Args:
        start: Starts one in a folder.
        factory: Of folders.
    """

    def __init__(self, start: Callable[[Path], _Site], factory: pytest.TempPathFactory) -> None:
        self._start, self._factory = start, factory
        self._site: _Site | None = None

    @contextlib.contextmanager
    def one(self) -> Iterator[_Site]:
        """Return the site; a failed assertion closes it."""
        if self._site is None:
            self._site = self._start(self._factory.mktemp("site"))
        try:
            yield self._site
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the site, if any."""
        site, self._site = self._site, None
        if site is not None:
            site.close()


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Sites[Site]]:
    """The site for the attacks; closed after all tests."""
    require_mosquitto()
    with Sites(lambda folder: Site(folder, bundle), tmp_path_factory) as started:
        yield started


@pytest.fixture(scope="session")
def accounts_sites(
    tmp_path_factory: pytest.TempPathFactory, bundle: Path
) -> Iterator[Sites[AccountsSite]]:
    """The site for the attacks of one account on another; closed after all tests."""
    require_mosquitto()
    with Sites(lambda folder: AccountsSite(folder, bundle), tmp_path_factory) as started:
        yield started
