"""JSON Schemas that are expensive to compile, and honest ones that must be accepted."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

MAX_BYTES = 16_000
"""Of a schema's JSON: what fits into a request of 16 KiB."""
Schema = dict[str, Any]


def multiple(number: float, **more: object) -> Schema:
    return {"type": "integer", "multipleOf": number, **more}


def text(pattern: str, **more: object) -> Schema:
    return {"type": "string", "pattern": pattern, **more}


def record(*members: Schema, **more: object) -> Schema:
    named = {f"p{index}": member for index, member in enumerate(members)}
    return {"type": "object", "properties": named, "additionalProperties": False, **more}


def chain(levels: int, width: int, link: Callable[[list[Schema]], Schema], last: Schema) -> Schema:
    """Return ``levels`` definitions, each with ``width`` references to the one before it."""
    definitions = {"d0": last}
    for level in range(1, levels):
        definitions[f"d{level}"] = link([{"$ref": f"#/$defs/d{level - 1}"} for _ in range(width)])
    return {"$ref": f"#/$defs/d{levels - 1}", "$defs": definitions}


def _beside(refs: list[Schema]) -> Schema:
    return record(*({**ref, "required": ["p0"]} for ref in refs))


def _nested(levels: int, wrap: Callable[[Schema], Schema], inner: Schema) -> Schema:
    for _ in range(levels):
        inner = wrap(inner)
    return inner


def _all_pairs(one: str, other: str, size: int) -> Schema:
    return {"allOf": [{"anyOf": [{key: n} for n in range(1, size + 1)]} for key in (one, other)]}


_SELF: Schema = {"$ref": "#"}

