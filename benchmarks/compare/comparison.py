"""Run each turn on every engine, one engine at a time.

Rule: engines alternate (A B A B), so that other load affects all of them; an engine that fails is
reported and left out.
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
class _CpuTimes:
    """CPU seconds used so far."""

    wall_s: float
    own_s: float
    """By the engine under test."""
    others_s: float
    """By the other engines, which should be idle."""
    machine_s: float
    """By all processes of the machine."""


@dataclass(slots=True)
class Interference:
    """CPU time of other processes during the turns."""

    turns_s: float = 0.0
    waiting_s: float = 0.0
    """CPU time of idle engines during the turns of others."""
    our_turns_s: float = 0.0
    other_s: float = 0.0
    """CPU time of all other programs, in edged's turns only: a server like ollama computes in a
    process that this one did not start."""

    def add(self, before: _CpuTimes, after: _CpuTimes, *, is_ours: bool) -> None:
        """Add a turn; ``is_ours`` if it was edged's."""
        wall_s = after.wall_s - before.wall_s
        waiting_s = after.others_s - before.others_s
        self.turns_s += wall_s
        self.waiting_s += waiting_s
        if is_ours:
            engines_s = after.own_s - before.own_s + waiting_s
            self.our_turns_s += wall_s
            self.other_s += max(0.0, after.machine_s - before.machine_s - engines_s)

    def shares(self, num_cpus: int) -> dict[str, float]:
        """Return the share of a CPU used by idle engines, and of the machine by other programs."""
        return {
            "idle_cpu_share": self.waiting_s / self.turns_s,
            "disturbance_share": self.other_s / (self.our_turns_s * num_cpus),
        }


class MeasuredEngine:
    """One engine and its samples; the constructor loads the model and blocks.

    Raises:
        EngineLostError: It cannot be started.
    """

    def __init__(self, setup: Setup, start_engine: Start) -> None:
        self._setup = setup
        self._start = start_engine
        self.process = start_engine(setup)
        self.samples: dict[str, list[float | None]] = {}

    def take(self, turn: Turn) -> None:
        """Run a turn and keep its figures; blocks.

        Raises:
            EngineLostError: The engine failed.
        """
        self._keep(turn.figures(self.process.call(turn.do, **turn.arguments)))

    def end_run(self) -> None:
        """Start a second process of the engine to measure its load time and memory.

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


class Comparison:
    """The engines to compare, each in its own process; the constructor loads all models.

    Args:
        setups: Of each engine, including edged's.
        note: Reports progress.
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
        """Engine to reason."""
        self.interference = Interference()
        for setup in setups:
            with self._may_be_lost(setup.engine):
                note(f"loading {setup.engine}")
                self.engines[setup.engine] = MeasuredEngine(setup, start_engine)

    def take(self, turn: Turn) -> None:
        """Run a turn on every engine; blocks.

        Raises:
            EngineLostError: edged's engine failed.
        """
        self._note(turn.title)
        for name, engine in list(self.engines.items()):
            time.sleep(SETTLE_S)
            others = [other for other in self.engines.values() if other is not engine]
            with self._may_be_lost(name):
                before = _now(engine, others)
                engine.take(turn)
                self.interference.add(before, _now(engine, others), is_ours=name == EDGED)

    def end_run(self) -> None:
        """Start a second process of each engine to measure its load time and memory.

        Raises:
            EngineLostError: edged's engine failed.
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
        """Leave out an engine that fails in the block.

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
    """Return the CPU seconds used by the whole machine since its boot.

    Time stolen by a hypervisor counts, as if another program had used it. 0 if unknown.
    """
    try:
        first = stat.read_text(encoding="ascii").partition("\n")[0].split()
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _now(engine: MeasuredEngine, others: Iterable[MeasuredEngine]) -> _CpuTimes:
    return _CpuTimes(
        time.perf_counter(),
        engine.process.cpu_s(),
        sum(other.process.cpu_s() for other in others),
        busy_s(),
    )
