"""Estimate the cost of compiling a JSON Schema, from the schema alone.

The walk takes the steps that llguidance 1.9 takes: alternatives of one place are multiplied out, a
reference beside other keywords is expanded, one without other keywords is built once. Each step
adds its measured cost. The walk ends where the sum passes the limit, so the limit bounds its time.
"""

import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import combinations, product
from typing import Any, NamedTuple, TypeAlias

from edged.engine.schema_parts import BOUNDS, KINDS, MAX_NAME, Part, SchemaError, count_values

# A unit is about 10 microseconds of compilation; ``docs/budgets.md`` has the measurements.
COST_LIMIT = 3_000
# States of the automaton for ``multipleOf`` that alone reach the limit.
_MAX_STATES = 4_000
# A power of ten above it takes seconds beside a bound on how many digits there are.
_MAX_BOUNDED = 10_000
_MAX_DEPTH = 48
_MAX_DECIMALS = 8
# llguidance multiplies in 32 bits without a check for overflow.
_PRODUCT_LIMIT = 2**32
_ROUNDS = 8
_QUANTIFIER = re.compile(r"[*+?{]")
_CLASS = re.compile(r"\\[pP]")
_SET = re.compile(r"[\[.\\]")
_IGNORE_CASE = re.compile(r"\(\?[a-zA-Z-]*i")


class _AtLeast(NamedTuple):
    """A place has a finite value when enough of its members have one."""

    needed: int
    members: "tuple[_Finite, ...]"


# Whether a place has a finite value: known, or as the reference with this pointer, or by members.
_Finite: TypeAlias = bool | str | _AtLeast
# Parts that hold for the same value.
_Combination: TypeAlias = tuple[Part, ...]
# ``multipleOf`` and its path.
_Multiple: TypeAlias = tuple[Decimal, str]


def estimate_cost(schema: dict[str, Any], *, limit: float = COST_LIMIT) -> float:
    """Return the cost of compiling ``schema``, in units of ``COST_LIMIT``.

    Raises:
        SchemaError: it costs more than ``limit``, refers to itself without end, or has a
            keyword that cannot be enforced.
    """
    walk = _Walk(schema, limit)
    walk.run()
    return walk.cost


