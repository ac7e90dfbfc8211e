"""A daemon whose engine answers at once: ``python -m benchmarks.wire.node CONFIG``.

Everything but the model is the daemon's own: transport, decoding, admission, queue, worker,
replies, crash journal, state. A token is a byte of the prompt; in the answer, its text is the time
at which it was generated, so that the client can compute the delay.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edged.bundle.folder import Bundle
from edged.bundle.manifest import (
    FORMAT,
    GraphKind,
    Manifest,
    ModelFacts,
    ModelLimits,
    Quality,
    QualityLimits,
    Source,
)
from edged.config.keys import Config
from edged.config.load import load_config
from edged.daemon import memory
from edged.daemon.loader import ResidentModel
from edged.daemon.logs import configure_logging
from edged.daemon.memory_plan import MemoryReservation
from edged.daemon.run import serve
from edged.daemon.specialist_folders import SpecialistFolders
from edged.engine.decoding import Constraint, Decoding, ForwardPass
from edged.engine.steps import NO_ORIGIN, Prefilled, PromptOrigin, Step, Token
from edged.protocol.request import ChatMessage, SamplingParams
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.memory_budget import MemoryBudget, MemoryPlan
from edged.transport.clock import boot_s

if TYPE_CHECKING:
    from edged.engine.loop import Engine
    from edged.engine.tokenizer import Tokenizer

MAX_MODEL_LEN = 2048
_COST = CostEstimate(prefill_token_s=1e-6, decode_token_s=1e-6)
_FREE_BYTES = 1 << 30


class InstantDecoding(Decoding):
    """An answer that is complete at once."""

    def __init__(self, num_prompt_tokens: int, max_tokens: int) -> None:
        self.num_tokens = num_prompt_tokens
        self.is_over = False
        steps: list[Step] = [Prefilled(num_prompt_tokens, 0)]
        self.remaining = steps + [Token(0, is_stop=False)] * max_tokens


class InstantEngine:
    """The interface of ``Engine`` that the daemon uses, without any computation."""

    max_model_len = MAX_MODEL_LEN
    num_slots = 1
    num_touched = MAX_MODEL_LEN

    def __init__(self) -> None:
        self._active: list[InstantDecoding] = []

    def start(
        self,
        prompt_ids: Sequence[int],
        _sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
        origin: PromptOrigin = NO_ORIGIN,
        reader: object = None,
    ) -> Decoding:
        """Start an answer of ``max_tokens`` tokens."""
        _ = constraint, origin, reader
        self._active.append(InstantDecoding(len(prompt_ids), max_tokens))
        return self._active[-1]

    def step(self) -> ForwardPass:
        """Run one step of each answer."""
        outcomes: dict[Decoding, list[Step]] = {}
        for sequence in self._active:
            outcomes[sequence] = [sequence.remaining.pop(0)]
            sequence.is_over = not sequence.remaining
        return ForwardPass(outcomes)

    def end(self, sequence: Decoding) -> None:
        """Remove an answer."""
        self._active = [other for other in self._active if other is not sequence]

    def interrupt(self, _sequence: Decoding) -> None:
        """Do nothing: no forward pass takes any time."""

    def release(self) -> None:
        """Do nothing: there is no cache."""


class ByteTokenizer:
    """The interface of ``Tokenizer`` that the daemon uses: a token is a byte."""

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the bytes of all messages."""
        return [byte for message in messages for byte in message.content.encode()]

    def detokenizer(self) -> "ClockDetokenizer":
        """Return the detokenizer of one answer."""
        return ClockDetokenizer()


class ClockDetokenizer:
    """Each token is a line with the monotonic time in nanoseconds."""

    def push(self, _token_id: int) -> str:
        """Return the time."""
        return f"{time.monotonic_ns()}\n"

    def flush(self) -> str:
        """Return nothing: no token is held back."""
        return ""


def load_instant(config: Config) -> ResidentModel:
    """Return an instant model; replaces ``loader.load``."""
    held = memory.snapshot()
    reservation = MemoryReservation(
        MemoryBudget(held.rss_bytes + _FREE_BYTES),
        memory.kernel_limits(),
        MemoryPlan(0, 0, process_bytes=held.rss_bytes, working_bytes=0),
        num_slots=1,
    )
    return ResidentModel(
        config=config,
        bundle=Bundle(Path(), Path(), _manifest(), "0" * 64),
        memory=reservation,
        engine=cast("Engine", InstantEngine()),
        tokenizer=cast("Tokenizer", ByteTokenizer()),
        specialists=SpecialistFolders(),
        cost=_COST,
        started_s=boot_s(),
    )


def _manifest() -> Manifest:
    nothing = QualityLimits(0.0, 0.0, 0.0)
    return Manifest(
        format=FORMAT,
        name="instant",
        model=ModelFacts("none", 0, 256, 0, 0),
        source=Source("none", "edged.commands.bench", None, "0" * 64),
        licence="Apache-2.0",
        graph=GraphKind.FUSED,
        scheme="none",
        limits=ModelLimits(MAX_MODEL_LEN),
        stop_token_ids=(),
        chat_template=None,
        bos_token=None,
        eos_token=None,
        add_bos_token=False,
        quality=Quality(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, limits=nothing, passed=True, text="none"),
        tools={},
        files={},
    )


def main(file: Path) -> int:
    """Serve until a signal; return the exit status."""
    config = load_config(file.read_text(encoding="utf-8"), str(file))
    configure_logging(config.log.level, config.log.format)
    return serve(lambda: config, load_instant)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
