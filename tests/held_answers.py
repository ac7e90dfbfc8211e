"""Hold answers to random schemas against what replies promise, alone and in company.

    python -m tests.held_answers --count 2000                                  the tests' tiny model
    python -m tests.held_answers --count 2000 models/smollm2-135m-instruct     a bundle
    python -m tests.held_answers --break-out models/smollm2-135m-instruct      prompts against it

Each answer is whole, or cut by a limit, a stop string, its deadline or a cancel. A whole one is a
JSON document that obeys its schema, and the reply has it parsed; else the reply has null. An answer
has the same tokens beside 1, 3 and 7 others, half of which are free text.
"""

import argparse
import json
import queue
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from edged.bundle.folder import open_bundle
from edged.daemon.worker import Worker
from edged.engine.grammar import compile_format
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings
from edged.engine.tokenizer import Tokenizer
from edged.node.events import Probed
from edged.node.generation import Finished, Fragment, Generation, Paused
from edged.protocol.request import (
    Answer,
    ChatMessage,
    FinishReason,
    FormatType,
    OutputFormat,
    Rejected,
    ReplyAddress,
    Request,
    SamplingParams,
)
from tests.breakouts import BREAKOUTS
from tests.schemas import problems
from tests.tiny_model import write_tiny_bundle

Schema = dict[str, Any]
WIDTHS = (2, 4, 8)
_LIMIT_S = 300.0
_ENOUGH = 160
_LATER_S = 1e9
# Texts that a careless encoding, tokenizer or parser would take for something else.
_TEXTS = (
    *("kitchen", "living room", "turn_on", "", " ", "0", "the heating is off", "°C", "häuslich"),
    *('say "no"', "back\\slash", "line\nbreak", "\t", "}", '"}', '{"a":1}', "```json", "\u2028"),
    *("<|im_end|>", "<|im_start|>", "<|endoftext|>", "😀", "\u202e", "\x7f", "a" * 40, "null"),
)
_PATTERNS = ("^[a-z]{1,8}$", "^(on|off)$", "^[0-9]{2}:[0-9]{2}$", "^a*b$", "^item-[0-9]+$")
_WORDS = ("turn", "the", "heater", "on", "for", "half", "an", "hour", "at", "21", "degrees", "why")


def random_schema(rng: random.Random, depth: int = 2) -> Schema:
    """Return a schema as clients send them, with more that is fixed, and stranger texts."""
    low = rng.randrange(-50, 50)
    simple: list[Schema] = [
        {"enum": rng.sample(_TEXTS, rng.randrange(1, 6))},
        {"const": rng.choice(_TEXTS)},
        {"enum": rng.sample([1, 2.5, None, True, "on", [1, "x"], {"k": "v"}], 3)},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": low, "maximum": low + rng.randrange(200)},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": rng.choice(["integer", "number"])},
        {"type": "string", "maxLength": rng.randrange(12)},
        {"type": "string", "pattern": rng.choice(_PATTERNS), "maxLength": 14},
        {"type": "string", "format": rng.choice(["date", "time", "uuid", "ipv4"])},
    ]
    if depth == 0 or rng.random() < 0.4 * (2 - depth):
        return rng.choice(simple)
    return _compound(rng, depth)