class _Walk:
    def __init__(self, root: dict[str, Any], limit: float) -> None:
        self.cost = 0.0
        self._limit = limit
        self._root = root
        self._counts = count_values(root)
        self._depth = 0
        self._finite: dict[str, _Finite] = {}

    def run(self) -> None:
        finite = self._visit([Part("", self._root)])
        # A definition may depend on a later one; a few rounds settle realistic schemas.
        for _ in range(_ROUNDS):
            for pointer, one in self._finite.items():
                self._finite[pointer] = self._is_finite(one) or one
        if not self._is_finite(finite):
            raise SchemaError(": no finite answer obeys it; let a property be optional")

    def _is_finite(self, finite: _Finite) -> bool:
        if isinstance(finite, _AtLeast):
            return sum(map(self._is_finite, finite.members)) >= finite.needed
        return finite if isinstance(finite, bool) else self._finite[finite] is True

    def _charge(self, units: float, path: str, advice: str = "make the schema smaller") -> None:
        self.cost += units
        if self.cost > self._limit:
            raise SchemaError(
                f"{path}: costs too much, together with what stands before it; {advice}"
            )

    def _go_deeper(self, path: str) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise SchemaError(f"{path}: is nested too deeply (recursion limit {_MAX_DEPTH})")

    def _visit(self, places: Sequence[Part]) -> _Finite:
        """Add the cost of a value that obeys all of ``places``."""
        path = places[0].path
        multiples: list[_Multiple] = []
        finite: list[_Finite] = []
        together = self._product(list(map(self._options, places)), path)
        self._go_deeper(path)
        for unresolved in together:
            for parts in self._resolved(unresolved):
                if len(parts) == 1 and parts[0].ref is not None:
                    finite.append(self._shared(parts[0]))
                else:
                    finite += self._alternative(parts, path, multiples)
        self._depth -= 1
        self._charge_states(multiples)
        return _at_least(1, finite)

    def _options(self, place: Part) -> list[_Combination]:
        """Return the alternatives of a place, each as the parts that must hold together."""
        path, schema, chain, _ = place
        if isinstance(schema, bool):
            return [()] if schema else []
        self._charge(0.5, path)
        place.check(is_root=schema is self._root)
        self._go_deeper(path)
        factors: list[list[_Combination]] = [[(place,)]] if place.has_rule else []
        factors += map(self._options, place.list_of("allOf", chain))
        for key in ("anyOf", "oneOf"):
            if key in schema:
                listed = place.list_of(key, chain)
                factors.append([option for one in listed for option in self._options(one)])
        if "oneOf" in schema:
            # The library intersects each alternative with each.
            pairs = len(schema["oneOf"]) * self._counts[id(schema["oneOf"])]
            self._charge(0.01 * pairs, f"{path}.oneOf", "use anyOf")
        if "$ref" in schema:
            factors.append([(place.reference(),)])
        self._depth -= 1
        return self._product(factors, path)

    def _product(self, factors: list[list[_Combination]], path: str) -> list[_Combination]:
        combined: list[_Combination] = [()]
        for factor in factors:
            # Charged before it is made: this bounds the memory, too.
            self._charge(0.3 * len(combined) * len(factor), path, "use fewer alternatives")
            combined = [before + after for before, after in product(combined, factor)]
        return combined

    def _resolved(self, parts: _Combination) -> Iterator[_Combination]:
        """Expand the references that have other keywords beside them."""
        index = next((i for i, part in enumerate(parts) if part.ref is not None), None)
        if index is None or len(parts) == 1:
            yield parts
            return
        self._go_deeper(parts[index].path)
        for option in self._options(parts[index].follow(self._root)):
            together = parts[:index] + option + parts[index + 1 :]
            self._charge(0.3 * len(together), parts[index].path)
            yield from self._resolved(together)
        self._depth -= 1

    def _shared(self, part: Part) -> _Finite:
        """Add the cost of the target of a reference, once: it is built once."""
        target = part.follow(self._root)
        pointer = target.chain[-1]
        self._charge(0.5, part.path)
        if pointer not in self._finite:
            self._finite[pointer] = False
            finite = self._visit([target])
            # Reinsert it behind its dependencies, so that few rounds settle all.
            del self._finite[pointer]
            self._finite[pointer] = finite
        return self._finite[pointer] is True or pointer

    def _alternative(
        self, parts: _Combination, path: str, multiples: list[_Multiple]
    ) -> list[_Finite]:
        """Add the cost of one alternative; return nothing where no value can match it."""
        copied = sum(self._counts[id(part.schema)] for part in parts)
        self._charge(1 + 0.3 * len(parts) + 0.02 * copied, path)
        kinds = KINDS.intersection(*(part.kinds() for part in parts))
        if not parts or not kinds:
            return [] if parts else [True]
        if any("enum" in part.schema or "const" in part.schema for part in parts):
            self._charge_literals(parts)
            return [True]
        if "number" in kinds:
            self._charge_number(parts, multiples)
        if "string" in kinds:
            self._charge(_string_cost(parts), path, "shorten its patterns")
        finite = [self._array(parts)] if "array" in kinds else []
        finite += [self._object(parts)] if "object" in kinds else []
        return [True] if kinds - {"array", "object"} else finite

    def _charge_literals(self, parts: _Combination) -> None:
        num_combined, beside = 1, 0.1 * (len(parts) - 1) + _string_cost(parts) - 1
        for part in parts:
            values = [part.schema["const"]] if "const" in part.schema else []
            values += [one.schema for one in part.list_of("enum")]
            costs = [0.3 + _literal_cost(value) for value in values]
            self._charge(sum(costs), part.path, "use fewer or shorter values")
            for key in ("const", "enum"):
                part.check_literal(key, part.schema.get(key))
            if values:
                beside += max(costs) if num_combined > 1 else 0
                num_combined *= len(values)
        # The library checks each value against the other keywords of its place.
        self._charge(num_combined * beside, parts[0].path, "let the values stand alone")

    def _charge_number(self, parts: _Combination, multiples: list[_Multiple]) -> None:
        _check_exclusive(parts)
        factors = []
        for part in parts:
            digits = sum(_digits(part.schema.get(key)) for key in BOUNDS)
            self._charge(1 + 2 * digits + digits**2 / 50, part.path, "use bounds with fewer digits")
            if "multipleOf" in part.schema:
                factors.append(_multiple(part.schema["multipleOf"], f"{part.path}.multipleOf"))
        if factors:
            whole, unit = _in_whole_numbers(factors)
            if math.prod(whole) >= _PRODUCT_LIMIT:
                raise SchemaError(f"{factors[-1][1]}: too large beside others; use one of them")
            if math.lcm(*whole) > _MAX_BOUNDED and _is_bounded(parts):
                raise SchemaError(
                    f"{factors[-1][1]}: costs too much beside bounds; use one up to {_MAX_BOUNDED},"
                    " or no bound but a minimum from 0 on"
                )
            multiples.append((math.lcm(*whole) * unit, factors[-1][1]))

    def _charge_states(self, multiples: list[_Multiple]) -> None:
        """Charge for the remainders that the automaton of one place distinguishes."""
        if multiples:
            states = min(math.lcm(*_in_whole_numbers(multiples)[0]), _PRODUCT_LIMIT)
            zeros = len(str(states)) - 1
            if states == 10**zeros:  # the last digits are enough
                states = min(states, 4 * (zeros + 1) ** 2)
            advice = f"use one up to {_MAX_STATES}, or a power of ten"
            units = COST_LIMIT / _MAX_STATES * states * len(multiples)
            self._charge(units, multiples[-1][1], advice)

    def _array(self, parts: _Combination) -> _Finite:
        path = parts[0].path
        at_least = max(part.count_of("minItems") for part in parts)
        prefixes, rest = zip(*(part.items() for part in parts), strict=True)
        self._charge(3 + _repeat_cost(parts, "maxItems"), path, "use a smaller maxItems")
        finite = []
        for index in range(max(map(len, prefixes))):
            self._charge(3, path, "use fewer prefixItems")
            both = zip(prefixes, rest, strict=True)
            finite.append(self._visit([p[index] if index < len(p) else r for p, r in both]))
        finite.append(self._visit(rest))
        return _at_least(len(finite[:at_least]), finite[:at_least])

    def _object(self, parts: _Combination) -> _Finite:
        path = parts[0].path
        properties = [part.map_of("properties") for part in parts]
        patterns = [part.map_of("patternProperties") for part in parts]
        rest = [part.sub("additionalProperties") for part in parts]
        required = dict.fromkeys(name for part in parts for name in part.required())
        names = dict.fromkeys(name for named in properties for name in named) | required
        merged = 0.1 * len(names) * (len(parts) - 1)
        self._charge(4 + merged + _repeat_cost(parts, "maxProperties"), path)
        self._charge_patterns({text for named in patterns for text in named}, len(names), path)
        finite = {}
        for name in names:
            at = f"{path}.properties.{name[:MAX_NAME]}"
            self._charge(6 + 0.15 * len(name), at, "use fewer or shorter names")
            held = [named.get(name, other) for named, other in zip(properties, rest, strict=True)]
            alternatives = [self._visit(held)]
            # Patterns are not matched against the name: each may apply.
            for index, named in enumerate(patterns):
                if name not in properties[index]:
                    before, after = held[:index], held[index + 1 :]
                    alternatives += [self._visit([*before, one, *after]) for one in named.values()]
            finite[name] = _at_least(1, alternatives)
        others = [self._visit([place]) for named in patterns for place in named.values()]
        others.append(self._visit(rest))
        num_needed = max(part.count_of("minProperties") for part in parts)
        if num_needed > len(required) + 1:
            raise SchemaError(
                f"{path}.minProperties: would count a name that is written twice; list the names "
                "in `required`"
            )
        some = _at_least(1, [_at_least(num_needed, list(finite.values())), *others])
        return _at_least(len(required) + 1, [some, *(finite[name] for name in required)])

    def _charge_patterns(self, patterns: set[str], num_names: int, path: str) -> None:
        at = f"{path}.patternProperties"
        costs = [6 + _pattern_cost(pattern) for pattern in sorted(patterns)]
        self._charge(sum(costs) + 0.2 * num_names * len(costs), at)
        for one, other in combinations(costs, 2):  # the library intersects each with each
            self._charge(4 + 0.05 * (one + other), at, "use fewer patterns")


