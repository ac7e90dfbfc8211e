"""What a schema costs to compile, estimated from the schema alone.

The walk takes the steps that llguidance 1.9 takes: alternatives of one place are multiplied out, a
reference beside other keywords is expanded, one that stands alone is built once. Each step adds its
measured cost, and the walk ends where the sum passes the limit, so the limit bounds its own work.
"""

import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import combinations
from typing import Any, NamedTuple, TypeAlias

from edged.engine import schema_parts as parts_of
from edged.engine.schema_parts import Part, Place, SchemaError

COST_LIMIT = 3_000
"""A unit is some 10 microseconds of compilation; ``docs/budgets.md`` has what was measured."""
_MAX_STATES = 4_000
"""Remainders that numbers are told apart by: these alone make up the limit."""
_MAX_DEPTH = 48
_MAX_DECIMALS = 8
# llguidance multiplies in 32 bits and does not look for what does not fit.
_PRODUCT_LIMIT = 2**32
_ROUNDS = 8
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_QUANTIFIER = re.compile(r"[*+?{]")
_CLASS = re.compile(r"\\[pP]")
_SET = re.compile(r"[\[.\\]")
_IGNORE_CASE = re.compile(r"\(\?[a-zA-Z-]*i")


class _Gate(NamedTuple):
    """A place ends when at least some of those below it do."""

    needed: int
    members: "tuple[_Ends, ...]"


# Whether a place comes to an end: always, or when a reference does (its pointer), or by a gate.
_Ends: TypeAlias = bool | str | _Gate
_Together: TypeAlias = tuple[Part, ...]


def estimate_cost(schema: dict[str, Any], *, limit: float = COST_LIMIT) -> float:
    """Return what compiling ``schema`` costs, in units of ``COST_LIMIT``.

    Raises:
        SchemaError: it costs more than ``limit``, refers to itself without end, or has a
            keyword that cannot be enforced.
    """
    walk = _Walk(schema, limit)
    walk.check_ends()
    return walk.cost


