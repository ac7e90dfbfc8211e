"""One answer while it is generated: its tokens, its text, its stream fragments, why it ended.

A ``Generation`` is what the node hands to the inference thread, and gets back when the answer has
ended or made room for another. Rule: no clock and no engine; steps and times come in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from edged.engine.steps import Prefilled, Token
from edged.engine.stopping import StopMatcher
from edged.errors import ErrorCode
from edged.protocol.answer_json import read_answer
from edged.protocol.request import (
    Answer,
    Energy,
    FinishReason,
    FormatType,
    Rejected,
    Request,
    SamplingParams,
    Timing,
    Usage,
)
from edged.scheduling.latency_model import RequestTimings
from edged.specialists.decider import Answers, Decider, Read, Reader, Run

if TYPE_CHECKING:
    from edged.engine.decoding import Constraint, Decoding
    from edged.specialists.adapter import Adapter

# Longest time between fragments while tokens are generated.
FRAGMENT_INTERVAL_S = 0.1
# A fragment with so many tokens is sent earlier.
FRAGMENT_TOKENS = 8


class TextStream(Protocol):
    """The part of ``Detokenizer`` that the worker uses."""

    def push(self, token_id: int) -> str:
        """Return the text that became complete with this token."""

    def flush(self) -> str:
        """Return the rest at the end."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """The text that became final since the previous fragment."""

    key: int
    number: int
    """0 for the first fragment of a request."""
    delta: str
    is_done: bool = False
    """Whether it is the last of its request; it may be empty then."""


@dataclass(slots=True, eq=False)
class Generation:
    """One answer; over when ``finish_reason`` is set or the engine has no more steps for it."""

    key: int
    prompt_ids: Sequence[int]
    request: Request
    max_tokens: int
    constraint: "Constraint | None" = None
    """Holds the answer to its format."""
    decider: Decider | None = None
    """Where specialists answer: it says which run follows, and what the answer is."""
    may_go_on: bool = True
    """Whether it may take all runs that the decider offers."""
    answers: Answers | None = None
    """Of the specialist that writes in the run in hand."""
    reader: Reader | None = None
    """Of the run in hand, while that is read and no answer is written."""
    decision: Answer | None = None
    """What the decider said; with further runs to come, what stands if they give nothing."""
    text_stream: TextStream = field(init=False)
    """Its detokenizer, from its start on."""
    decoding: "Decoding | None" = None
    """Its place in the engine, while it has one."""
    started_s: float = 0.0
    finish_reason: FinishReason | None = None
    first_token_s: float | None = None
    output_ids: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    num_foreign: int = 0
    """Of these, what only others have asked before: a reply must not tell of it."""
    log_probability: float = 0.0
    """Of the answer so far, where a specialist writes it."""
    text: str = ""
    was_paused: bool = False
    energy: Energy | None = None
    """Used so far; None where it is not known."""
    num_prefilled: int = 0
    """Prompt tokens in the cache."""
    spent: RequestTimings = field(default_factory=RequestTimings)
    """The forward passes that it was part of."""
    _readers: list[Read] = field(default_factory=list)
    _num_written: int = 0
    """Tokens that runs before the one in hand wrote."""
    _num_read: int = 0
    """Prompt tokens of the runs before the one in hand."""
    _run: Run | None = None
    _sent: int = 0
    _num_fragments: int = 0
    _tokens_since: int = 0
    _sent_s: float = 0.0
    _last_step_s: float = 0.0
    _next_share: float = 0.0
    """How long the next chunk of the prompt is, as a share of the one that was read; after the last
    one 0: a token takes less by far, how much is not known yet."""
    _matcher: StopMatcher = field(init=False)

    def __post_init__(self) -> None:
        # A specialist has a form of its own, which they would cut off.
        self._matcher = StopMatcher(self.request.stop if self.answers is None else ())

    @property
    def adapter(self) -> "Adapter | None":
        """What is added to the model for the run in hand."""
        return None if self.answers is None else self.answers.adapter

    @property
    def sampling(self) -> SamplingParams:
        """How its tokens are chosen; those of a specialist are always the most probable ones."""
        return self.request.sampling if self.answers is None else SamplingParams()

    @property
    def num_prompt_tokens(self) -> int:
        """Prompt tokens of all runs so far."""
        return self._num_read + len(self.prompt_ids)

    @property
    def has_one_run(self) -> bool:
        """Whether it took one run of the model."""
        return len(self._readers) + bool(self.prompt_ids) <= 1

    @property
    def num_output_tokens(self) -> int:
        """Tokens that the run in hand has written."""
        return len(self.output_ids)

    @property
    def num_completion_tokens(self) -> int:
        """Tokens that all runs have written."""
        return self._num_written + len(self.output_ids)

    @property
    def limit(self) -> int:
        """Most tokens that the run in hand may write."""
        most = None if self._is_last_run or self._run is None else self._run.max_tokens
        return self.max_tokens if most is None else most

    @property
    def num_counted(self) -> int:
        """Tokens of those that it was admitted with; what may be passed on counts as a prompt."""
        return len(self.output_ids) if self._is_last_run else 0

    @property
    def _is_last_run(self) -> bool:
        if self.decider is None:
            return True
        runs = self.decider.runs
        most = len(runs) if self.may_go_on else self.decider.num_needed
        return len(self._readers) + 1 >= most

    @property
    def is_complete(self) -> bool:
        """Whether the answer is all that its format asks for, and nothing may follow."""
        return self.constraint is not None and self.constraint.is_complete

    @property
    def is_pausable(self) -> bool:
        """Whether it could be continued later."""
        is_over = self.finish_reason is not None or self.is_complete
        has_more = self.reader is not None or self.num_output_tokens < self.limit
        return not is_over and has_more

    def start(self, text_stream: TextStream, now_s: float) -> None:
        """Note that it starts, or goes on after a pause."""
        if not self.was_paused:
            self.text_stream, self.started_s = text_stream, now_s
            if self.decider is not None:
                self._proceed(self.decider)
        elif self._run is not None and self._run.new_reader is not None:
            self.reader = self._run.new_reader()
        # The time of a pause is no step.
        self._last_step_s, self.num_prefilled = now_s, self._num_read

    def end_run(self, now_s: float) -> bool:
        """Take what a run gave; return whether another run follows."""
        if self.decider is None:
            return False
        was_read = self.reader is not None
        if self.reader is not None:
            self._readers.append(self.reader)
        elif self.output_ids:
            self._readers.append(self._written(self.finish_reason or FinishReason.LENGTH))
        else:
            return False
        self._num_read += len(self.prompt_ids)
        self._num_written += len(self.output_ids)
        self.prompt_ids, self.output_ids, self.reader = (), [], None
        self._last_step_s = now_s
        if self._proceed(self.decider):
            return True
        if was_read:
            self.first_token_s = now_s
        return False

    def _proceed(self, decider: Decider) -> bool:
        """Begin the next run, if there is one; else the decision is the answer."""
        step = decider.proceed(self._readers, may_go_on=self.may_go_on)
        if isinstance(step, Answer):
            self.decision, self.finish_reason = step, step.finish_reason
            return False
        if len(self._readers) >= decider.num_needed:
            fallback = decider.proceed(self._readers, may_go_on=False)
            self.decision = fallback if isinstance(fallback, Answer) else None
        self._run, self.prompt_ids, self.answers = step, step.prompt_ids, step.answers
        self.constraint = step.constraint
        self.reader = None if step.new_reader is None else step.new_reader()
        self._matcher = StopMatcher(self.request.stop if self.answers is None else ())
        self.text, self.log_probability = "", 0.0
        self.finish_reason, self.first_token_s = None, None
        return True

    def record(self, step: Prefilled | Token) -> None:
        """Add one step of the engine, unless the answer is over."""
        if isinstance(step, Prefilled):
            num_known = self.num_prefilled - self._num_read or step.cached_tokens
            num_left = len(self.prompt_ids) - step.num_tokens
            self._next_share = min(num_left / max(step.num_tokens - num_known, 1), 1.0)
            # After a pause, what is reused is its own, computed before.
            if not self.was_paused and self.num_prefilled == self._num_read:
                self.cached_tokens += step.cached_tokens
                self.num_foreign += step.num_foreign
            self.num_prefilled = self._num_read + step.num_tokens
            return
        if self.finish_reason is not None:
            return
        self.output_ids.append(step.token_id)
        self.log_probability += step.log_probability
        self._tokens_since += 1
        if not step.is_stop:
            self.text += self._matcher.push(self.text_stream.push(step.token_id))
        if step.is_stop or self._matcher.is_stopped:
            self.finish_reason = FinishReason.STOP

    def end_step(self, now_s: float) -> None:
        """Record when a forward pass ended, and end the answer if there is no time for another."""
        step_s, self._last_step_s = now_s - self._last_step_s, now_s
        if self.first_token_s is None and self.reader is None:
            step_s *= self._next_share
            if self.output_ids:
                self.first_token_s = now_s
        # Not in record: of several tokens of one pass, only the last completes the format.
        if self.finish_reason is None and self.is_complete:
            self.finish_reason = FinishReason.STOP
        # The next step is expected to take as long as this one: stop before it would be late.
        if self.finish_reason is None and now_s + step_s >= self.request.deadline_s:
            self.finish_reason = FinishReason.DEADLINE

    def is_fragment_due(self, now_s: float) -> bool:
        """Return whether a fragment is due: the first at once, later ones coalesced."""
        return len(self.text) > self._sent and (
            self._num_fragments == 0
            or self._tokens_since >= FRAGMENT_TOKENS
            or now_s - self._sent_s >= FRAGMENT_INTERVAL_S
        )

    def take_fragment(self, now_s: float, *, is_done: bool = False) -> Fragment:
        """Return the text since the fragment before; the last one follows after ``end``."""
        delta = self.text[self._sent :]
        fragment = Fragment(self.key, self._num_fragments, delta, is_done)
        self._sent, self._sent_s, self._tokens_since = len(self.text), now_s, 0
        self._num_fragments += 1
        return fragment

    def end(self, reason: FinishReason | None = None) -> Answer | Rejected:
        """End the answer; a reason of its own precedes this one.

        Returns:
            The answer, or the refusal of a request that ended before its first token.
        """
        self.finish_reason = self.finish_reason or reason or FinishReason.LENGTH
        return self._outcome(self.finish_reason)

    def _outcome(self, reason: FinishReason) -> Answer | Rejected:
        decided = self.decision
        if decided is not None and reason is not FinishReason.CANCELLED and not self.output_ids:
            return decided
        if self.num_output_tokens == 0:
            if reason is FinishReason.CANCELLED:
                return Rejected(ErrorCode.CANCELLED, "cancelled before the first token")
            return Rejected(
                ErrorCode.TIMEOUT, "the deadline passed before the first token; allow more time"
            )
        written = self._written(reason)
        if self.decider is None:
            return written
        answer = self.decider.proceed([*self._readers, written], may_go_on=False)
        return answer if isinstance(answer, Answer) else written

    def _written(self, reason: FinishReason) -> Answer:
        """Return the answer that the text is, which ended for this reason."""
        # Text was held back for incomplete characters and stop strings.
        if not self._matcher.is_stopped:
            self.text += self._matcher.push(self.text_stream.flush())
            self.text += self._matcher.flush()
        if self.answers is not None:
            return self.answers.answer(self.text, self.log_probability, reason)
        # Text before a stop string may look complete by chance: "on" of "on fire", 1 of 12.
        is_whole = reason is FinishReason.STOP and not self._matcher.is_stopped
        kind = self.request.format.type
        if kind is FormatType.CHOICE:
            index = self._option() if is_whole and self.is_complete else None
            text = "" if index is None else self.text
            return Answer(text, reason, is_choice=True, choice=index)
        is_parsed = is_whole and kind is FormatType.JSON_SCHEMA
        return Answer(self.text, reason, self._parsed() if is_parsed else None)

    def _option(self) -> int | None:
        """Return the index of the option that the text is."""
        choices = self.request.format.choices
        for words in (self.text, f" {self.text}"):  # some tokenizers drop a first space
            if words in choices:
                return choices.index(words)
        return None

    def _parsed(self) -> object:
        try:
            return read_answer(self.text)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class Finished:
    """A generation has ended; exactly one for each that was started."""

    generation: Generation
    outcome: Answer | Rejected
    finished_s: float
    """On the clock of the request's deadline."""

    @property
    def usage(self) -> Usage:
        """Tokens of prompt and answer, and the energy."""
        run = self.generation
        num_cached = run.cached_tokens - run.num_foreign
        return Usage(
            run.num_prompt_tokens, num_cached, run.num_completion_tokens, energy=run.energy
        )

    def timing(self, received_s: float) -> Timing:
        """Split the time since ``received_s``; without a token, all of the run is prefill."""
        started_s, first_s = self.generation.started_s, self.generation.first_token_s
        first_s = self.finished_s if first_s is None else first_s
        return Timing(
            queued_s=max(started_s - received_s, 0.0),
            prefill_s=first_s - started_s,
            ttft_s=max(first_s - received_s, 0.0),
            decode_s=self.finished_s - first_s,
            total_s=self.finished_s - received_s,
        )


@dataclass(frozen=True, slots=True)
class Paused:
    """A generation made room for another; it ends when it is resumed, or is ended by the node."""

    generation: Generation
