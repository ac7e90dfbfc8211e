"""The engines that answer, each to be loaded in a process of its own."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from numpy.typing import NDArray

from benchmarks.forced.questions import CONTEXT, MAX_TOKENS, Question, Said
from edged.bundle.folder import open_bundle
from edged.engine.decoding import Constraint
from edged.engine.grammar import compile_format
from edged.engine.loading import load_engine
from edged.engine.steps import EngineSettings, Token
from edged.engine.tokenizer import Tokenizer
from edged.protocol.request import FormatType, OutputFormat, SamplingParams


class TokenByToken:
    """A format that lets the model choose each token, even where there is one way to go on."""

    forced = ()
    is_ending = False

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        return self._constraint.is_complete

    def allowed(self, logits: NDArray[np.float32]) -> None:
        """Overwrite the logits of all tokens that may not come next with -inf."""
        self._constraint.allowed(logits)

    def advance(self, token_id: int) -> None:
        """Append the chosen token."""
        self._constraint.advance(token_id)


class Edged:
    """edged's engine, with the settings of a request that is alone.

    Args:
        source: The bundle's folder.
        num_threads: Threads of the engine.
        is_forcing: Whether forced text is used.

    Raises:
        BundleError: The bundle is damaged or cannot be loaded.
    """

    def __init__(self, source: str, num_threads: int, *, is_forcing: bool = True) -> None:
        bundle = open_bundle(Path(source))
        self._tokenizer = Tokenizer.load(bundle)
        self._engine = load_engine(bundle, EngineSettings(CONTEXT, num_threads))
        self._is_forcing = is_forcing

    def answer(self, prompt_ids: Sequence[int], question: Question) -> Said:
        """Answer greedily, held to the schema; blocks."""
        held = OutputFormat(FormatType.JSON_SCHEMA, schema=question.schema)
        constraint: Constraint | None = compile_format(self._tokenizer, held)
        if constraint is not None and not self._is_forcing:
            constraint = TokenByToken(constraint)
        started_s, before_s = perf_counter(), process_time()
        decoding = self._engine.start(
            prompt_ids, SamplingParams(), max_tokens=MAX_TOKENS, constraint=constraint
        )
        token_ids: list[int] = []
        num_passes = 0
        while not decoding.is_over:
            ran = self._engine.step()
            num_passes += ran.num_rows > 0
            token_ids += [s.token_id for s in ran.outcomes[decoding] if isinstance(s, Token)]
        self._engine.end(decoding)
        cpu_s = process_time() - before_s
        return Said(perf_counter() - started_s, cpu_s, token_ids, num_passes)


def edged(source: str, num_threads: int) -> Edged:
    """Load edged's engine."""
    return Edged(source, num_threads)


def edged_token_by_token(source: str, num_threads: int) -> Edged:
    """Load edged's engine, without forced text."""
    return Edged(source, num_threads, is_forcing=False)
