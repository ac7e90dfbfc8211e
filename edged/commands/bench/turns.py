"""Runs in which every engine takes each turn, one after the other, alone.

Rule: A B A B, so that what disturbs the machine disturbs all; an engine that fails is named and
left out, the others go on.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edged.commands.bench.adapters import EDGED, Setup
from edged.commands.bench.plan import Figures, Turn
from edged.commands.bench.process import Channel, EngineLostError
from edged.commands.bench.usage import busy_s
from edged.errors import EdgedError

SETTLE_S = 0.03
"""Before each turn: threads that spin for work that may follow have gone to sleep."""

Samples = dict[str, list[float | None]]
"""One value a run, by the figure's name."""


class BenchError(EdgedError):
    """edged's own engine could not be measured."""


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


class Field:
    """The engines that are measured, alive in processes of their own.

    Args:
        setups: what each engine loads; edged's is among them.
        start: starts an engine and loads its model.
        settle: waits before a turn.
        note: tells a person what happens now.
    """

    def __init__(
        self,
        setups: Iterable[Setup],
        start: Callable[[Setup], Channel],
        note: Callable[[str], None],
        settle: Callable[[], None] = lambda: time.sleep(SETTLE_S),
    ) -> None:
        self._setups = {setup.engine: setup for setup in setups}
        self._start = start
        self._settle = settle
        self._note = note
        self._channels: dict[str, Channel] = {}
        self.samples: dict[str, Samples] = {}
        self.versions: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        """Why, by the engine's name."""
        self.quiet = Quiet()

    def start(self) -> None:
        """Load every model; blocks.

        Raises:
            BenchError: edged's could not be.
        """
        for name, setup in self._setups.items():
            self._note(f"loading {name}")
            try:
                self._channels[name] = self._start(setup)
            except EngineLostError as error:
                self._lose(name, error)
                continue
            self.versions |= self._channels[name].loaded["versions"]
            self.samples[name] = {}

    def take(self, turn: Turn) -> None:
        """Have every engine take a turn; blocks.

        Raises:
            BenchError: edged's engine was lost in it.
        """
        self._note(turn.title)
        for name, channel in list(self._channels.items()):
            self._settle()
            others = [other for other in self._channels.values() if other is not channel]
            before = _Moment(time.perf_counter(), channel.cpu_s(), _cpu_s(others), busy_s())
            try:
                answer = channel.call(turn.do, **turn.arguments)
            except EngineLostError as error:
                channel.close()
                del self._channels[name]
                self._lose(name, error)
                continue
            after = _Moment(time.perf_counter(), channel.cpu_s(), _cpu_s(others), busy_s())
            self.quiet.add(before, after, is_ours=name == EDGED)
            self._keep(name, turn.figures(answer))

    def load_afresh(self) -> None:
        """Start each engine once more beside the idle ones: load time and memory after it.

        Raises:
            BenchError: edged's engine was lost in it.
        """
        self._note("load")
        for name in list(self._channels):
            self._settle()
            try:
                fresh = self._start(self._setups[name])
                try:
                    self._keep(name, {"load_s": fresh.loaded["load_s"]})
                    held = fresh.call("memory")
                finally:
                    fresh.close()
            except EngineLostError as error:
                self._channels.pop(name).close()
                self._lose(name, error)
                continue
            self._keep(name, {f"loaded_{key}": value for key, value in held.items()})

    def close(self) -> None:
        """End all processes."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def _keep(self, name: str, figures: Mapping[str, float | None] | Figures) -> None:
        for figure, value in figures.items():
            self.samples[name].setdefault(figure, []).append(value)

    def _lose(self, name: str, error: EngineLostError) -> None:
        if name == EDGED:
            raise BenchError(f"{self._setups[name].source}: {error}") from error
        self.left_out[name] = str(error)
        self.samples.pop(name, None)
        self._note(f"{name} is left out: {error}")


def _cpu_s(channels: Iterable[Channel]) -> float:
    return sum(channel.cpu_s() for channel in channels)
