"""The process of one engine: takes commands, one JSON line each, and answers each with one.

Rule: it computes only between a command and its answer. A failure ends the process; the parent
quotes what it printed last.
"""

import dataclasses
import json
import socket
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from edged.commands.bench.adapters import Adapter, Setup, load_adapter
from edged.commands.bench.usage import cpu_s, read_memory


class Child:
    """The commands; a reply is what the method of that name returns."""

    def __init__(self) -> None:
        self._adapter: Adapter | None = None

    def load(self, setup: dict[str, Any], target: str | None = None) -> dict[str, Any]:
        """Load the model; the seconds count from the import of the engine's library on.

        Raises:
            ModuleNotFoundError: a module of edged's own is missing: a broken install.
        """
        started_s = perf_counter()
        try:
            self._adapter = load_adapter(Setup(**setup), target)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("edged"):
                raise
            return {"missing": error.name}
        return {"load_s": perf_counter() - started_s, "versions": self.adapter.versions()}

    def generate(self, prompt: Sequence[int], count: int) -> dict[str, Any]:
        """Answer once; tell when the first and the last token came, and the CPU time between.

        Raises:
            ValueError: no token came.
        """
        adapter = self.adapter
        process_ids = adapter.process_ids()
        stamps: list[float] = []
        cpu_stamps: list[float] = []

        def on_token(_token_id: int) -> None:
            stamps.append(perf_counter())
            cpu_stamps.append(cpu_s(process_ids))

        started_s = perf_counter()
        adapter.generate(prompt, count, on_token)
        if not stamps:
            raise ValueError("the engine gave no token")
        return {
            "num_tokens": len(stamps),
            "first_s": stamps[0] - started_s,
            "last_s": stamps[-1] - started_s,
            "decode_cpu_s": cpu_stamps[-1] - cpu_stamps[0],
        }

    def together(self, prompts: Sequence[Sequence[int]], steps: int) -> dict[str, Any]:
        """Answer several prompts at the same time."""
        return {"decode_s": self.adapter.together(prompts, steps)}

    def memory(self) -> dict[str, Any]:
        """Tell what the engine holds now."""
        return dict(read_memory(self.adapter.process_ids()))

    @property
    def adapter(self) -> Adapter:
        """The loaded engine.

        Raises:
            ValueError: nothing was loaded.
        """
        if self._adapter is None:
            raise ValueError("load comes first")
        return self._adapter


def serve(connection: socket.socket) -> None:
    """Answer commands until the parent closes its end; blocks."""
    child = Child()
    with (
        connection,
        connection.makefile("r", encoding="ascii") as commands,
        connection.makefile("w", encoding="ascii") as answers,
    ):
        for line in commands:
            command = json.loads(line)
            answer: Callable[..., dict[str, Any]] = getattr(child, command.pop("do"))
            answers.write(json.dumps(answer(**command)) + "\n")
            answers.flush()


def as_command(name: str, **arguments: object) -> dict[str, object]:
    """Return a command for ``serve``."""
    return {
        "do": name,
        **{
            key: dataclasses.asdict(value) if isinstance(value, Setup) else value
            for key, value in arguments.items()
        },
    }


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
