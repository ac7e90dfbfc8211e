"""A broker with accounts and the shipped access list, and a daemon that answers accounts only."""

import contextlib
import itertools
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from edged.commands.local_broker import mosquitto, running
from tests.system.broker.configured import configured
from tests.system.broker.daemons import Daemon
from tests.system.broker.with_specialist import PROGRAM
from tests.system.hostile.account import PASSWORD, Account, Will
from tests.system.hostile.crossings import ACCOUNTS, SERVICE, VICTIM, Crossing
from tests.system.hostile.encounter import (
    EVERYTHING,
    VICTIM_FILTERS,
    Intruder,
    Party,
    Transcript,
    Victim,
)
from tests.system.hostile.supervisor import Terms
from tests.system.shipped_broker import install_access_list


class AccountsSite:
    """A running broker and daemon, and the connections of the accounts.

    Args:
        folder: Empty; for their files.
        bundle: The model.
        accounts: Their names.
    """

    def __init__(self, folder: Path, bundle: Path, accounts: Sequence[str] = ACCOUNTS) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)
        self._listening: dict[str, Account] = {}
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as started:
            started.callback(self.close)
            self._start(folder, bundle, accounts)
            started.pop_all()

    def _start(self, folder: Path, bundle: Path, accounts: Sequence[str]) -> None:
        (folder / "mosquitto").mkdir(parents=True)
        (folder / "state").mkdir()
        terms = mosquitto(
            folder / "mosquitto",
            is_persistent=True,
            users=dict.fromkeys(accounts, PASSWORD) | {SERVICE: SERVICE},
            extra=[f"acl_file {install_access_list(folder)}"],
        )
        self._broker = self._stack.enter_context(running(terms))
        self._port = self._broker.port
        arguments = configured(
            folder,
            bundle,
            self._broker,
            user=SERVICE,
            security={"identity": "required"},
            group={"name": "lab"},
            queue={"size": 64},
            state={"folder": str(folder / "state"), "interval": "1s", "corrections": 1000},
        )
        limits = ("prlimit", f"--data={Terms.of_unit().data_bytes}", "--core=0")
        self.daemon = Daemon(folder, arguments, program=PROGRAM, before=limits)
        self._stack.callback(self.daemon.close)
        self.daemon.until("STATUS=serving")
        victim = self.connect(VICTIM, VICTIM_FILTERS)
        # A node begins with the session of the client identifier that it once had.
        assert victim.wait_for(
            lambda arrived: (
                any(b'"joined"' in each.payload for each in arrived)
                and "of before is taken in" in self.daemon.log
            )
        )
        self.party(VICTIM).finish()
        self.quiet, _ = self.play(None)
        """What the victim is sent in an encounter without an attack."""

    def connect(
        self,
        name: str,
        filters: Sequence[str] = (),
        *,
        client_id: str = "",
        will: Will | None = None,
        session_s: int = 0,
    ) -> Account:
        """Connect an account; one that listens to all it may read is connected once.

        What such a connection was sent before, and nobody looked at, is forgotten.
        """
        is_shared = filters in (EVERYTHING, VICTIM_FILTERS)
        if is_shared and name in self._listening:
            self._listening[name].take()
            return self._listening[name]
        account = Account(
            self._port, name, filters, client_id=client_id, will=will, session_s=session_s
        )
        if is_shared:
            assert account.is_connected, account.refusal
            self._listening[name] = account
        return account

    def reconnect(self, account: Account) -> Account:
        """Disconnect an account that listens to all it may read, and connect it anew."""
        account.close()
        del self._listening[account.name]
        again = self.connect(account.name, account.filters)
        again.go_on_from(account)
        return again

    def next_number(self) -> str:
        """Return the number of the next encounter."""
        return f"{next(self._numbers):06}"

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the daemon meanwhile: it then finds all that was sent at once."""
        self.daemon.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.daemon.process.send_signal(signal.SIGCONT)

    def play(
        self, crossing: Crossing | None, *, has_victim: bool = True
    ) -> tuple[Transcript, Transcript]:
        """Play an attack; return what the victim and the intruder were sent."""
        number = self.next_number()
        victim, intruder = (
            Victim(self.connect(VICTIM, VICTIM_FILTERS), number),
            Intruder(self.connect, number),
        )
        moves = () if crossing is None else crossing.moves
        intruder.make(moves)
        intruder.settle()
        if has_victim:
            victim.begin()
        with self.paused():
            if has_victim:
                victim.ask_at_length()
            intruder.make(moves)
        intruder.settle()
        if has_victim:
            victim.settle()
        intruder.make(moves)
        if has_victim:
            victim.go_on()
        intruder.settle()
        return victim.finish(), intruder.finish()

    def party(self, name: str) -> Party:
        """Let an account send under a new number."""
        account = self.connect(name, VICTIM_FILTERS if name == VICTIM else EVERYTHING)
        return Party(account, self.next_number(), name)

    def close(self) -> None:
        """Stop everything."""
        for account in self._listening.values():
            account.close()
        self._stack.close()
