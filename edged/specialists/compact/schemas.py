"""From a JSON Schema, or a list of functions, to the shape of the answers.

Rule: each keyword of a schema is either enforced or refused with its path; none is ignored.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from edged.specialists.compact.named import are_texts, named_shape
from edged.specialists.compact.records import Field, Items, Lines, Listing, Record
from edged.specialists.compact.shapes import (
    AnyOf,
    FreeText,
    Listed,
    Number,
    Shape,
    ShapeError,
    is_of,
)

_KEY = re.compile(r"[\w-]+")
MAX_CHARACTERS = 256
MAX_ITEMS = 64
MAX_DECIMALS = 6
# Values of a number that has `multipleOf`.
_MAX_STEPS = 1024
_MAX_DEPTH = 8
_LARGEST = 10**15 - 1
_DEFAULT_DECIMALS = 3

_REMARKS = frozenset(
    ("title", "description", "default", "examples", "$comment", "$schema", "$id", "deprecated")
)
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems", "uniqueItems"},
    "string": {"minLength", "maxLength", "x-inputs"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set(),
    "null": set(),
}
_KEYWORDS["number"] = _KEYWORDS["integer"]
_ANY = [*_KEYWORDS]


def shape_of(schema: object) -> Shape:
    """Return the shape of the values that a schema allows.

    Raises:
        ShapeError: It has a keyword, or a nesting, that has no compact form.
    """
    if _type_of(schema) == "array" and not _is_single(_items(schema, "")):
        return _lines(_checked(schema, "", "array"), "")
    if _type_of(schema) == "object":
        return _document(_checked(schema, "", "object"))
    return _shape(schema, "", 0, is_line=True)


def tools_shape(tools: object, *, is_list: bool = False, has_text: bool = False) -> Shape:
    """Return the shape of calls of functions: ``{"name": …, "arguments": {…}}``.

    Args:
        tools: As OpenAI lists functions.
        is_list: Whether an answer is a list of calls, or one.
        has_text: Whether an answer may be a text in place of a call.

    Raises:
        ShapeError: It is no such list, or the parameters have no compact form.
    """
    if not isinstance(tools, list) or not tools:
        raise ShapeError(": must be a list of functions")
    calls: list[Shape] = []
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ShapeError(f'[{index}]: must be {{"type": "function", "function": …}}')
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        arguments = _shape(schema, f"[{index}].function.parameters", 1)
        if not isinstance(arguments, Record):
            raise ShapeError(f"[{index}].function.parameters: must be an object")
        name = Field("name", "name", Listed((function["name"],)), is_required=True)
        record = Field("arguments", "arguments", arguments, is_required=True)
        calls.append(_headed([name, record], name))
    text = [FreeText(1, MAX_CHARACTERS, is_quoted=True)] if has_text else []
    if is_list:
        return _ordered([Lines(_ordered(calls), 0, MAX_ITEMS), *text])
    return _ordered([*calls, *text])


def _type_of(schema: object) -> object:
    return schema.get("type") if isinstance(schema, dict) else None


def _items(schema: object, path: str) -> object:
    items = schema.get("items") if isinstance(schema, dict) else None
    if not isinstance(items, dict):
        raise ShapeError(f"{path}.items: must be a schema")
    return items


def _is_single(schema: object) -> bool:
    """Tell whether the values are single ones, not objects or lists."""
    if not isinstance(schema, dict):
        return True
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return all(map(_is_single, schema[key]))
    return schema.get("type") not in ("object", "array")  # a list of types is not hashable


def _document(schema: Mapping[str, Any]) -> Shape:
    """Return the shape of an object, which may have one list of objects in it.

    Raises:
        ShapeError: It has no compact form.
    """
    properties, required = _members(schema, "")
    lists = [
        name
        for name, one in properties.items()
        if _type_of(one) == "array" and not _is_single(_items(one, f".properties.{name}"))
    ]
    if not lists:
        return _record(schema, "", 0, is_line=True)
    name, path = lists[0], f".properties.{lists[0]}"
    if len(lists) > 1 or name not in required:
        raise ShapeError(f"{path}: only one list of objects is possible, which must be required")
    others = {key: one for key, one in properties.items() if key != name}
    needed = [one for one in required if one != name]
    rest = _record({**schema, "properties": others, "required": needed}, "", 0)
    return Listing(name, _lines(_checked(properties[name], path, "array"), path), rest)


def _lines(schema: Mapping[str, Any], path: str) -> Lines:
    if schema.get("uniqueItems"):
        raise ShapeError(f"{path}.uniqueItems: is not possible for objects")
    item = _shape(_items(schema, path), f"{path}.items", 1, is_line=True)
    return Lines(item, *_counts(schema, path, "Items", MAX_ITEMS))


def _checked(schema: object, path: str, kind: str) -> Mapping[str, Any]:
    assert isinstance(schema, dict)  # noqa: S101 - by its type
    _refuse(schema.keys() - _KEYWORDS[kind] - {"type"}, path)
    return schema


def _refuse(keywords: Collection[str], path: str, beside: str = "") -> None:
    if unknown := sorted({*keywords} - _REMARKS):
        raise ShapeError(f"{path}.{unknown[0]}: has no compact form{beside}")


def _shape(schema: object, path: str, depth: int, *, is_line: bool = False) -> Shape:
    if not isinstance(schema, dict):
        raise ShapeError(f"{path}: must be a schema that says more than true or false")
    if depth > _MAX_DEPTH:
        raise ShapeError(f"{path}: is nested too deeply")
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _any_of(schema, path, depth, is_line=is_line)
    if "const" in schema or "enum" in schema:
        return _literal(schema, path)
    kind = schema.get("type")
    if isinstance(kind, list):
        options = [{**_only(schema, one), "type": one} for one in kind]
        return _ordered([_shape(one, path, depth + 1) for one in options])
    return _typed(kind, schema, path, depth, is_line=is_line)


def _typed(
    kind: object, schema: Mapping[str, Any], path: str, depth: int, *, is_line: bool
) -> Shape:
    if not isinstance(kind, str) or kind not in _KEYWORDS:
        raise ShapeError(f"{path}.type: must be one of {', '.join(sorted(_KEYWORDS))}")
    known = _checked(schema, path, kind)
    if kind == "object":
        return _record(known, path, depth, is_line=is_line)
    if kind == "array":
        return _list(known, path, depth)
    return _single(kind, known, path)


def _only(schema: Mapping[str, Any], kind: object) -> dict[str, Any]:
    """Return the keywords that say something of one of several types."""
    others = set().union(*_KEYWORDS.values()) - _KEYWORDS.get(str(kind), set())
    return {key: value for key, value in schema.items() if key not in others}


def _any_of(schema: Mapping[str, Any], path: str, depth: int, *, is_line: bool) -> Shape:
    key = "anyOf" if "anyOf" in schema else "oneOf"
    _refuse(schema.keys() - {key, "type"}, path, f" beside {key}")
    listed = schema[key]
    if not isinstance(listed, list) or not listed:
        raise ShapeError(f"{path}.{key}: must be a list of schemas")
    places = [f"{path}.{key}[{index}]" for index in range(len(listed))]
    options = [
        _shape(_with_type(one, schema.get("type"), place), place, depth + 1, is_line=is_line)
        for one, place in zip(listed, places, strict=True)
    ]
    are_records = {isinstance(one, Record) for one in options}
    if len(are_records) > 1 or (not is_line and are_records == {True}):
        raise ShapeError(f"{path}.{key}: objects are possible at the top, or as lines, only")
    return _ordered(options, is_one=key == "oneOf")


def _with_type(schema: object, kind: object, path: str) -> object:
    """Return an alternative with the type that stands beside the list of them, if there is one.

    Raises:
        ShapeError: It is of another type.
    """
    if kind is None or not isinstance(schema, dict):
        return schema
    if schema.get("type", kind) != kind:
        raise ShapeError(f"{path}.type: must be the one beside the alternatives, or left out")
    return {**schema, "type": kind}


def _ordered(options: Sequence[Shape], *, is_one: bool = False) -> Shape:
    """Return any of the shapes; a text last, since it can be anything."""
    if len(options) == 1:
        return options[0]
    return AnyOf(tuple(sorted(options, key=lambda one: isinstance(one, FreeText))), is_one)


def _literal(schema: Mapping[str, Any], path: str) -> Shape:
    _refuse(schema.keys() - {"const", "enum", "type"}, path, " beside const or enum")
    values = [schema["const"]] if "const" in schema else schema["enum"]
    if not isinstance(values, list) or not values:
        raise ShapeError(f"{path}.enum: must be a list of values")
    if any(isinstance(value, dict | list) for value in values):
        raise ShapeError(f"{path}: only single values can be listed")
    fitting = [value for value in values if is_of(value, schema.get("type", _ANY))]
    if not fitting:
        raise ShapeError(f"{path}.type: none of the values is of it")
    return Listed(tuple(fitting))


def _single(kind: str, schema: Mapping[str, Any], path: str) -> Shape:
    if kind == "boolean":
        return Listed((True, False))
    if kind == "null":
        return Listed((None,))
    if kind != "string":
        return _number(kind, schema, path)
    if "x-inputs" in schema:
        _refuse(schema.keys() - {"x-inputs", "type"}, path, " beside x-inputs")
        return named_shape(schema["x-inputs"], f"{path}.x-inputs")
    return FreeText(*_counts(schema, path, "Length", MAX_CHARACTERS))


def _counts(schema: Mapping[str, Any], path: str, what: str, most: int) -> tuple[int, int]:
    least, given = schema.get(f"min{what}", 0), schema.get(f"max{what}", most)
    if not isinstance(least, int) or not isinstance(given, int) or not 0 <= least <= given:
        raise ShapeError(f"{path}.min{what}: must be from 0 to max{what}")
    if least > most:
        raise ShapeError(f"{path}.min{what}: at most {most} are possible")
    return least, min(given, most)


def _number(kind: str, schema: Mapping[str, Any], path: str) -> Shape:
    bounds = {}
    for key in _KEYWORDS["number"] & schema.keys():
        value = schema[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ShapeError(f"{path}.{key}: must be a number")
        if not abs(value) <= _LARGEST:
            raise ShapeError(f"{path}.{key}: is too large")
        bounds[key] = Decimal(str(value))
    step = bounds.pop("multipleOf", None)
    decimals = _decimals(kind, bounds, step, path)
    least = Decimal(1).scaleb(-decimals)
    # The first and the last of the numbers that are written with so many decimals.
    low = _rounded(bounds.get("minimum", -Decimal(_LARGEST)), decimals, ROUND_CEILING)
    high = _rounded(bounds.get("maximum", Decimal(_LARGEST)), decimals, ROUND_FLOOR)
    if "exclusiveMinimum" in bounds:
        low = max(low, _rounded(bounds["exclusiveMinimum"], decimals, ROUND_FLOOR) + least)
    if "exclusiveMaximum" in bounds:
        high = min(high, _rounded(bounds["exclusiveMaximum"], decimals, ROUND_CEILING) - least)
    if step is not None and step != least:
        return _steps(low, high, step, path)
    shape = Number(low, high, decimals)
    try:
        shape.pattern({})
    except ValueError as error:
        raise ShapeError(f"{path}: {error}") from error
    return shape


def _decimals(kind: str, bounds: Mapping[str, Decimal], step: Decimal | None, path: str) -> int:
    if kind == "integer":
        if step is not None and _places(step):
            raise ShapeError(f"{path}.multipleOf: must be whole for integers")
        return 0
    known = [_DEFAULT_DECIMALS, *(_places(one) for one in bounds.values())]
    decimals = max(known) if step is None else _places(step)
    if decimals > MAX_DECIMALS:
        raise ShapeError(f"{path}: more than {MAX_DECIMALS} decimals have no compact form")
    return decimals


def _rounded(number: Decimal, decimals: int, rounding: str) -> Decimal:
    least = Decimal(1).scaleb(-decimals)
    return number if _places(number) <= decimals else number.quantize(least, rounding)


def _places(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _steps(low: Decimal, high: Decimal, step: Decimal, path: str) -> Shape:
    if step <= 0:
        raise ShapeError(f"{path}.multipleOf: must be above 0")
    # Division of decimals rounds to zero.
    first, last = low // step + (low % step > 0), high // step - (high % step < 0)
    if last - first >= _MAX_STEPS or last < first:
        raise ShapeError(f"{path}.multipleOf: 1 to {_MAX_STEPS} values are possible within bounds")
    values = [step * index for index in range(int(first), int(last) + 1)]
    return Listed(tuple(int(one) if one == int(one) else float(one) for one in values))


def _list(schema: Mapping[str, Any], path: str, depth: int) -> Shape:
    items = _items(schema, path)
    if not _is_single(items):
        raise ShapeError(f"{path}: a list of objects or lists is possible at the top only")
    counts = _counts(schema, path, "Items", MAX_ITEMS)
    item = _shape(items, f"{path}.items", depth + 1)
    return Items(item, *counts, is_unique=schema.get("uniqueItems") is True)


def _members(schema: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """Return the properties of an object, and the names of those that are required.

    Raises:
        ShapeError: They are none.
    """
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not are_texts(required):
        raise ShapeError(f"{path}: properties must be an object, required a list of names")
    return properties, required


def _record(schema: Mapping[str, Any], path: str, depth: int, *, is_line: bool = False) -> Record:
    properties, required = _members(schema, path)
    if isinstance(schema.get("additionalProperties"), dict):
        raise ShapeError(f"{path}.additionalProperties: a schema has no compact form here")
    if missing := [name for name in required if name not in properties]:
        raise ShapeError(f"{path}.required: {missing[0]!r} is not among the properties")
    fields = []
    for name, one in properties.items():
        if not _KEY.fullmatch(name):
            raise ShapeError(f"{path}.properties.{name}: a name must be letters, digits, _ and -")
        shape = _shape(one, f"{path}.properties.{name}", depth + 1)
        fields.append(Field(name, name, shape, name in required))
    return _headed(fields, _head(fields) if is_line else None)


def _head(fields: Sequence[Field]) -> Field | None:
    """Return the field that is written first: a constant, else the first one if it is listed."""
    listed = [one for one in fields if one.is_required and isinstance(one.shape, Listed)]
    for field in listed:
        if isinstance(field.shape, Listed) and len(field.shape.values) == 1:
            return field
    return fields[0] if fields and fields[0] in listed else None


def _headed(fields: Sequence[Field], head: Field | None) -> Record:
    """Return a record; a field is written with its path where its name occurs twice."""
    counts: dict[str, int] = {}

    def count(some: Sequence[Field]) -> None:
        for one in some:
            if isinstance(one.shape, Record):
                count(one.shape.fields)
            elif one != head:
                counts[one.name] = counts.get(one.name, 0) + 1

    def named(some: Sequence[Field], before: str) -> tuple[Field, ...]:
        found = []
        for one in some:
            path, shape = f"{before}{one.name}", one.shape
            if isinstance(shape, Record):
                shape = Record(named(shape.fields, f"{path}."))
            key = one.name if counts.get(one.name) == 1 or one == head else path
            found.append(Field(one.name, key, shape, one.is_required))
        return tuple(found)

    count(fields)
    return Record(named(fields, ""), head)