def _at_least(needed: int, finite: list[_Finite]) -> _Finite:
    needed -= finite.count(True)
    return needed <= 0 or _AtLeast(needed, tuple(one for one in finite if one is not True))


def _repeat_cost(parts: _Combination, key: str) -> float:
    # Counting up to a number takes some rules for each of its bits.
    return 0.3 * max(part.count_of(key) for part in parts).bit_length() ** 2


def _is_bounded(parts: _Combination) -> bool:
    """Return whether a bound, in whichever direction, limits how far numbers are from 0."""
    bounds = (part.numbers(("minimum", "exclusiveMinimum")) for part in parts)
    has_upper = any(part.numbers(("maximum", "exclusiveMaximum")) for part in parts)
    return has_upper or any(bound < 0 for found in bounds for bound in found)


def _check_exclusive(parts: _Combination) -> None:
    # Where both bounds are within one whole number and the next, away from 0, the library takes an
    # exclusive one that is whole for an inclusive one.
    for key, others, sign in (
        ("exclusiveMinimum", ("maximum", "exclusiveMaximum"), 1),
        ("exclusiveMaximum", ("minimum", "exclusiveMinimum"), -1),
    ):
        beyond = [sign * bound for part in parts for bound in part.numbers(others)]
        for part in parts:
            for bound in part.numbers((key,)):
                near = sign * bound
                if near >= 0 and near % 1 == 0 and any(near < it < near + 1 for it in beyond):
                    raise SchemaError(f"{part.path}.{key}: allows less than 1; use a decimal bound")