def _compound(rng: random.Random, depth: int) -> Schema:
    kind = rng.randrange(6)
    if kind == 0:
        bounds = {"minItems": rng.randrange(3), "maxItems": rng.randrange(3, 5)}
        return {"type": "array", "items": random_schema(rng, depth - 1), **bounds}
    if kind == 1:
        return {"anyOf": [random_schema(rng, depth - 1) for _ in range(rng.randrange(1, 4))]}
    names = rng.sample(_TEXTS, rng.randrange(1, 6))
    members = {name: random_schema(rng, depth - 1) for name in names}
    required = [name for name in names if rng.random() < 0.8]
    whole = {"type": "object", "properties": members, "required": required}
    return {**whole, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Case:
    """One request, and what cuts its answer."""

    prompt_ids: Sequence[int]
    request: Request
    max_tokens: int = _ENOUGH
    is_cancelled: bool = False
    """After its first fragment."""

    @property
    def is_timed(self) -> bool:
        """Whether its end depends on when its passes are."""
        return self.is_cancelled or self.request.deadline_s < _LATER_S


class Outcome(NamedTuple):
    """What a request got."""

    said: Answer | Rejected
    token_ids: Sequence[int]
    num_tokens: int
    """As in ``usage``."""
    sent: str
    """The text of all fragments."""


@dataclass
class Ticks:
    """A clock that goes on by a second whenever it is read."""

    now_s: float = field(default=0.0)

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def cases(tokenizer: Tokenizer, seed: int, count: int) -> Iterator[Case]:
    """Yield requests with random schemas; the same for the same seed."""
    rng = random.Random(seed)
    for number in range(count):
        prompt = " ".join(rng.choices(_WORDS, k=rng.randrange(1, 12)))
        case = held(
            tokenizer, prompt, random_schema(rng), seed=number if rng.random() < 0.5 else None
        )
        yield rng.choice([case, case, _cut(rng, case)])


def held(tokenizer: Tokenizer, prompt: str, schema: Schema | None, seed: int | None = None) -> Case:
    """Return a request for JSON, or without a schema for text; with a seed it is sampled."""
    kind = FormatType.TEXT if schema is None else FormatType.JSON_SCHEMA
    request = Request(
        ReplyAddress("t", "a"),
        (ChatMessage("user", prompt),),
        received_s=0.0,
        deadline_s=_LATER_S,
        is_stream=True,
        format=OutputFormat(kind, schema=schema),
        sampling=SamplingParams(temperature=0.0 if seed is None else 1.3, seed=seed),
    )
    return Case(tokenizer.encode_chat(request.messages), request)


def _cut(rng: random.Random, case: Case) -> Case:
    stop = rng.choice(['"', "}", ",", ":", "in", "a", "\\"])
    return rng.choice(
        [
            replace(case, max_tokens=rng.randrange(1, 30)),
            replace(case, request=replace(case.request, stop=(stop,))),
            replace(case, request=replace(case.request, deadline_s=rng.randrange(1, 60))),
            replace(case, is_cancelled=True),
        ]
    )


def ask(engine: Engine, tokenizer: Tokenizer, asked: Sequence[Case]) -> list[Outcome]:
    """Answer requests together, as the daemon does; blocks."""
    ended: queue.SimpleQueue[Finished] = queue.SimpleQueue()
    sent = [""] * len(asked)

    def emit(event: Fragment | Finished | Paused | Probed) -> None:
        if isinstance(event, Finished):
            ended.put(event)
        elif isinstance(event, Fragment):
            sent[event.key] += event.delta
            if asked[event.key].is_cancelled:
                worker.cancel(event.key)

    worker = Worker(engine, tokenizer.detokenizer, emit, Ticks())
    for key, case in enumerate(asked):
        constraint = compile_format(tokenizer, case.request.format)
        worker.start(Generation(key, case.prompt_ids, case.request, case.max_tokens, constraint))
    worker.start_thread()
    found = [ended.get(timeout=_LIMIT_S) for _ in asked]
    worker.stop(_LIMIT_S)
    found.sort(key=lambda event: event.generation.key)
    return [
        Outcome(
            event.outcome,
            event.generation.output_ids,
            event.usage.completion_tokens,
            sent[event.generation.key],
        )
        for event in found
    ]


def faults(tokenizer: Tokenizer, case: Case, outcome: Outcome) -> Iterator[str]:
    """Yield what a reply promises and this one does not keep."""
    said, stop = outcome.said, case.request.stop
    if outcome.num_tokens != len(outcome.token_ids) or outcome.num_tokens > case.max_tokens:
        yield f"{outcome.num_tokens} tokens are counted of {len(outcome.token_ids)}"
    if isinstance(said, Rejected):
        return
    stream = tokenizer.detokenizer()
    text = "".join(map(stream.push, outcome.token_ids)) + stream.flush()
    if outcome.sent != said.text:
        yield f"the fragments say {outcome.sent!r}"
    if said.text != (text.partition(stop[0])[0] if stop else text):
        yield f"the tokens say {text!r}"
    is_whole = said.finish_reason is FinishReason.STOP and not (stop and stop[0] in text)
    if not is_whole:
        if said.json is not None:
            yield "it was cut and has JSON"
        return
    parsed = json.loads(said.text)
    # No reply has a number out of the range of a double.
    if said.json != (None if "Infinity" in json.dumps(parsed) else parsed):
        yield "its JSON is not its text"
    schema = case.request.format.schema
    assert isinstance(schema, dict)
    yield from problems(parsed, schema)


def differs(case: Case, alone: Outcome, beside: Outcome) -> bool:
    """Return whether an answer has other tokens beside others."""
    first, second = alone.token_ids, beside.token_ids
    both = min(len(first), len(second)) if case.is_timed else max(len(first), len(second))
    return list(first[:both]) != list(second[:both])


def check(
    engine: Engine, tokenizer: Tokenizer, asked: Sequence[Case], widths: Sequence[int] = WIDTHS
) -> tuple[list[str], Counter[str]]:
    """Return what is wrong with the answers, and how many ended for which reason."""
    alone = [ask(engine, tokenizer, [case])[0] for case in asked]
    wrong = [it for pair in zip(asked, alone, strict=True) for it in _wrong(tokenizer, *pair)]
    plain = held(tokenizer, "Tell me about the heater.", None)
    for width in widths:
        others = [replace(plain, max_tokens=40 + 20 * n) for n in range(width // 2)]
        for first in range(0, len(asked), len(others)):
            group = asked[first : first + len(others)]
            found = ask(engine, tokenizer, [*group, *others])
            for case, expected, outcome in zip(group, alone[first:], found, strict=False):
                wrong += _wrong(tokenizer, case, outcome)
                if differs(case, expected, outcome):
                    wrong.append(_named(case, outcome, f"other tokens among {width}"))
    return wrong, Counter(_reason(outcome.said) for outcome in alone)


def _reason(said: Answer | Rejected) -> str:
    return str(said.finish_reason if isinstance(said, Answer) else said.code)


def _wrong(tokenizer: Tokenizer, case: Case, outcome: Outcome) -> list[str]:
    return [_named(case, outcome, fault) for fault in faults(tokenizer, case, outcome)]


def _named(case: Case, outcome: Outcome, fault: str) -> str:
    schema = json.dumps(case.request.format.schema, ensure_ascii=False)
    return f"{fault}\n    said: {outcome.said}\n    schema: {schema}"


def break_outs(tokenizer: Tokenizer) -> Iterator[Case]:
    """Yield each prompt with a schema that leaves little free, and with one of a free text."""
    rooms = {"enum": ["kitchen", "living room", "bedroom"]}
    action = {"room": rooms, "is_on": {"type": "boolean"}, "level": {"type": "integer"}}
    for prompt in BREAKOUTS:
        for members in (action, {"note": {"type": "string", "maxLength": 60}, "room": rooms}):
            whole = {"type": "object", "properties": members, "required": list(members)}
            yield held(tokenizer, prompt, {**whole, "additionalProperties": False})


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--break-out", action="store_true")
    parser.add_argument("--beside", type=int, nargs="*", default=WIDTHS, help="answers at a time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(given.bundle or write_tiny_bundle(Path(folder)))
        tokenizer = Tokenizer.load(bundle)
        engine = load_engine(bundle, EngineSettings(1024, num_slots=max(WIDTHS)))
        chosen = cases(tokenizer, given.seed, given.count)
        asked = list(break_outs(tokenizer) if given.break_out else chosen)
        wrong, counts = check(engine, tokenizer, asked, given.beside)
    print(*wrong[:20], sep="\n")
    print(f"{len(asked)} answers, {dict(counts)}; wrong: {len(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
