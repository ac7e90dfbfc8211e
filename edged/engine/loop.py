"""The generation loop: chunked prefill, then decode, one sequence at a time.

Rule: it yields after every run of the model and calls nobody, so its consumer can stop it there;
whatever was run stays valid for the next request.
"""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from edged.bundle import Bundle, GraphKind
from edged.costmodel import Cost
from edged.engine.graph import Graph, load_graph
from edged.engine.speed import measure_cost
from edged.engine.steps import Constraint, EngineSettings, Prefilled, Token
from edged.request import SamplingParams
from edged.sampling import Sampler


class Engine:
    """A model and the one sequence whose keys and values are in its cache.

    Not for use by two threads, nor for two answers at a time.

    Args:
        graph: the loaded model.
        stop_token_ids: the tokens that end an answer.
        prefill_chunk_tokens: prompt tokens run before the consumer can stop the request again.
    """

    def __init__(
        self, graph: Graph, stop_token_ids: Sequence[int], prefill_chunk_tokens: int = 64
    ) -> None:
        self._graph = graph
        self._chunk = prefill_chunk_tokens
        self._cached = np.empty(0, np.int64)
        """The tokens whose keys and values are in the cache."""
        self._turn = 0
        self.stop_token_ids = tuple(stop_token_ids)
        self.vocab_size = graph.vocab_size
        self.max_model_len = graph.max_model_len
        self.kv_bytes = graph.kv_bytes

    @classmethod
    def load(cls, bundle: Bundle, settings: EngineSettings) -> "Engine":
        """Load the bundle's model; blocks for seconds.

        Raises:
            BundleError: the model cannot be loaded, or is not what the manifest says.
        """
        manifest = bundle.manifest
        graph = load_graph(
            settings.model_path or bundle.model_path,
            is_fused=manifest.graph is GraphKind.FUSED,
            max_model_len=min(settings.max_model_len, manifest.limits.max_model_len),
            num_threads=settings.num_threads,
        )
        return cls(graph, manifest.stop_token_ids, settings.prefill_chunk_tokens)

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> Generator[Prefilled | Token, None, None]:
        """Answer a prompt, a step at a time; each step blocks for one run of the model.

        The answer ends after a stop token, when ``constraint`` is complete, after ``max_tokens``,
        or when prompt and answer fill ``max_model_len``. It may be dropped after any step; a later
        call then ends it.

        Raises:
            ValueError: the prompt is empty, fills the context, or holds an unknown token; or
                ``max_tokens`` is below 1.
        """
        prompt = np.asarray(prompt_ids, np.int64)
        if not 0 < len(prompt) < self.max_model_len:
            raise ValueError(
                f"{len(prompt)} prompt tokens do not fit 1 to {self.max_model_len - 1}"
            )
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; an answer has at least 1")
        if prompt.min() < 0 or prompt.max() >= self.vocab_size:
            raise ValueError(f"a prompt token is outside the vocabulary of {self.vocab_size}")
        limit = min(len(prompt) + max_tokens, self.max_model_len)
        if sampling.seed is not None:
            # Reused rows were computed in runs of other shapes, which round differently: enough to
            # tip a draw. Same seed, same answer, whatever was asked before.
            self._cached = self._cached[:0]
        return self._steps(prompt, Sampler(sampling, prompt), limit, constraint)

    def release(self) -> None:
        """Give the memory of the cache back; the next prompt is computed from its start."""
        self._take_turn()
        self._cached = self._cached[:0]
        self._graph.release()

    def measure(self) -> Cost:
        """Run made-up prompts and return what they cost; blocks for about 2 s at most."""
        self._take_turn()
        self._cached = self._cached[:0]
        return measure_cost(self._graph, self._chunk)

    def _take_turn(self) -> int:
        self._turn += 1
        return self._turn

    def _steps(
        self, prompt: NDArray[np.int64], sampler: Sampler, limit: int, constraint: Constraint | None
    ) -> Generator[Prefilled | Token, None, None]:
        turn = self._take_turn()
        cached = done = self._common_prefix(prompt)
        while True:
            logits = self._run(prompt[done : done + self._chunk], done)
            done = len(self._cached)
            yield Prefilled(done, cached)
            self._check_turn(turn)
            if done == len(prompt):
                break
        position = len(prompt)
        while True:
            token_id = _choose(logits[0], sampler, constraint)
            is_stop = token_id in self.stop_token_ids
            yield Token(token_id, is_stop)
            self._check_turn(turn)
            is_complete = constraint is not None and constraint.is_complete
            if is_stop or is_complete or position + 1 == limit:
                return
            logits = self._run(np.array([token_id]), position)
            position += 1

    def _common_prefix(self, prompt: NDArray[np.int64]) -> int:
        """Return how many tokens need not be run; the last always is, for its logits."""
        shared = min(len(self._cached), len(prompt) - 1)
        differs = np.flatnonzero(self._cached[:shared] != prompt[:shared])
        return int(differs[0]) if len(differs) else shared

    def _run(self, token_ids: NDArray[np.int64], start: int) -> NDArray[np.float32]:
        # Cut first: should the run fail, rows from start on may be half written.
        self._cached = self._cached[:start]
        logits = self._graph.forward(token_ids, start)
        self._cached = np.concatenate([self._cached, token_ids])
        return logits

    def _check_turn(self, turn: int) -> None:
        if turn != self._turn:
            raise RuntimeError("this answer was ended by a later request to the engine")


def _choose(logits: NDArray[np.float32], sampler: Sampler, constraint: Constraint | None) -> int:
    if constraint is None:
        return sampler.choose(logits)
    constraint.allowed(logits)
    token_id = sampler.choose(logits)
    constraint.advance(token_id)
    return token_id