def _multiple(value: Any, path: str) -> _Multiple:  # noqa: ANN401 - any JSON
    # The library multiplies a float by ten until it is whole.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SchemaError(f"{path}: must be a number")
    if not 0 < abs(value) < _PRODUCT_LIMIT / 10:
        raise SchemaError(f"{path}: out of range; use one up to {_MAX_STATES}, or a power of ten")
    whole, decimals = abs(float(value)), 0
    while whole % 1 and decimals <= _MAX_DECIMALS:
        whole, decimals = whole * 10, decimals + 1
    if decimals > _MAX_DECIMALS:
        raise SchemaError(f"{path}: has too many digits; use a decimal such as 0.01")
    return Decimal(int(whole)).scaleb(-decimals), path


def _in_whole_numbers(factors: list[_Multiple]) -> tuple[list[int], Decimal]:
    """Return the numbers in their common unit, and the unit, a power of ten up to 1."""
    exponents = [int(factor.normalize().as_tuple().exponent) for factor, _ in factors]
    unit = Decimal(1).scaleb(min(0, *exponents))
    return [int(factor / unit) for factor, _ in factors], unit


def _digits(bound: Any) -> int:  # noqa: ANN401 - any JSON
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        return 0
    if isinstance(bound, int):
        return int(bound.bit_length() * 0.302) + 1
    return len(format(Decimal(repr(bound)), "f")) if math.isfinite(bound) else 0


def _string_cost(parts: _Combination) -> float:
    schemas = [part.schema for part in parts]
    patterns = [one["pattern"] for one in schemas if isinstance(one.get("pattern"), str)]
    num_formats = sum("format" in one for one in schemas)
    is_measured = any("minLength" in one or "maxLength" in one for one in schemas)
    # The library intersects several and checks that the result is not empty.
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
    # It costs time for each mask, too: the library searches all text that is certain to follow.
    if isinstance(value, dict):
        return 8 + sum(12 + 0.15 * len(name) + _literal_cost(one) for name, one in value.items())
    if isinstance(value, list):
        return 4 + sum(3 + _literal_cost(one) for one in value)
    return 0.2 + 0.04 * _digits(value)
