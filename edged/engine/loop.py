"""The generation loop: several answers at a time, batched in each forward pass.

Rule: ``step`` runs the model once and calls no consumer, so answers can be ended or added between
any two passes; the cache stays valid for later prompts.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edged.engine.ahead import take_ahead
from edged.engine.decoding import Constraint, Decoding, ForwardPass, HiddenReader, checked_prompt
from edged.engine.drafts import Drafter
from edged.engine.groups import read_together
from edged.engine.sampling import Sampler
from edged.engine.slots import Claim, Slots, TokenIds
from edged.engine.speed import measure_cost, time_requests
from edged.engine.steps import (
    NO_ORIGIN,
    EngineSettings,
    InterruptedRunError,
    Prefilled,
    PromptOrigin,
    Step,
    Token,
)
from edged.protocol.request import SamplingParams
from edged.scheduling.latency_model import CostEstimate, RequestTimings
from edged.specialists.scoring import OptionScorer

if TYPE_CHECKING:
    from edged.engine.graph import Graph
    from edged.specialists.adapter import Adapter

# What a drafted token adds to a pass, as a fraction of a pass of one token, until measured.
_DRAFT_COST = 0.1


class Engine:
    """A model and the sequences whose keys and values are in its cache.

    For one thread only, except ``interrupt`` and ``num_touched``.

    Args:
        graph: the loaded model.
        stop_token_ids: the tokens that end an answer.
        settings: those that the graph was loaded with.
        is_exact: whether a token's result has the same bits whatever the batch.
    """

    def __init__(
        self,
        graph: "Graph",
        stop_token_ids: Sequence[int],
        settings: EngineSettings,
        *,
        is_exact: bool = False,
    ) -> None:
        self._graph = graph
        # Elsewhere a drafted token could differ from the one decoded by itself.
        self._is_exact, self._is_guessing = is_exact, is_exact and settings.is_guessing
        self.chunk_tokens = settings.prefill_chunk_tokens
        # No memory is planned for more tokens than a sequence has.
        self._batch_tokens = max(min(settings.batch_tokens, graph.max_model_len), self.chunk_tokens)
        self.num_slots = settings.num_slots
        self._slots = Slots(settings.num_slots, settings.num_prefixes)
        self._active: list[Decoding] = []
        self._prefilling: set[Decoding] = set()
        self._was_prefill, self._draft_cost = False, _DRAFT_COST
        self.stop_token_ids = tuple(stop_token_ids)
        self.vocab_size, self.max_model_len = graph.vocab_size, graph.max_model_len
        self.hidden_shape, self.adapter_shape = graph.hidden_shape, graph.adapter_shape

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
        origin: PromptOrigin = NO_ORIGIN,
        reader: HiddenReader | OptionScorer | None = None,
    ) -> Decoding:
        """Begin an answer; ``step`` decodes it in a batch with the others.

        It is over after a stop token, when ``constraint`` is complete, after ``max_tokens``, or
        when prompt and answer fill ``max_model_len``. ``end`` must be called for each. With a
        ``reader`` it is over when the prompt is read, or the options behind it: no token is chosen,
        and one run may read the prompts of several.

        Raises:
            ValueError: the prompt is empty, fills the context, alone or with an option behind it,
                or holds an unknown token; ``max_tokens`` is below 1; the graph takes no adapter; or
                hidden states are to be read with one.
            RuntimeError: no slot is free.
        """
        scorer = reader if isinstance(reader, OptionScorer) else None
        longest = self.max_model_len - (1 if scorer is None else max(scorer.num_behind, 1))
        prompt = checked_prompt(prompt_ids, max_tokens, longest, self.vocab_size)
        # The prefill and the decode branch differ in the last bits, enough to change a token, and
        # in a graph that is not exact any two batches do. There only a request with a seed is
        # promised an answer that does not depend on earlier requests.
        num_strict = len(prompt) - origin.num_answered if self._is_exact else None
        is_fresh = sampling.seed is not None and not self._is_exact
        # The last token of a prompt is always run: its logits are needed.
        num_reusable = 0 if is_fresh else len(prompt) - 1
        if reader is not None and scorer is None and origin.adapter is not None:
            raise ValueError("hidden states are read without an adapter")
        if reader is not None:  # cached tokens have keys and values, and no hidden states
            num_reusable = min(num_reusable, reader.num_before)
        claim = self._claim(prompt, num_reusable, num_strict, origin)
        limit = min(len(prompt) + max_tokens, self.max_model_len)
        is_guessing = self._is_guessing and reader is None
        drafter = Drafter(prompt.tolist(), self._draft_cost) if is_guessing else None
        sampler = Sampler(sampling, prompt, origin.num_answered)
        decoding = Decoding(
            prompt, sampler, claim.slot, claim.num_cached, limit, constraint, drafter
        )
        decoding.num_answered, decoding.num_foreign = origin.num_answered, claim.num_foreign
        decoding.is_weighed = origin.adapter is not None
        if scorer is not None:
            decoding.scorer = scorer
        else:
            decoding.reader = reader
        self._active.append(decoding)
        return decoding

    def step(self) -> ForwardPass:
        """Run the model once, for as many answers as one forward pass can serve; blocks.

        Prefill chunks and decode steps alternate. The pass is empty when no answer has anything
        left to run, or when the run was interrupted.
        """
        try:
            return self._pass()
        except InterruptedRunError:
            # A late interruption of a prompt may end the run that follows; that is run again.
            return ForwardPass({})
        finally:
            self._prefilling = set()

    def _pass(self) -> ForwardPass:
        waiting = [d for d in self._active if not d.is_read and not d.is_over]
        prefilling = min(waiting, key=lambda d: d.level, default=None)
        running = [d for d in self._active if d.is_read and not d.is_over]
        # Alternating, a long prompt delays each token of a running answer by one chunk at most.
        self._was_prefill = prefilling is not None and not (running and self._was_prefill)
        if prefilling is not None and self._was_prefill:
            if prefilling.next_behind is not None:
                return self._score(prefilling, *prefilling.next_behind)
            is_answered = prefilling.reader is None
            # The first of several answers begins at most a chunk later for the others.
            limit = self.chunk_tokens if running or is_answered else self._batch_tokens
            beside = waiting if self._is_exact or not is_answered else [prefilling]
            return self._read(read_together(prefilling, beside, self.chunk_tokens, limit))
        following = self._known(running)
        # Beside others each token is a row of their passes: a draft would delay them.
        draft = running[0].draft() if len(running) == 1 and not any(following) else []
        if draft:
            return self._run_draft(running[0], draft)
        return self._decode(running, following) if running else ForwardPass({})

    def end(self, decoding: Decoding) -> None:
        """Free an answer's slot, finished or not; its tokens stay in the cache."""
        if decoding in self._active:
            self._active.remove(decoding)
            self._slots.free(decoding.slot)

    def interrupt(self, decoding: Decoding) -> None:
        """Interrupt the current run if it is a prefill chunk of this answer; from any thread.

        One that reads the prompts of others, too, goes on unless all of them are interrupted.
        """
        prefilling = self._prefilling
        if decoding in prefilling:
            prefilling.discard(decoding)
            if not prefilling:
                self._graph.interrupt()

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> Generator[Prefilled | Token, None, None]:
        """Yield the steps of an answer; raises as ``start``, or what its constraint raises.

        Raises:
            RuntimeError: another answer is in progress.
        """
        self._check_idle()
        decoding = self.start(prompt_ids, sampling, max_tokens=max_tokens, constraint=constraint)
        try:
            while not decoding.is_over:
                for step in self.step().outcomes[decoding]:
                    if isinstance(step, Exception):
                        raise step
                    yield step
        finally:
            self.end(decoding)

    def read(self, prompt_ids: Sequence[int], reader: HiddenReader | OptionScorer) -> None:
        """Run a prompt for its reader alone; blocks, and raises as ``start``.

        Raises:
            RuntimeError: another answer is in progress.
        """
        self._check_idle()
        decoding = self.start(prompt_ids, SamplingParams(), max_tokens=1, reader=reader)
        try:
            while not decoding.is_over:
                self.step()
        finally:
            self.end(decoding)

    def release(self) -> None:
        """Return the memory of all slots without an answer to the system."""
        for slot in self._slots.forget():
            self._graph.release(slot)

    def make_prefix(
        self, token_ids: Sequence[int], adapter: "Adapter | None" = None
    ) -> NDArray[np.uint8]:
        """Compute a prefix of later prompts and keep it; return its cache for ``load_prefix``.

        It serves prompts with the same adapter alone.

        Raises:
            RuntimeError: every slot for a prefix is taken.
        """
        tokens = np.asarray(token_ids, np.int64)
        slot = self._slots.pin(tokens, None if adapter is None else adapter.key)
        self._graph.adapt(slot, adapter)
        for start in range(0, len(tokens), self.chunk_tokens):
            self._graph.forward(tokens[start : start + self.chunk_tokens], start, slot=slot)
        self._graph.adapt(slot, None)
        return self._graph.read(slot)

    def load_prefix(
        self, token_ids: Sequence[int], data: NDArray[np.uint8], adapter: "Adapter | None" = None
    ) -> bool:
        """Keep what ``make_prefix`` returned, with its errors; return False if it does not fit."""
        key = None if adapter is None else adapter.key
        slot = self._slots.pin(np.asarray(token_ids, np.int64), key)
        fits = self._graph.write(slot, len(token_ids), data)
        if not fits:
            self._slots.unpin(slot)
        return fits

    def measure(self) -> CostEstimate:
        """Run synthetic prompts and return what they cost; blocks for about 2 s at most.

        Raises:
            RuntimeError: an answer is in progress.
        """
        self._check_idle()
        self._slots.forget()
        cost = measure_cost(self._graph, self.num_slots, self.chunk_tokens)
        for slot in range(self.num_slots):
            self._graph.release(slot)
        self._draft_cost = cost.decode_row_s / cost.decode_token_s or _DRAFT_COST
        return cost

    def probe(self, goes_on: Callable[[], bool]) -> list[RequestTimings]:
        """Time a few short requests of its own, as ``time_requests`` does; blocks.

        Raises:
            RuntimeError: no slot is free.
        """
        slot = self._claim(np.zeros(0, np.int64), 0, None, NO_ORIGIN).slot
        try:
            return time_requests(self._graph, slot, self.chunk_tokens, goes_on)
        finally:
            self._slots.free(slot)

    def _claim(
        self, prompt: TokenIds, num_reusable: int, num_strict: int | None, origin: PromptOrigin
    ) -> Claim:
        """Choose a prompt's slot, and put what is reused and the adapter into it.

        Raises:
            ValueError: the graph takes no adapter.
        """
        if origin.adapter is not None and not self.adapter_shape:
            raise ValueError("this bundle takes no adapters; rebuild it with `edged build`")
        claim = self._slots.claim(
            prompt,
            num_reusable=num_reusable,
            num_strict=num_strict,
            user=origin.user,
            adapter=origin.adapter_key,
        )
        with self._slots.kept(claim.slot):
            self._graph.adapt(claim.slot, origin.adapter)
            if claim.source != claim.slot and claim.num_cached:
                self._graph.copy(claim.source, claim.slot, claim.num_cached)
        return claim

    def _check_idle(self) -> None:
        if self._active:
            raise RuntimeError("another answer is in progress; end it first")

    def _read(self, decodings: Sequence[Decoding]) -> ForwardPass:
        """Run a chunk of a prompt, or of each of several in adjacent slots."""
        first, slot = decodings[0], decodings[0].slot
        start, is_prefill = min(one.num_prefilled for one in decodings), first.chunk(1)[1]
        chunks = [self._chunk(one, start) for one in decodings]
        self._prefilling = set(decodings)
        if first.reader is not None:
            found = self._graph.hidden(chunks, start, first.num_unread, slot=slot)
        elif len(chunks) > 1:
            found = self._graph.prefill(chunks, start, slot=slot)
        else:
            found = [*self._graph.forward(chunks[0], start, slot=slot, is_prefill=is_prefill)]
        num_run, outcomes = len(chunks) * max(map(len, chunks)), {}
        for decoding, token_ids, rows in zip(decodings, chunks, found, strict=True):
            self._slots.extend(decoding.slot, token_ids, is_prefill=is_prefill)
            step = decoding.read(rows, len(token_ids), num_run - len(token_ids))
            outcomes[decoding] = [step, *decoding.begin(rows, self.stop_token_ids)]
        return ForwardPass(outcomes)

    def _known(self, decodings: Sequence[Decoding]) -> list[list[int]]:
        """Return the forced tokens of each answer that the next pass runs."""
        if not (self._is_exact and decodings):
            return [[] for _ in decodings]
        # The kernel of attention needs room for the padding of the longest one, too.
        room = self.max_model_len - max(decoding.num_tokens for decoding in decodings) + 1
        return take_ahead(decodings, self._draft_cost, self.chunk_tokens, room)

    def _chunk(self, decoding: Decoding, start: int) -> TokenIds:
        """Return the next chunk of a prompt, with what lies between it and a position before it."""
        end = decoding.num_prefilled + len(decoding.chunk(self.chunk_tokens)[0])
        if start < decoding.num_prefilled:
            decoding.rewind(start)
            self._slots.rewind(decoding.slot, start)
        return decoding.prompt[start:end]

    def _score(self, decoding: Decoding, start: int, token_ids: Sequence[int]) -> ForwardPass:
        """Run tokens of an option behind the prompt, by the branch that would decode them."""
        position = len(decoding.prompt) + start
        # The slot's record stays at the prompt: the next option is written over this one.
        logits = self._graph.forward(
            np.array(token_ids), position, slot=decoding.slot, all_rows=True, is_prefill=False
        )
        decoding.score(logits)
        return ForwardPass({decoding: []})

    def _decode(
        self, decodings: Sequence[Decoding], following: Sequence[Sequence[int]]
    ) -> ForwardPass:
        """Run the last token of each answer with the known ones that follow it."""
        pairs = zip(decodings, following, strict=True)
        inputs = [replace(decoding.next_input, following=known) for decoding, known in pairs]
        logits = self._graph.decode(inputs)
        outcomes, num_pairs = {}, 0
        for one, row, decoding in zip(inputs, logits, decodings, strict=True):
            outcomes[decoding], num_kept = self._chosen(decoding, one.following, [row])
            self._slots.extend(one.slot, (one.token_id, *one.following)[:num_kept])
            num_pairs += (1 + len(one.following)) * one.position
        num_rows = len(inputs) * max(1 + len(known) for known in following)
        return ForwardPass(outcomes, num_rows, num_pairs)

    def _run_draft(self, decoding: Decoding, draft: Sequence[int]) -> ForwardPass:
        """Run an answer's last token and a draft of the next ones; keep what is accepted."""
        last = decoding.next_input
        ids = np.array([last.token_id, *draft])
        logits = self._graph.forward(
            ids, last.position, slot=last.slot, all_rows=True, is_prefill=False
        )
        steps, num_kept = self._chosen(decoding, draft, [*logits])
        self._slots.extend(last.slot, ids[:num_kept])
        if decoding.drafter is not None:
            decoding.drafter.learn(len(draft), num_kept - 1)
        return ForwardPass({decoding: steps}, len(ids), len(ids) * last.position)

    def _chosen(
        self, decoding: Decoding, expected: Sequence[int], logits: Sequence[NDArray[np.float32]]
    ) -> tuple[list[Step], int]:
        """Choose tokens while they are the ``expected`` ones, which were run, and one more.

        There are logits for each token that was run, or of the last one where others are forced.
        Returns the tokens, and how many that were run stay in the cache.
        """
        steps: list[Step] = []
        for index, token_id in enumerate([*expected, None]):
            steps += decoding.choose(logits[min(index, len(logits) - 1)], self.stop_token_ids)
            chosen = steps[-1]
            if decoding.is_over or not isinstance(chosen, Token) or chosen.token_id != token_id:
                break
        return steps, index + 1
