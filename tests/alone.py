"""One answer of an engine that has no other in progress."""

from collections.abc import Generator, Sequence

from edged.engine.decoding import Constraint
from edged.engine.loop import Engine
from edged.engine.steps import Prefilled, Token
from edged.protocol.request import SamplingParams


def generate(
    engine: Engine,
    prompt_ids: Sequence[int],
    sampling: SamplingParams,
    *,
    max_tokens: int,
    constraint: Constraint | None = None,
) -> Generator[Prefilled | Token, None, None]:
    """Yield the steps of an answer; it is ended with the generator."""
    decoding = engine.start(prompt_ids, sampling, max_tokens=max_tokens, constraint=constraint)
    try:
        while not decoding.is_over:
            for step in engine.step().outcomes[decoding]:
                if isinstance(step, Exception):
                    raise step
                yield step
    finally:
        engine.end(decoding)
