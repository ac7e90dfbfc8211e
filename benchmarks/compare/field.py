"""Runs in which every engine takes each turn, one after the other, alone.

Rule: A B A B, so that what disturbs the machine disturbs all; an engine that fails is named and
left out, the others go on.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare.engines import EDGED, start
from benchmarks.compare.process import EngineLostError, EngineProcess, Setup
from edged.commands.bench.measure import SETTLE_S
from edged.commands.bench.turns import Turn

Start = Callable[[Setup], EngineProcess]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Moment:
    """CPU seconds used until now."""

    wall_s: float
    own_s: float
    """By the engine whose turn it is."""
    others_s: float
    """By the engines that wait."""
    machine_s: float
    """By everything."""


@dataclass(slots=True)
class Quiet:
    """How quiet it was while engines took their turns."""

    turns_s: float = 0.0
    waiting_s: float = 0.0
    """CPU time of engines in the turns of others."""
    our_turns_s: float = 0.0
    foreign_s: float = 0.0
    """CPU time of everything that is no engine, in edged's turns: those of a server like ollama
    work in a process that is not ours."""

    def add(self, before: _Moment, after: _Moment, *, is_ours: bool) -> None:
        """Take in a turn; ``is_ours`` when it was edged's."""
        wall_s = after.wall_s - before.wall_s
        waiting_s = after.others_s - before.others_s
        self.turns_s += wall_s
        self.waiting_s += waiting_s
        if is_ours:
            engines_s = after.own_s - before.own_s + waiting_s
            self.our_turns_s += wall_s
            self.foreign_s += max(0.0, after.machine_s - before.machine_s - engines_s)

    def shares(self, num_cpus: int) -> dict[str, float]:
        """Return what waiting engines used of one CPU, and other programs of the machine."""
        return {
            "idle_cpu_share": self.waiting_s / self.turns_s,
            "disturbance_share": self.foreign_s / (self.our_turns_s * num_cpus),
        }


class MeasuredEngine:
    """One engine and its samples; loads its model, which blocks.

    Raises:
        EngineLostError: It cannot be started.
    """

    def __init__(self, setup: Setup, start_engine: Start) -> None:
        self._setup = setup
        self._start = start_engine
        self.process = start_engine(setup)
        self.samples: dict[str, list[float | None]] = {}

    def take(self, turn: Turn) -> None:
        """Take a turn and keep its figures; blocks.

        Raises:
            EngineLostError: The engine was lost in it.
        """
        self._keep(turn.figures(self.process.call(turn.do, **turn.arguments)))

    def end_run(self) -> None:
        """Start the engine once more beside the idle one: load time and memory after it.

        Raises:
            EngineLostError: It cannot be started.
        """
        fresh = self._start(self._setup)
        try:
            held = fresh.call("memory")
        finally:
            fresh.close()
        loaded = {f"loaded_{key}": value for key, value in held.items()}
        self._keep({"load_s": fresh.loaded["load_s"], **loaded})

    def _keep(self, figures: Mapping[str, float | None]) -> None:
        for figure, value in figures.items():
            self.samples.setdefault(figure, []).append(value)


class Field:
    """The engines that are measured, alive in processes of their own; loads every model.

    Args:
        setups: What each engine loads; edged's is among them.
        note: Tells a person what happens now.
        start_engine: Starts an engine and loads its model; for tests.

    Raises:
        EngineLostError: edged's could not be loaded.
    """

    def __init__(
        self,
        setups: Iterable[Setup],
        note: Callable[[str], None],
        start_engine: Start = start,
    ) -> None:
        self._note = note
        self.engines: dict[str, MeasuredEngine] = {}
        self.left_out: dict[str, str] = {}
        """Why, by the engine's name."""
        self.quiet = Quiet()
        for setup in setups:
            with self._may_be_lost(setup.engine):
                note(f"loading {setup.engine}")
                self.engines[setup.engine] = MeasuredEngine(setup, start_engine)

    def take(self, turn: Turn) -> None:
        """Have every engine take a turn; blocks.

        Raises:
            EngineLostError: edged's engine was lost in it.
        """
        self._note(turn.title)
        for name, engine in list(self.engines.items()):
            time.sleep(SETTLE_S)
            others = [other for other in self.engines.values() if other is not engine]
            with self._may_be_lost(name):
                before = _now(engine, others)
                engine.take(turn)
                self.quiet.add(before, _now(engine, others), is_ours=name == EDGED)

    def end_run(self) -> None:
        """Start each engine once more beside the idle ones: load time and memory after it.

        Raises:
            EngineLostError: edged's engine was lost in it.
        """
        self._note("load")
        for name, engine in list(self.engines.items()):
            time.sleep(SETTLE_S)
            with self._may_be_lost(name):
                engine.end_run()

    def close(self) -> None:
        """End all processes."""
        for engine in self.engines.values():
            engine.process.close()

    @contextmanager
    def _may_be_lost(self, name: str) -> Iterator[None]:
        """Leave an engine out that is lost in the block.

        Raises:
            EngineLostError: It is edged's.
        """
        try:
            yield
        except EngineLostError as error:
            if name == EDGED:
                raise
            if name in self.engines:
                self.engines.pop(name).process.close()
            self.left_out[name] = str(error)
            self._note(f"{name} is left out: {error}")


def busy_s(stat: Path = Path("/proc/stat")) -> float:
    """Return the CPU seconds that the machine has spent on anything at all since its boot.

    Time that a hypervisor took away is in it: to us it is another program's. 0 where the kernel
    does not tell.
    """
    try:
        first = stat.read_text(encoding="ascii").partition("\n")[0].split()
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _now(engine: MeasuredEngine, others: Iterable[MeasuredEngine]) -> _Moment:
    return _Moment(
        time.perf_counter(),
        engine.process.cpu_s(),
        sum(other.process.cpu_s() for other in others),
        busy_s(),
    )