EXPENSIVE: tuple[Schema, ...] = (
    # multipleOf, alone
    multiple(99_999_989),
    multiple(99_991),
    multiple(9_973),
    multiple(86_401, minimum=1, maximum=10**9),
    multiple(2**24),
    multiple(5**9),
    multiple(997 * 10**5),
    multiple(10**8, minimum=0, maximum=123_456_789),
    multiple(10**5, maximum=10**6),
    multiple(10**7, exclusiveMinimum=-123_456_789),
    {"allOf": [multiple(10**8), {"maximum": 2 * 10**8}]},
    {"allOf": [multiple(1_000, minimum=0, maximum=10**8), {"multipleOf": 0.01}]},
    multiple(4_294_967_291),
    multiple(10**30),
    {"type": "number", "multipleOf": 1e-300},
    {"type": "number", "multipleOf": 99.991},
    {"multipleOf": 99_991},
    # multipleOf, together
    {"allOf": [multiple(997), multiple(101)]},
    {"allOf": [multiple(100_000), multiple(100_000)]},
    {"type": "integer", "allOf": [{"multipleOf": 10**8}, {"multipleOf": 0.00000001}]},
    {"multipleOf": 997, "anyOf": [{"allOf": [{"multipleOf": 101}]}, {"multipleOf": 103}]},
    {"multipleOf": 997, "$ref": "#/$defs/a", "$defs": {"a": {"multipleOf": 101}}},
    {"anyOf": [multiple(n) for n in (97, 101, 103, 107, 109)]},
    record(*(multiple(9_973) for _ in range(30))),
    record(*(multiple(997 + index) for index in range(30))),
    {"type": "array", "prefixItems": [multiple(997 + index) for index in range(30)]},
    {"type": "array", "items": multiple(9_973)},
    {"type": "object", "additionalProperties": multiple(9_973)},
    {"type": "object", "patternProperties": {"^a": multiple(9_973)}},
    {"oneOf": [multiple(9_973), {"type": "string"}]},
    {"properties": {"a": {"enum": [1]}, "b": {"items": [{"items": multiple(99_991)}]}}},
    {"if": multiple(99_991), "then": {}},
    {"not": multiple(99_991)},
    {"dependentSchemas": {"a": multiple(99_991)}},
    # bounds, lengths, values
    {"type": "number", "minimum": 1e-300, "maximum": 1e-290},
    record(*({"type": "integer", "minimum": i - 10**18, "maximum": 10**18 - i} for i in range(99))),
    {"const": -(2**63)},
    {"type": "integer", "minimum": -(2**63), "maximum": -1},
    {"allOf": [{"type": "integer", "minimum": -1e19}, {"exclusiveMaximum": 0}]},
    {"enum": [10**20]},
    {"const": [1] * 5_000},
    {"enum": [1.5e300 + index * 1e290 for index in range(400)]},
    {"prefixItems": [{"type": "array", "maxItems": 10**5 + index} for index in range(200)]},
    record(*({"type": "object", "maxProperties": 10**18 + index} for index in range(9))),
    {"enum": [{"a": index, "b": [index]} for index in range(500)]},
    {"enum": [[index] * 10 for index in range(300)]},
    text("^[a-z]+$", enum=[f"value{index}" for index in range(800)]),
    # patterns
    text("^" + "a?" * 3_000 + "a" * 3_000 + "$"),
    text("^" + "a{0,9}" * 1_000 + "$"),
    text("^" + r"\p{L}\p{N}" * 50 + "$"),
    text("()" * 5_000),
    text(r"(?i:[\x{0}-\x{10FFFF}])" * 80),
    text("(?is)" + "." * 80),
    {"allOf": [text(f"a.{{{index}}}b") for index in range(99)]},
    record(*(text(rf"^\p{{L}}{{{index + 1}}}$", maxLength=90) for index in range(40))),
    {"type": "object", "patternProperties": {f"^k{n}_.*$": {"type": "null"} for n in range(200)}},
    {"patternProperties": {rf"^{n}\p{{L}}{{1,50}}$": {} for n in range(60)}},
    # alternatives multiplied out
    _all_pairs("minLength", "maxLength", 100),
    _all_pairs("minItems", "maxItems", 30),
    {"anyOf": [{"minLength": 1}] * 500},
    {
        "allOf": [{"anyOf": [{"$ref": "#/$defs/r"}] * 30}] * 2,
        "$defs": {"r": record(*({"type": "null"} for _ in range(30)))},
    },
    {"allOf": [{"properties": {f"a{n}_{m}": {} for m in range(4)}} for n in range(100)]},
    {
        "oneOf": [
            {"properties": {"k": {"const": n}}, "required": [f"q{i}" for i in range(30)] + ["k"]}
            for n in range(40)
        ]
    },
    record(*({"type": "null"} for _ in range(600))),
    # references
    chain(30, 2, lambda refs: {"allOf": refs}, {"type": "integer"}),
    chain(6, 10, _beside, {"type": "string"}),
    chain(10, 10, lambda refs: {"minLength": 1, "anyOf": refs}, {"type": "string"}),
    # infinite
    _SELF,
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"allOf": [_SELF]},
    {"anyOf": [_SELF, {"type": "integer"}]},
    {"minLength": 1, "oneOf": [{"type": "null"}, {"allOf": [_SELF]}]},
    {"type": "object", "properties": {"a": {"$ref": "#", "required": ["a"]}}},
    {
        "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {
            name: {"type": "object", "properties": {"x": {"$ref": f"#/$defs/{name}"}}}
            for name in "ab"
        },
    },
    _nested(60, lambda inner: {"type": "array", "items": inner}, {}),
    # options of the library, and keywords that move references or disable others
    {"type": "integer", "x-guidance": {"lenient": True}},
    {"properties": {"a": {"type": "integer", "x-guidance": {"coerce_one_of": True}}}},
    {"$ref": "https://json-schema.org/draft/2020-12/schema"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$id": "http://a.example/", "type": "integer"}}},
    {"$schema": "http://a.example/none", "const": 3},
    {"type": "array", "items": {"$schema": "http://json-schema.org/draft-04/schema#"}},
    {"type": "array", "prefixItems": [{"const": 1}], "additionalItems": False},
)
"""Each is refused before it is compiled."""
ENDLESS: tuple[Schema, ...] = (
    {"type": "object", "properties": {"a": _SELF}, "required": ["a"]},
    {"type": "object", "properties": {"a": _SELF, "b": _SELF}, "required": ["a"]},
    {"type": "array", "items": _SELF, "minItems": 1},
    {"type": "array", "prefixItems": [_SELF] * 8, "minItems": 8},
    {"type": "object", "minProperties": 1, "additionalProperties": _SELF},
    {
        "anyOf": [
            {"type": "object", "properties": {name: _SELF}, "required": [name]}
            for name in "abcdefghijklmnopqrst"
        ]
    },
    {
        "type": "object",
        "properties": {"a": {"anyOf": [_SELF, {"type": "array", "items": _SELF, "minItems": 1}]}},
        "required": ["a"],
    },
)
"""Each is refused: no finite answer obeys it."""