class _Walk:
    def __init__(self, root: dict[str, Any], limit: float) -> None:
        self.cost = 0.0
        self._limit = limit
        self._root = root
        self._counts = parts_of.count_values(root)
        self._depth = 0
        self._ends: dict[str, _Ends] = {}
        self._root_ends = self._visit([Place("", root)])

    def check_ends(self) -> None:
        """Refuse a schema that no finite answer obeys.

        Raises:
            SchemaError: each answer would need another one in it.
        """
        for _ in range(_ROUNDS):
            for pointer, ends in self._ends.items():
                self._ends[pointer] = self._holds(ends) or ends
        if not self._holds(self._root_ends):
            raise SchemaError(": no finite answer obeys it; let a property be optional")

    def _holds(self, ends: _Ends) -> bool:
        if isinstance(ends, _Gate):
            return sum(map(self._holds, ends.members)) >= ends.needed
        return ends if isinstance(ends, bool) else self._ends[ends] is True

    def _charge(self, units: float, path: str, advice: str = "make the schema smaller") -> None:
        self.cost += units
        if self.cost > self._limit:
            raise SchemaError(
                f"{path}: costs too much, together with what stands before it; {advice}"
            )

    def _visit(self, places: Sequence[Place], chain: tuple[str, ...] = ()) -> _Ends:
        """Add the cost of a value that obeys all of ``places``."""
        path = places[0].path
        multiples: list[tuple[Decimal, str]] = []
        ends: list[_Ends] = []
        together = self._product([self._options(place, chain) for place in places], path)
        self._go_deeper(path)
        for unresolved in together:
            for parts in self._resolved(unresolved):
                if len(parts) == 1 and parts[0].ref is not None:
                    ends.append(self._shared(parts[0]))
                else:
                    ends += self._alternative(parts, path, multiples)
        self._depth -= 1
        self._charge_states(multiples)
        return _at_least(1, ends)

    def _go_deeper(self, path: str) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise SchemaError(f"{path}: is nested too deeply (recursion limit {_MAX_DEPTH})")

    def _options(self, place: Place, chain: tuple[str, ...]) -> list[_Together]:
        """Return the alternatives of a place, each as the parts that must hold together."""
        path, schema = place
        if isinstance(schema, bool):
            return [()] if schema else []
        self._charge(0.5, path)
        parts_of.check_place(place, is_root=schema is self._root)
        self._go_deeper(path)
        factors: list[list[_Together]] = []
        if parts_of.has_keywords(schema):
            factors.append([(parts_of.part_of(place, chain),)])
        factors += [self._options(one, chain) for one in parts_of.list_of(place, "allOf")]
        for key in ("anyOf", "oneOf"):
            if key in schema:
                listed = parts_of.list_of(place, key)
                factors.append([found for one in listed for found in self._options(one, chain)])
        if "oneOf" in schema:  # each alternative is held against each
            pairs = len(schema["oneOf"]) * self._counts[id(schema["oneOf"])]
            self._charge(0.01 * pairs, f"{path}.oneOf", "use anyOf")
        if "$ref" in schema:
            factors.append([(parts_of.reference(place, chain),)])
        self._depth -= 1
        return self._product(factors, path)

    def _product(self, factors: list[list[_Together]], path: str) -> list[_Together]:
        combined: list[_Together] = [()]
        for factor in factors:
            self._charge(0.3 * len(combined) * len(factor), path, "use fewer alternatives")
            combined = [before + after for before in combined for after in factor]
        return combined

    def _resolved(self, parts: _Together) -> Iterator[_Together]:
        """Follow the references that do not stand alone."""
        index = next((i for i, part in enumerate(parts) if part.ref is not None), None)
        if index is None or len(parts) == 1:
            yield parts
            return
        self._go_deeper(parts[index].path)
        target, chain = parts_of.follow(self._root, parts[index])
        for option in self._options(target, chain):
            together = parts[:index] + option + parts[index + 1 :]
            self._charge(0.3 * len(together), parts[index].path)
            yield from self._resolved(together)
        self._depth -= 1

    def _shared(self, part: Part) -> _Ends:
        """Count what a reference leads to once, as it is built once."""
        target, chain = parts_of.follow(self._root, part)
        pointer = chain[-1]
        self._charge(0.5, part.path)
        if pointer not in self._ends:
            self._ends[pointer] = False
            ends = self._visit([target], chain)
            del self._ends[pointer]  # to stand behind what it leads to
            self._ends[pointer] = ends
        return self._ends[pointer] is True or pointer

    def _alternative(
        self, parts: _Together, path: str, multiples: list[tuple[Decimal, str]]
    ) -> list[_Ends]:
        """Add the cost of one alternative; return when it ends, nothing where no value obeys it."""
        copied = sum(self._counts[id(part.schema)] for part in parts)
        self._charge(1 + 0.3 * len(parts) + 0.02 * copied, path)
        kinds = parts_of.KINDS.intersection(*map(parts_of.kinds_of, parts))
        if not parts or not kinds:
            return [] if parts else [True]
        if any("enum" in part.schema or "const" in part.schema for part in parts):
            self._charge_literals(parts)
            return [True]
        if "number" in kinds:
            self._charge_number(parts, multiples)
        if "string" in kinds:
            self._charge(_string_cost(parts), path, "shorten its patterns")
        ends = [self._array(parts)] if "array" in kinds else []
        ends += [self._object(parts)] if "object" in kinds else []
        return [True] if kinds - {"array", "object"} else ends

    def _charge_literals(self, parts: _Together) -> None:
        num_combined, beside = 1, 0.1 * (len(parts) - 1) + _string_cost(parts) - 1
        for part in parts:
            values = [part.schema["const"]] if "const" in part.schema else []
            if "enum" in part.schema:
                values += [one.schema for one in parts_of.list_of(part, "enum")]
            costs = [0.3 + _literal_cost(value) for value in values]
            self._charge(sum(costs), part.path, "use fewer or shorter values")
            if values:
                beside += max(costs) if num_combined > 1 else 0
                num_combined *= len(values)
        # Each value is held against what else holds there.
        self._charge(num_combined * beside, parts[0].path, "let the values stand alone")

    def _charge_number(self, parts: _Together, multiples: list[tuple[Decimal, str]]) -> None:
        factors = []
        for part in parts:
            digits = sum(_digits(part.schema.get(key)) for key in _BOUNDS)
            self._charge(1 + 2 * digits + digits**2 / 50, part.path, "use bounds with fewer digits")
            if "multipleOf" in part.schema:
                factors.append((_multiple(part), f"{part.path}.multipleOf"))
        if factors:
            whole, unit = _in_whole_numbers(factors)
            if math.prod(whole) >= _PRODUCT_LIMIT:
                raise SchemaError(f"{factors[-1][1]}: too large beside others; use one of them")
            multiples.append((math.lcm(*whole) * unit, factors[-1][1]))

    def _charge_states(self, multiples: list[tuple[Decimal, str]]) -> None:
        """Charge for the remainders that the numbers of one place are told apart by."""
        if multiples:
            states = min(math.lcm(*_in_whole_numbers(multiples)[0]), _PRODUCT_LIMIT)
            zeros = len(str(states)) - 1
            if states == 10**zeros:  # told apart by the last digits
                states = min(states, 4 * (zeros + 1) ** 2)
            advice = f"use one up to {_MAX_STATES}, or a power of ten"
            units = COST_LIMIT / _MAX_STATES * states * len(multiples)
            self._charge(units, multiples[-1][1], advice)

    def _array(self, parts: _Together) -> _Ends:
        at_least = max(parts_of.count_of(part, "minItems") for part in parts)
        prefixes, rest = zip(*map(parts_of.items_of, parts), strict=True)
        self._charge(3 + _repeat_cost(parts, "maxItems"), parts[0].path, "use a smaller maxItems")
        ends = []
        for index in range(max(map(len, prefixes))):
            self._charge(3, parts[0].path, "use fewer prefixItems")
            both = zip(prefixes, rest, strict=True)
            ends.append(self._visit([p[index] if index < len(p) else r for p, r in both]))
        ends.append(self._visit(rest))
        return _at_least(len(ends[:at_least]), ends[:at_least])

    def _object(self, parts: _Together) -> _Ends:
        path = parts[0].path
        properties = [parts_of.map_of(part, "properties") for part in parts]
        patterns = [parts_of.map_of(part, "patternProperties") for part in parts]
        rest = [parts_of.sub(part, "additionalProperties") for part in parts]
        required = dict.fromkeys(name for part in parts for name in parts_of.required_names(part))
        names = dict.fromkeys(name for named in properties for name in named) | required
        merged = 0.1 * len(names) * (len(parts) - 1)
        self._charge(4 + merged + _repeat_cost(parts, "maxProperties"), path)
        self._charge_patterns({text for named in patterns for text in named}, len(names), path)
        ends = {}
        for name in names:
            at = f"{path}.properties.{parts_of.shortened(name)}"
            self._charge(6 + 0.15 * len(name), at, "use fewer or shorter names")
            held = parts_of.places_of(name, properties, patterns, rest)
            ends[name] = _at_least(1, [self._visit(places) for places in held])
        others = [self._visit([place]) for named in patterns for place in named.values()]
        others.append(self._visit(rest))
        num_needed = max(parts_of.count_of(part, "minProperties") for part in parts)
        some = _at_least(1, [_at_least(num_needed, list(ends.values())), *others])
        return _at_least(len(required) + 1, [some, *(ends[name] for name in required)])

    def _charge_patterns(self, patterns: set[str], num_names: int, path: str) -> None:
        at = f"{path}.patternProperties"
        costs = [6 + _pattern_cost(pattern) for pattern in sorted(patterns)]
        self._charge(sum(costs) + 0.2 * num_names * len(costs), at)
        for one, other in combinations(costs, 2):  # each is held against each
            self._charge(4 + 0.05 * (one + other), at, "use fewer patterns")


