"""Generated messages: random schemas, and valid requests with random damage."""

import json
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from tests.system.hostile.attacks import ATTACKS, BAD, HONEST, OK, Message
from tests.system.hostile.schemas import schemas
from tests.system.hostile.wire import content_type

ANY = OK | BAD | {"payload_too_large", "unsupported_content_type", "prompt_too_long"}
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, 2**31, 2**64, -(2**64), 1e308),
    *("", " ", "x", "x" * 300, "\x85", "\ud800", "\ufeff", "\ufdd0"),
    *([], {}, [[]], [None], {"": None}, ["x"] * 70, {"type": "choice"}),
)
KEYS = (
    *("id", "transaction", "prompt", "messages", "system", "temperature", "top_k", "top_p"),
    *("min_p", "repetition_penalty", "seed", "stop", "format", "stream", "priority"),
    *("timeout_ms", "on_deadline", "session", "unknown"),
)
TYPES = ("application/json", "text/plain", "text/plain; charset=utf-8", "image/png", "x", "")
_FORMATS: tuple[dict[str, Any], ...] = (
    {"type": "text"},
    {"type": "choice", "choices": ["yes", "no"]},
    {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"enum": [1, 2]}}}},
)


def generated(seed: int) -> Iterator[Message]:
    """Yield messages without end; the same seed gives the same messages."""
    chance = random.Random(seed)
    drawn: Iterator[dict[str, Any]] = iter(())
    while True:
        schema = next(drawn, None)
        if schema is None:
            drawn = schemas(chance.randrange(2**32), 100)
            schema = next(drawn)
        members = HONEST | {"format": {"type": "json_schema", "schema": schema}}
        yield Message(members, ANY)
        yield Message(_damaged(chance), ANY)
        yield Message(_odd(chance), ANY, is_silence_allowed=True)
        kind = content_type(chance.choice(TYPES))
        yield Message(_damaged(chance), ANY, properties=(kind,))


def _odd(chance: random.Random) -> dict[str, Any]:
    """Return a request with some values replaced."""
    changed = {key: chance.choice(ODD) for key in chance.sample(KEYS, chance.randint(1, 3))}
    return HONEST | changed


def _damaged(chance: random.Random) -> bytes:
    """Return a request with some bytes changed, removed or duplicated."""
    members = HONEST | {"format": chance.choice(_FORMATS), "temperature": 0.5}
    data = bytearray(json.dumps(members).encode())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        size = chance.choice((1, 1, 1, 2, 8, 30))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size] * chance.choice((1, 2, 50))
            case _:
                data[at:at] = chance.randbytes(size)
    return bytes(data[:16_000]) or b"{"


def hostile(seed: int) -> Iterator[Message]:
    """Yield messages of each row of the table in turn, with a generated one after each."""
    rows: dict[str, list[Message]] = {}
    for attack in ATTACKS:
        rows.setdefault(attack.row, []).extend(attack.messages)
    chance = random.Random(seed)
    drawn = generated(seed)
    # Each row starts at a different place, so that a short run does not see its beginning only.
    places = {row: chance.randrange(len(messages)) for row, messages in rows.items()}
    while True:
        for row, messages in rows.items():
            yield messages[places[row] % len(messages)]
            places[row] += 1
            yield from islice(drawn, 1)