def _variant(rng: random.Random, depth: int) -> Schema:
    """Return a subschema of random size, from trivial to far too large."""
    size = int(10 ** rng.uniform(0, 4.2))
    few = int(10 ** rng.uniform(0, 1.6))
    makers: list[Callable[[], Schema]] = [
        lambda: multiple(size, **_bounds(rng)),
        lambda: {"type": "number", "multipleOf": size / 10 ** rng.randrange(6)},
        lambda: {"type": rng.choice(["integer", "number"]), **_bounds(rng)},
        lambda: {"allOf": [multiple(1 + size % 97), {"multipleOf": few}]},
        lambda: {"anyOf": [multiple(rng.randrange(1, 40), **_bounds(rng)) for _ in range(few % 9)]},
        lambda: {"anyOf": [{"type": "integer", **_bounds(rng)} for _ in range(few * 5)]},
        lambda: {"type": "string", **_lengths(rng, size)},
        lambda: text(_pattern(rng, few), **_lengths(rng, size)),
        lambda: text(_pattern(rng, few)),
        lambda: {"allOf": [text(_pattern(rng, few % 7)) for _ in range(rng.randrange(1, 4))]},
        lambda: {"anyOf": [text(_pattern(rng, few % 9)) for _ in range(few)]},
        lambda: {"type": "string", "format": rng.choice(_FORMATS), **_lengths(rng, size)},
        lambda: {"enum": [_value(rng, 0) for _ in range(few * 12)]},
        lambda: {"const": _value(rng, 3)},
        lambda: {"type": "string", "enum": ["x" * (size % 900) + str(n) for n in range(few)]},
        lambda: _all_pairs("minLength", "maxLength", few),
        lambda: _all_pairs("multipleOf", "minimum", few),
    ]
    if depth > 0:
        makers += [lambda: _compound(rng, depth)] * (len(makers) * 2 // 3)
    return rng.choice(makers)()


def _compound(rng: random.Random, depth: int) -> Schema:
    """Return objects, arrays and alternatives of further subschemas."""
    width = int(10 ** rng.uniform(0, 1.7 if depth == 1 else 0.9))
    members = [_variant(rng, depth - 1) for _ in range(width)]
    names = [f"p{index}" for index in range(width)]
    bounds = {"minItems": rng.randrange(9), "maxItems": rng.randrange(9, 10**6)}
    makers: list[Callable[[], Schema]] = [
        lambda: record(*members),
        lambda: record(*members, required=names[: width // 2]),
        lambda: {**record(*members), "additionalProperties": _variant(rng, 0)},
        lambda: {"properties": dict(zip(names, members, strict=True)), "minProperties": 1},
        lambda: {"type": "array", "items": members[0], **bounds},
        lambda: {"type": "array", "prefixItems": members, "items": False},
        lambda: {
            "patternProperties": {f"^{_pattern(rng, 2)}{n}$": m for n, m in enumerate(members)}
        },
        lambda: {rng.choice(["anyOf", "oneOf"]): members},
        lambda: {"allOf": [record(*members), record(*members[: width // 2])]},
        lambda: (
            {"type": "object", "anyOf": [{"required": [name]} for name in names]} | record(*members)
        ),
    ]
    return rng.choice(makers)()


_FORMATS = (
    *("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"),
    *("unknown", "regex"),
)
_LINKS: tuple[Callable[[list[Schema]], Schema], ...] = (
    lambda refs: record(*refs),
    lambda refs: {"allOf": refs},
    lambda refs: {"anyOf": refs},
    lambda refs: {"maxLength": 99, "anyOf": refs},
    _beside,
)


def _bounds(rng: random.Random) -> Schema:
    if rng.random() < 0.4:
        return {}
    low, high = sorted(
        rng.uniform(-1, 1) * 10 ** rng.choice([1, 2, 5, 9, 15, 18]) for _ in range(2)
    )
    low, high = float(f"{low:.12g}"), float(f"{high:.12g}")
    if rng.random() < 0.8:
        low, high = int(low), int(high)
    return rng.choice([{"minimum": low, "maximum": high}, {"exclusiveMinimum": low}])


def _lengths(rng: random.Random, size: int) -> Schema:
    return rng.choice([{"maxLength": size}, {"minLength": size}, {"minLength": 1, "maxLength": 60}])


def _pattern(rng: random.Random, size: int) -> str:
    atoms = ("a", "[a-z]", ".", "[^x]", r"\w", r"\d{1,3}", "(a|b)", "é", r"\s", "[一-丁]", r"\p{L}")
    ends = ("", "", "?", "*", "+", "{2,9}", "{1,90}", "{40}")
    found = "".join(rng.choice(atoms) + rng.choice(ends) for _ in range(size))
    for _ in range(rng.randrange(3)):
        found = f"({found}){rng.choice(ends)}|{rng.choice(atoms)}"
    return rng.choice([found, f"^({found})$", f"^({found})x"])


def _value(rng: random.Random, depth: int) -> Any:  # noqa: ANN401 - any JSON
    kind = rng.randrange(6 if depth else 4)
    if kind == 4:
        return [_value(rng, depth - 1) for _ in range(int(10 ** rng.uniform(0, 1.5)))]
    if kind == 5:
        return {f"k{n}": _value(rng, depth - 1) for n in range(int(10 ** rng.uniform(0, 1.3)))}
    return (rng.randrange(10**6), round(rng.random(), 12), f"a value {rng.random()}", None)[kind]


def _referred(rng: random.Random) -> Schema:
    """Return definitions with several references, some of them recursive."""
    if rng.random() < _ALONE:
        levels, width = rng.randrange(1, 7), rng.randrange(1, 9)
        return chain(levels, width, rng.choice(_LINKS), _variant(rng, 0))
    members = [_variant(rng, 1) for _ in range(rng.randrange(1, 12))]
    members.append(record(*members[:3], {"$ref": "#/$defs/m0"}))
    refs: list[Schema] = [{"$ref": f"#/$defs/m{index}"} for index in range(len(members))]
    beside = [{**ref, "maxLength": 40, "maxItems": 9} for ref in refs]
    return {
        "$defs": {f"m{index}": member for index, member in enumerate(members)},
        **record(*refs, *refs, *beside[: rng.randrange(9)], {"type": "array", "items": _SELF}),
    }


_ALONE = 0.85
"""The share of schemas without references."""


def schemas(seed: int, count: int) -> Iterator[Schema]:
    """Yield ``count`` schemas of every kind, cheap and expensive; deterministic by seed."""
    rng = random.Random(seed)
    found = 0
    while found < count:
        one = _variant(rng, rng.randrange(4)) if rng.random() < _ALONE else _referred(rng)
        if len(json.dumps(one)) <= MAX_BYTES:
            found += 1
            yield one


_PERSON = record(
    {"type": "string", "maxLength": 80},
    {"type": "integer", "minimum": 0, "maximum": 150},
    {"type": "string", "format": "email"},
    {"type": "string", "format": "date-time"},
    required=["p0", "p1"],
)

HONEST: tuple[Schema, ...] = (
    {},
    {"type": "object"},
    {"type": ["string", "null"]},
    *(multiple(n, minimum=0) for n in (2, 5, 10, 15, 60, 100, 250, 1_000, 1_024, 3_600, 10_000)),
    *({"type": "number", "multipleOf": n} for n in (0.5, 0.01, 0.1, 0.25, 0.001, 2.5)),
    {"type": "number", "multipleOf": 0.01, "minimum": 0.01, "maximum": 9_999.99},
    multiple(100, minimum=100, maximum=10_000),
    {"allOf": [multiple(4), multiple(6)]},
    {"type": "integer", "minimum": -(2**53), "maximum": 2**53},
    {"type": "number", "minimum": -273.15, "exclusiveMaximum": 1e6},
    {"type": "number", "minimum": 0, "maximum": 1},
    _PERSON,
    record(*({"type": "integer", "minimum": 0, "maximum": 1_000} for _ in range(30))),
    record(*(multiple((5, 0.01, 100)[index % 3], minimum=0) for index in range(30))),
    record(*({"type": "string", "maxLength": 200} for _ in range(60))),
    record(*({"type": "string", "format": name} for name in _FORMATS[:10] * 3)),
    *({"type": "string", "maxLength": length} for length in (1, 80, 2_000, 100_000)),
    {"type": "string", "minLength": 1, "maxLength": 500},
    *({"type": "string", "format": name} for name in _FORMATS[:10]),
    {"type": "string", "format": "email", "maxLength": 254},
    text(r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"),
    text(r"^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$"),
    text(r"^((25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(25[0-5]|2[0-4]\d|1?\d?\d)$"),
    text(r"^[a-z0-9]+(-[a-z0-9]+)*$", maxLength=64),
    text(r"^#[0-9a-fA-F]{6}$"),
    text(r"^[\w.+-]+@[\w-]+\.[\w.-]+$"),
    text(r"^\p{L}[\p{L} '-]{0,60}$"),
    text(r"^(?:[01]\d|2[0-3]):[0-5]\d$"),
    {"enum": ["on", "off", "auto"]},
    {"enum": [f"light.room_{index}" for index in range(600)]},
    {"enum": list(range(1_000))},
    {"const": "a sentence that always stands here, of some length, for a reason nobody recalls"},
    {"anyOf": [{"const": f"option {index}"} for index in range(200)]},
    {"type": "array", "items": _PERSON, "minItems": 1, "maxItems": 50},
    {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}], "items": False},
    {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 1_000_000},
    {"type": "object", "additionalProperties": {"type": "number"}, "maxProperties": 20},
    {"type": "object", "patternProperties": {"^x-": {"type": "string"}, "^y-": {"type": "null"}}},
    {
        "oneOf": [
            {"properties": {"kind": {"const": f"k{n}"}, "x": {"type": "integer"}}}
            | {"type": "object", "required": ["kind"], "additionalProperties": False}
            for n in range(20)
        ]
    },
    _PERSON | {"anyOf": [{"required": ["p2"]}, {"required": ["p3"]}]},
    {"allOf": [record(_PERSON) | {"additionalProperties": True}, {"required": ["p0"]}]},
    {"type": "object", "properties": {"children": {"type": "array", "items": _SELF}}},
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://a.example/tree",
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
            "node": record({"$ref": "#/$defs/tree"}, {"$ref": "#/$defs/tree"}, required=["p0"]),
        },
    },
    chain(12, 4, lambda refs: record(*refs), _PERSON),
    {
        "allOf": [{"$ref": "#/$defs/base"}, {"$ref": "#/$defs/more"}],
        "$defs": {
            "base": {"type": "object", "properties": {"a": {"type": "string"}}},
            "more": {"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": _PERSON}}]},
        },
    },
    _nested(20, record, {"type": "string"}),
    {"title": "t", "description": "d", "type": "integer", "x-unit": "W", "examples": [{"$ref": 3}]},
)
"""Each must pass: what people ask for."""
