"""The generation loop: several answers at a time, each run of the model serving all it can.

Rule: ``step`` runs the model once and calls nobody, so its consumer can end or add answers between
any two runs; whatever was run stays valid for later prompts.
"""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from edged.bundle.folder import Bundle, GraphKind, KvType
from edged.engine.decoding import Decoding, check_prompt
from edged.engine.drafts import Drafter
from edged.engine.fused import InterruptedRunError
from edged.engine.graph import Graph, make_graph
from edged.engine.sampling import Sampler
from edged.engine.session import open_session
from edged.engine.slots import Slots
from edged.engine.speed import measure_cost
from edged.engine.steps import Constraint, EngineSettings, Failed, Prefilled, Ran, Step, Token
from edged.protocol.request import SamplingParams
from edged.scheduling.latency_model import CostEstimate

_DRAFT_COST = 0.1
"""What a guessed token adds to a run, until it was measured."""


class Engine:
    """A model and the sequences whose keys and values are in its cache.

    Not for use by two threads, but for ``interrupt``.

    Args:
        graph: the loaded model.
        stop_token_ids: the tokens that end an answer.
        prefill_chunk_tokens: prompt tokens run before the consumer can stop the request again.
        is_exact: whether a token's result is the same bits whatever is run with it.
        is_guessing: whether tokens may be guessed, if ``is_exact``.
        num_prefixes: how many of the graph's slots are for prefixes that are kept for good.
    """

    def __init__(
        self,
        graph: Graph,
        stop_token_ids: Sequence[int],
        prefill_chunk_tokens: int = 64,
        *,
        is_exact: bool = False,
        is_guessing: bool = True,
        num_prefixes: int = 0,
    ) -> None:
        self._graph = graph
        self._is_exact, self._is_guessing = is_exact, is_exact and is_guessing
        self.chunk_tokens = prefill_chunk_tokens
        self.num_slots = graph.num_slots - num_prefixes
        self._slots = Slots(graph.num_slots, num_prefixes)
        self._active: list[Decoding] = []
        self._prefilling: Decoding | None = None
        self._was_prefill = False
        self._draft_cost = _DRAFT_COST
        self.stop_token_ids = tuple(stop_token_ids)
        self.vocab_size = graph.vocab_size
        self.max_model_len = graph.max_model_len

    @property
    def num_touched(self) -> int:
        """Positions for which every slot has memory already; from any thread."""
        return self._slots.num_touched

    def start(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
        num_answered: int = 0,
    ) -> Decoding:
        """Begin an answer; ``step`` makes it, beside those that were begun before.

        It is over after a stop token, when ``constraint`` is complete, after ``max_tokens``, or
        when prompt and answer fill ``max_model_len``. ``end`` must be called for each. The last
        ``num_answered`` tokens of the prompt are the answer so far of one that was interrupted.

        Raises:
            ValueError: the prompt is empty, fills the context, or holds an unknown token; or
                ``max_tokens`` is below 1.
            RuntimeError: every slot has its answer.
        """
        prompt = np.asarray(prompt_ids, np.int64)
        check_prompt(prompt, max_tokens, self.max_model_len, self.vocab_size)
        # The ways of a prompt and of an answer differ in the last bits, enough to tip a token, and
        # in a graph that is not exact any two runs do. There only a seed is promised an answer that
        # does not depend on what was asked before.
        num_strict = len(prompt) - num_answered if self._is_exact else None
        is_fresh = sampling.seed is not None and not self._is_exact
        claim = self._slots.claim(prompt, is_fresh=is_fresh, num_strict=num_strict)
        if claim.source != claim.slot and claim.num_cached:
            self._graph.copy(claim.source, claim.slot, claim.num_cached)
        limit = min(len(prompt) + max_tokens, self.max_model_len)
        drafter = Drafter(prompt.tolist(), self._draft_cost) if self._is_guessing else None
        sequence = Decoding(prompt, claim, Sampler(sampling, prompt), limit, constraint, drafter)
        sequence.num_answered = num_answered
        self._active.append(sequence)
        return sequence

    def step(self) -> Ran:
        """Run the model once, for as many of the answers as one run can serve; blocks.

        Pieces of prompts and tokens of answers take turns. Nothing comes of it when no answer has
        anything left to run, or when the run was interrupted.
        """
        prefilling = (s for s in self._active if not s.is_prefilled)
        waiting = min(prefilling, key=lambda s: s.level, default=None)
        running = [s for s in self._active if s.is_prefilled and not s.is_over]
        self._was_prefill = waiting is not None and not (running and self._was_prefill)
        if waiting is not None and self._was_prefill:
            return self._prefill(waiting)
        guess = running[0].draft() if len(running) == 1 else []
        if guess:
            return self._decode_guess(running[0], guess)
        return self._decode(running) if running else Ran({})

    def end(self, sequence: Decoding) -> None:
        """Give an answer's slot back, finished or not; what was run of it stays in the cache."""
        if sequence in self._active:
            self._active.remove(sequence)
            self._slots.free(sequence.slot)

    def interrupt(self, sequence: Decoding) -> None:
        """Break off the run in hand if it is a piece of this prompt; from any thread."""
        if self._prefilling is sequence:
            self._graph.interrupt()

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> Generator[Prefilled | Token, None, None]:
        """Answer a prompt alone, a step at a time; see ``start``.

        Raises:
            ValueError: as ``start``, at once.
            RuntimeError: another answer is in the making, at the first step.
        """
        prompt = np.asarray(prompt_ids, np.int64)
        check_prompt(prompt, max_tokens, self.max_model_len, self.vocab_size)

        def steps() -> Generator[Prefilled | Token, None, None]:
            if self._active:
                raise RuntimeError("another answer is in the making; end it first")
            sequence = self.start(
                prompt_ids, sampling, max_tokens=max_tokens, constraint=constraint
            )
            try:
                while not sequence.is_over:
                    for step in self.step().outcomes[sequence]:
                        if isinstance(step, Failed):
                            raise step.error
                        yield step
            finally:
                self.end(sequence)

        return steps()

    def release(self) -> None:
        """Give the memory of all slots without an answer back."""
        for slot in self._slots.forget():
            self._graph.release(slot)

    def make_prefix(self, token_ids: Sequence[int]) -> NDArray[np.uint8]:
        """Compute what prompts begin with and keep it for good; return it for ``load_prefix``.

        Raises:
            RuntimeError: there is no place left for one.
        """
        tokens = np.asarray(token_ids, np.int64)
        slot = self._slots.pin(tokens)
        for start in range(0, len(tokens), self.chunk_tokens):
            self._graph.forward(tokens[start : start + self.chunk_tokens], start, slot=slot)
        return self._graph.read(slot)

    def load_prefix(self, token_ids: Sequence[int], data: NDArray[np.uint8]) -> bool:
        """Keep what ``make_prefix`` returned for these tokens; return whether it was that.

        Raises:
            RuntimeError: there is no place left for one.
        """
        slot = self._slots.pin(np.asarray(token_ids, np.int64))
        is_right = self._graph.write(slot, len(token_ids), data)
        if not is_right:
            self._slots.unpin(slot)
        return is_right

    def measure(self) -> CostEstimate:
        """Run made-up prompts and return what they cost; blocks for about 2 s at most.

        Raises:
            RuntimeError: an answer is in the making.
        """
        if self._active:
            raise RuntimeError("an answer is in the making; end it first")
        self._slots.forget()
        cost = measure_cost(self._graph, self.num_slots, self.chunk_tokens)
        for slot in range(self.num_slots):
            self._graph.release(slot)
        self._draft_cost = cost.decode_row_s / cost.decode_token_s or _DRAFT_COST
        return cost

    def _prefill(self, sequence: Decoding) -> Ran:
        start, slot = sequence.num_prefilled, sequence.slot
        token_ids, is_prompt = sequence.chunk(self.chunk_tokens)
        self._prefilling = sequence
        try:
            logits = self._graph.forward(token_ids, start, slot=slot, is_prompt=is_prompt)
        except InterruptedRunError:
            return Ran({})
        finally:
            self._prefilling = None
        self._slots.extend(slot, token_ids, is_prompt=is_prompt)
        sequence.num_prefilled += len(token_ids)
        steps: list[Step] = [Prefilled(sequence.num_prefilled, sequence.num_cached)]
        if sequence.is_prefilled:
            steps.append(sequence.choose(logits[0], self.stop_token_ids))
        return Ran({sequence: steps})

    def _decode(self, sequences: Sequence[Decoding]) -> Ran:
        rows = [sequence.row for sequence in sequences]
        outcomes = {}
        for row, logits, sequence in zip(rows, self._graph.decode(rows), sequences, strict=True):
            self._slots.extend(row.slot, (row.token_id,))
            outcomes[sequence] = [sequence.choose(logits, self.stop_token_ids)]
        return Ran(outcomes, len(rows), sum(row.position for row in rows))

    def _decode_guess(self, sequence: Decoding, guess: Sequence[int]) -> Ran:
        """Run an answer's last token and a guess of the next ones; keep what was guessed right."""
        row, forward = sequence.row, self._graph.forward
        ids = np.array([row.token_id, *guess])
        logits = forward(ids, row.position, slot=row.slot, all_rows=True, is_prompt=False)
        steps: list[Step] = []
        for place, guessed in enumerate([*guess, None]):
            step = sequence.choose(logits[place], self.stop_token_ids)
            steps.append(step)
            if sequence.is_over or not isinstance(step, Token) or step.token_id != guessed:
                break
        self._slots.extend(row.slot, ids[: len(steps)])
        sequence.learn(len(guess), len(steps) - 1)
        return Ran({sequence: steps}, len(ids), len(ids) * row.position)


def load_engine(bundle: Bundle, settings: EngineSettings) -> Engine:
    """Load a bundle's model; blocks for seconds.

    Raises:
        BundleError: the model cannot be loaded, or is not what the manifest says.
    """
    manifest, has_flash = bundle.manifest, settings.has_flash
    if has_flash is None:
        has_flash = manifest.model.kv_type is KvType.FP32
    session = open_session(
        settings.model_path or bundle.model_path,
        num_threads=settings.num_threads,
        has_flash=has_flash,
    )
    graph = make_graph(
        session,
        is_fused=manifest.graph is GraphKind.FUSED,
        max_model_len=min(settings.max_model_len, manifest.limits.max_model_len),
        num_slots=settings.num_slots + settings.num_prefixes,
        facts=manifest.model,
    )
    return Engine(
        graph,
        manifest.stop_token_ids,
        settings.prefill_chunk_tokens,
        is_exact=manifest.is_exact,
        is_guessing=settings.is_guessing,
        num_prefixes=settings.num_prefixes,
    )
