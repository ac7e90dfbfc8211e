"""Memory and latency budgets: may this request be started, and for how many tokens?

Rule: time, memory readings and speed are arguments. Every refusal says what would have fitted.
"""

import math
from dataclasses import dataclass, replace

from edged.errors import ErrorCode
from edged.request import OnDeadline, Rejected, Request

MARGIN = 1.1
"""Predicted times are stretched by this: attention gets slower as the context fills, and a device
gets slower as it gets warm."""
MEMORY_RETRY_S = 5.0
"""When to come back after ``memory_pressure``: long enough for a neighbour's peak to pass."""

_MIN_TOK_S, _MAX_TOK_S = 1e-3, 1e7
_MIN_PREFILL_TOKENS = 16
"""Fewer tokens time the overhead of a run, not the speed of prefill."""
_MIN_DECODE_TOKENS = 4
_WEIGHT = 0.2
_MAX_STEP = 2.0
_MIN_RETRY_S = 0.1
_MIN_MODEL_LEN = 128
"""A smaller context is no advice: the template and a question hardly fit."""
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast this device runs this model; all values are positive and finite."""

    prefill_tok_s: float
    decode_tok_s: float
    overhead_s: float
    """From admission to prefill and from the last token to the reply."""

    def __post_init__(self) -> None:
        rates = (self.prefill_tok_s, self.decode_tok_s)
        is_sane = all(_MIN_TOK_S <= rate <= _MAX_TOK_S for rate in rates)
        if not is_sane or not 0 <= self.overhead_s < math.inf:
            raise ValueError(f"not a speed: {self}")

    def first_token_s(self, num_prompt_tokens: int) -> float:
        """Predict the time from a start to the first token."""
        return self.overhead_s + num_prompt_tokens / self.prefill_tok_s

    def service_s(self, num_prompt_tokens: int, num_output_tokens: int) -> float:
        """Predict the time from a start to the end of an answer."""
        return self.first_token_s(num_prompt_tokens) + num_output_tokens / self.decode_tok_s

    def observe_prefill(self, num_tokens: int, seconds: float) -> "Speed":
        """Take in one measured prefill.

        Args:
            num_tokens: prompt tokens computed; not those reused from a cache.
            seconds: from the start to the first token.
        """
        if num_tokens < _MIN_PREFILL_TOKENS:
            return self
        rate = _moved(self.prefill_tok_s, num_tokens, seconds - self.overhead_s)
        return replace(self, prefill_tok_s=rate)

    def observe_decode(self, num_tokens: int, seconds: float) -> "Speed":
        """Take in one measured stretch of decode, of the tokens after the first one."""
        if num_tokens < _MIN_DECODE_TOKENS:
            return self
        return replace(self, decode_tok_s=_moved(self.decode_tok_s, num_tokens, seconds))


def _moved(rate: float, num_tokens: int, seconds: float) -> float:
    """Move a rate towards an observation, as a weighted geometric mean.

    One observation counts as at most twice or half the present rate, so a single stall or a bad
    clock moves it by at most 15 %, while ten equal ones carry it nearly all the way.
    """
    if not 0 < seconds < math.inf:
        return rate
    step = min(max(num_tokens / seconds / rate, 1 / _MAX_STEP), _MAX_STEP)
    return min(max(rate * math.pow(step, _WEIGHT), _MIN_TOK_S), _MAX_TOK_S)


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """One reading of memory."""

    rss_bytes: int
    """Resident memory of this process."""
    available_bytes: int
    """What the device can still give without swapping."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What this process may take of the device."""

    limit_bytes: int
    """Resident memory in all."""
    min_available_bytes: int = 0
    """Floor of the device's available memory."""

    def missing_bytes(self, memory: MemorySnapshot, needed_bytes: int) -> int:
        """Tell by how much ``needed_bytes`` more would break the budget; 0 when they fit."""
        over_limit = memory.rss_bytes + needed_bytes - self.limit_bytes
        under_floor = self.min_available_bytes + needed_bytes - memory.available_bytes
        return max(0, over_limit, under_floor)


@dataclass(frozen=True, slots=True)
class Resources:
    """What the device has for a request right now."""

    max_model_len: int
    speed: Speed
    memory: MemorySnapshot
    budget: MemoryBudget


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that fits its budgets."""

    request: Request
    num_prompt_tokens: int
    max_tokens: int
    """The request's own, or fewer: cut to the context, or shortened to meet the deadline."""
    predicted_s: float
    """From now to the end of the answer, at most."""