def _at_least(needed: int, ends: list[_Ends]) -> _Ends:
    needed -= ends.count(True)
    return needed <= 0 or _Gate(needed, tuple(one for one in ends if one is not True))


def _repeat_cost(parts: _Together, key: str) -> float:
    """Return what it costs to count up to a number: some rules for each of its bits."""
    return 0.3 * max(parts_of.count_of(part, key) for part in parts).bit_length() ** 2


def _multiple(part: Part) -> Decimal:
    """Return ``multipleOf`` as the library reads it: ten times a float until it is whole.

    Raises:
        SchemaError: it is no number that the library would hold exactly.
    """
    path, value = f"{part.path}.multipleOf", part.schema["multipleOf"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SchemaError(f"{path}: must be a number")
    if not 0 < abs(value) < _PRODUCT_LIMIT / 10:
        raise SchemaError(f"{path}: out of range; use one up to {_MAX_STATES}, or a power of ten")
    whole, decimals = abs(float(value)), 0
    while whole % 1 and decimals <= _MAX_DECIMALS:
        whole, decimals = whole * 10, decimals + 1
    if decimals > _MAX_DECIMALS:
        raise SchemaError(f"{path}: has too many digits; use a decimal such as 0.01")
    return Decimal(int(whole)).scaleb(-decimals)


def _in_whole_numbers(factors: list[tuple[Decimal, str]]) -> tuple[list[int], Decimal]:
    """Return the numbers in their common unit, and the unit, a power of ten up to 1."""
    exponents = [int(factor.normalize().as_tuple().exponent) for factor, _ in factors]
    unit = Decimal(1).scaleb(min(0, *exponents))
    return [int(factor / unit) for factor, _ in factors], unit


def _digits(bound: Any) -> int:  # noqa: ANN401 - whatever stands there
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        return 0
    if isinstance(bound, int):
        return int(bound.bit_length() * 0.302) + 1
    return len(format(Decimal(repr(bound)), "f")) if math.isfinite(bound) else 0


def _string_cost(parts: _Together) -> float:
    schemas = [part.schema for part in parts]
    patterns = [one["pattern"] for one in schemas if isinstance(one.get("pattern"), str)]
    num_formats = sum("format" in one for one in schemas)
    is_measured = any("minLength" in one or "maxLength" in one for one in schemas)
    # Where several hold, the library looks whether any text is left.
    num_held = len(patterns) + num_formats
    intersected = 50 * (num_held + is_measured - 1) if num_held else 0
    return 1 + sum(map(_pattern_cost, patterns)) + 30 * num_formats + intersected


def _pattern_cost(pattern: str) -> float:
    num_quantifiers = len(_QUANTIFIER.findall(pattern))
    num_classes = len(_CLASS.findall(pattern))
    num_folded = len(_SET.findall(pattern)) if _IGNORE_CASE.search(pattern) else 0
    return 2 + 0.4 * len(pattern) + 2 * num_quantifiers + 150 * num_classes + 900 * num_folded


def _literal_cost(value: Any) -> float:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        return 0.15 * len(value.encode("utf-8", "replace"))
    # Also in time for each mask: all that is certain to follow is looked through for it.
    if isinstance(value, dict):
        return 8 + sum(12 + 0.15 * len(name) + _literal_cost(one) for name, one in value.items())
    if isinstance(value, list):
        return 4 + sum(3 + _literal_cost(one) for one in value)
    return 0.2 + 0.04 * _digits(value)
