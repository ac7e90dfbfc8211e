"""A broker and a daemon that many attacks share until a test fails."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from edged.commands.local_broker import mosquitto as configure_mosquitto
from edged.commands.local_broker import running
from tests.system.broker.configured import configured
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import Daemon
from tests.system.hostile.attacker import Attacker, attacker
from tests.system.hostile.supervisor import Terms


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


class Sites:
    """One site for all tests, and a new one after a failed test."""

    def __init__(self, factory: pytest.TempPathFactory, bundle: Path) -> None:
        self._factory, self._bundle = factory, bundle
        self._site: Site | None = None

    @contextlib.contextmanager
    def one(self) -> Iterator[Site]:
        """Return the site; a failed assertion closes it."""
        if self._site is None:
            self._site = Site(self._factory.mktemp("site"), self._bundle)
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
def sites(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Sites]:
    """The site for the attacks; closed after all tests."""
    require_mosquitto()
    with Sites(tmp_path_factory, bundle) as started:
        yield started