def admit(
    request: Request,
    num_prompt_tokens: int,
    resources: Resources,
    *,
    backlog_s: float,
    now_s: float,
    needed_bytes: int = 0,
) -> Admitted | Rejected:
    """Decide whether a request can be answered inside its budgets.

    Args:
        request: the request; its deadline and ``now_s`` are of one clock.
        num_prompt_tokens: length of the prompt with its template, in tokens.
        resources: what there is.
        backlog_s: predicted time until the engine is free for this request.
        now_s: the time.
        needed_bytes: memory the request needs beyond what is resident; the KV cache and the
            working memory are reserved at start, so this is the grammar's tables and little else.
    """
    context = resources.max_model_len
    if num_prompt_tokens >= context:
        return Rejected(
            ErrorCode.PROMPT_TOO_LONG,
            f"the prompt has {num_prompt_tokens} tokens; model.max_model_len is {context}, of which"
            " the answer needs at least 1",
            detail={"prompt_tokens": num_prompt_tokens, "max_model_len": context},
        )
    missing_bytes = resources.budget.missing_bytes(resources.memory, needed_bytes)
    if missing_bytes:
        return Rejected(
            ErrorCode.MEMORY_PRESSURE,
            f"{_mib(missing_bytes)} of memory are missing; see budget.memory and"
            " budget.min_available",
            retry_after_s=MEMORY_RETRY_S,
            detail={"missing_bytes": missing_bytes},
        )
    max_tokens = min(request.max_tokens, context - num_prompt_tokens)
    wish = Admitted(request, num_prompt_tokens, max_tokens, predicted_s=0.0)
    return _meet_deadline(wish, resources.speed, backlog_s, now_s)


def _meet_deadline(
    wish: Admitted, speed: Speed, backlog_s: float, now_s: float
) -> Admitted | Rejected:
    def predicted_s(max_tokens: int) -> float:
        return MARGIN * (backlog_s + speed.service_s(wish.num_prompt_tokens, max_tokens))

    request, left_s = wish.request, wish.request.deadline_s - now_s
    full_s = predicted_s(wish.max_tokens)
    if full_s <= left_s:
        return replace(wish, predicted_s=full_s)
    fitting = math.floor((left_s - predicted_s(0)) / MARGIN * speed.decode_tok_s)
    fitting = min(max(fitting, 0), wish.max_tokens - 1)
    if fitting and request.on_deadline is OnDeadline.SHORTEN:
        return replace(wish, max_tokens=fitting, predicted_s=predicted_s(fitting))
    alone_s = full_s - MARGIN * backlog_s
    helps = backlog_s > 0 and alone_s <= request.deadline_s - request.received_s
    return Rejected(
        ErrorCode.TIMEOUT,
        f"{wish.max_tokens} tokens are predicted to take {full_s:.1f} s, {max(left_s, 0):.1f} s are"
        " left; ask for fewer tokens or more time, or allow on_deadline: shorten",
        retry_after_s=max(backlog_s, _MIN_RETRY_S) if helps else None,
        detail={"predicted_ms": round(full_s * 1000), "max_tokens": fitting},
    )


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What the whole process will hold, reserved before the model is loaded."""

    weights_bytes: int
    kv_bytes: int
    process_bytes: int
    """The interpreter and its libraries: resident before anything is loaded."""
    working_bytes: int
    """Activations, logits, the tokenizer, the grammar."""

    @property
    def total_bytes(self) -> int:
        """Everything together."""
        return self.weights_bytes + self.kv_bytes + self.process_bytes + self.working_bytes


def check_plan(
    plan: MemoryPlan, budget: MemoryBudget, available_bytes: int, max_model_len: int
) -> str | None:
    """Say what does not fit and which key to change; None when all fits.

    Args:
        plan: what would be held; ``process_bytes`` of it is held already.
        budget: what may be held.
        available_bytes: what the device can give now.
        max_model_len: the context that ``plan.kv_bytes`` is for.
    """
    held = MemorySnapshot(plan.process_bytes, available_bytes)
    missing_bytes = budget.missing_bytes(held, plan.total_bytes - plan.process_bytes)
    if not missing_bytes:
        return None
    key, advice = _key_to_change(plan, budget, missing_bytes)
    fitting = max_model_len * max(plan.kv_bytes - missing_bytes, 0) // max(plan.kv_bytes, 1)
    smaller = f"set model.max_model_len to {fitting} or less"
    advice += f", or {smaller if fitting >= _MIN_MODEL_LEN else 'use a smaller model'}"
    return (
        f"{key}: {_mib(missing_bytes)} short of {_mib(plan.total_bytes)} (weights"
        f" {_mib(plan.weights_bytes)}, KV cache {_mib(plan.kv_bytes)}, working memory"
        f" {_mib(plan.working_bytes)}, process {_mib(plan.process_bytes)}); {advice}"
    )


def _key_to_change(plan: MemoryPlan, budget: MemoryBudget, missing_bytes: int) -> tuple[str, str]:
    if plan.total_bytes - budget.limit_bytes == missing_bytes:
        return "budget.memory", f"raise it to {math.ceil(plan.total_bytes / _MIB)}M"
    floor = (budget.min_available_bytes - missing_bytes) // _MIB
    return "budget.min_available", "free memory" + f", or lower it to {floor}M" * (floor >= 0)


def _mib(size_bytes: int) -> str:
    return f"{math.ceil(size_bytes / _MIB)} MiB"
