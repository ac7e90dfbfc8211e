"""Read the keywords of a JSON Schema the way llguidance 1.9 reads them.

Rule: a keyword that cannot be enforced, or that would weaken others, is refused with its path.
"""

import re
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

# The kinds of values that a grammar distinguishes; an integer is a number.
_Json = TypeVar("_Json", list[Any], dict[str, Any], int)
_TYPES = {
    "null": "null",
    "boolean": "boolean",
    "number": "number",
    "integer": "number",
    "string": "string",
    "array": "array",
    "object": "object",
}
KINDS = frozenset(_TYPES.values())
_IN_PLACE = frozenset(["allOf", "anyOf", "oneOf", "$ref"])
# fmt: off
_ANNOTATIONS = frozenset([
    "$anchor", "$defs", "definitions", "$schema", "$id", "id", "$comment", "title", "description",
    "default", "readOnly", "writeOnly", "examples", "contentMediaType", "contentEncoding",
])
# Of any draft: the library ignores keywords that the schema's own draft does not define.
_UNIMPLEMENTED = frozenset([
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "propertyNames", "dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems",
    "unevaluatedProperties", "contentSchema", "$dynamicRef", "$dynamicAnchor", "$recursiveRef",
    "$recursiveAnchor", "$vocabulary", "divisibleBy", "disallow", "extends",
])
# fmt: on
_REF = re.compile("#(?:/[^%]*)?", re.DOTALL)
# Characters of a requester's name in a message; longer ones are cut.
_ESCAPED = re.compile("%(?:2f|7e)", re.IGNORECASE)
_INDEX = re.compile("0|[1-9][0-9]{0,4}")
MAX_NAME = 40


class SchemaError(ValueError):
    """A schema is refused; the message starts with the path in it, which may be empty."""


class Place(NamedTuple):
    """A value where a subschema belongs, and its path."""

    path: str
    schema: Any


class Part(NamedTuple):
    """Keywords that hold together with those of other parts, or an unresolved reference."""

    path: str
    schema: dict[str, Any]
    chain: tuple[str, ...]
    """The references that led here without a property or an item between them."""
    ref: str | None = None
    """A JSON pointer into the schema, with ``#``."""


def check_place(place: Place, *, is_root: bool) -> None:
    """Refuse a value that is no schema, or has keywords that cannot be enforced.

    Raises:
        SchemaError: it is one of these.
    """
    path, schema = place
    if not isinstance(schema, dict):
        raise SchemaError(f"{path}: schema must be an object or boolean")
    # The library's own options: `lenient` would enforce nothing.
    if "x-guidance" in schema:
        raise SchemaError(f"{path}.x-guidance: is not allowed; take it out")
    if unimplemented := sorted(_UNIMPLEMENTED.intersection(schema)):
        keys = ", ".join(f'"{key}"' for key in unimplemented)
        raise SchemaError(f"{path}: Unimplemented keys: [{keys}]")
    if "$schema" in schema and not (is_root and "json-schema.org/" in str(schema["$schema"])):
        raise SchemaError(f"{path}.$schema: must be at the top, and a draft of json-schema.org")


def has_keywords(schema: dict[str, Any]) -> bool:
    """Whether anything but references, combinations and annotations is there."""
    return not schema.keys() <= _IN_PLACE | _ANNOTATIONS


def reference(place: Place, chain: tuple[str, ...]) -> Part:
    """Return the unresolved ``$ref`` of a place.

    Raises:
        SchemaError: it is no JSON pointer into this schema.
    """
    ref, path = place.schema["$ref"], f"{place.path}.$ref"
    decoded = unquote(ref, errors="replace") if isinstance(ref, str) else ""
    if not _REF.fullmatch(decoded) or _ESCAPED.search(ref):
        raise SchemaError(f"{path}: leads out of the schema; use #/$defs/ and a name")
    return Part(path, {}, chain, decoded)


def follow(root: dict[str, Any], part: Part) -> tuple[Place, tuple[str, ...]]:
    """Return the place that a reference leads to, and its chain with the reference in it.

    Raises:
        SchemaError: it leads nowhere, or to itself without a property or an item between.
    """
    pointer = part.ref or ""
    if pointer in part.chain:
        raise SchemaError(
            f"{part.path}: refers to itself without end; refer to it from a property or an item"
        )
    target: Any = root
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list):
            is_in = _INDEX.fullmatch(name) and int(name) < len(target)
            target = target[int(name)] if is_in else None
        else:
            target = target.get(name) if isinstance(target, dict) else None
    if target is None:
        raise SchemaError(f"{part.path}: leads nowhere; use #/$defs/ and a name")
    return Place(pointer[1:].replace("/", "."), target), (*part.chain, pointer)


def count_values(root: dict[str, Any]) -> dict[int, int]:
    """Return how many JSON values each object and list of a schema holds, by its ``id()``.

    Raises:
        SchemaError: a subschema has an ``$id``, which would change the base of references.
    """
    counts: dict[int, int] = {}

    def count(value: Any) -> int:  # noqa: ANN401 - any JSON
        if isinstance(value, dict):
            if isinstance(value.get("$id"), str) and value is not root:
                raise SchemaError(".$id: may only stand at the top of a schema")
            counts[id(value)] = 1 + sum(map(count, value.values()))
        elif isinstance(value, list):
            counts[id(value)] = 1 + sum(map(count, value))
        return counts.get(id(value), 1)

    count(root)
    return counts


def kinds_of(part: Part) -> set[str]:
    """Return which of ``KINDS`` a part allows by its ``type``.

    Raises:
        SchemaError: there is no such type.
    """
    types = part.schema.get("type", list(_TYPES))
    names = types if isinstance(types, list) else [types]
    for name in names:
        if not isinstance(name, str) or name not in _TYPES:
            raise SchemaError(f"{part.path}.type: Invalid type: {str(name)[:MAX_NAME]}")
    return {_TYPES[name] for name in names}


def sub(part: Part, key: str) -> Place:
    """Return the subschema of a keyword; an absent one allows anything."""
    return Place(f"{part.path}.{key}", part.schema.get(key, True))


def list_of(holder: Part | Place, key: str) -> list[Place]:
    """Return the subschemas that a keyword lists."""
    listed = _typed(holder, key, [], "an array")
    return [Place(f"{holder.path}.{key}[{index}]", one) for index, one in enumerate(listed)]


def map_of(part: Part, key: str) -> dict[str, Place]:
    """Return the subschemas that a keyword holds by name."""
    named = _typed(part, key, {}, "an object")
    return {n: Place(f"{part.path}.{key}.{n[:MAX_NAME]}", one) for n, one in named.items()}


def count_of(part: Part, key: str) -> int:
    """Return the integer of a keyword, 0 where it is absent."""
    return _typed(part, key, 0, "an integer")


def required_names(part: Part) -> list[str]:
    """Return the properties that an object must have.

    Raises:
        SchemaError: they are no list of strings.
    """
    names = _typed(part, "required", [], "an array of strings")
    if not all(isinstance(name, str) for name in names):
        raise SchemaError(f"{part.path}.required: must be an array of strings")
    return names


def _typed(holder: Part | Place, key: str, default: _Json, expected: str) -> _Json:
    value = holder.schema.get(key, default)
    if type(value) is not type(default):
        raise SchemaError(f"{holder.path}.{key}: must be {expected}")
    return value


def items_of(part: Part) -> tuple[list[Place], Place]:
    """Return the schemas of the first items, and that of all others.

    Raises:
        SchemaError: it mixes keywords of old drafts with newer ones; the library would ignore some.
    """
    is_old = isinstance(part.schema.get("items"), list)
    if not is_old and "additionalItems" not in part.schema:
        return list_of(part, "prefixItems"), sub(part, "items")
    if "prefixItems" in part.schema:
        raise SchemaError(f"{part.path}.prefixItems: does not go with additionalItems")
    if is_old:
        return list_of(part, "items"), sub(part, "additionalItems")
    return [], sub(part, "items")


def places_of(
    name: str,
    properties: list[dict[str, Place]],
    patterns: list[dict[str, Place]],
    rest: list[Place],
) -> list[list[Place]]:
    """Return the combinations of subschemas that may hold for a property of several parts.

    Patterns are not matched against the name: each may apply.
    """
    held = [named.get(name, other) for named, other in zip(properties, rest, strict=True)]
    found = [held]
    for index, named in enumerate(patterns):
        if name not in properties[index]:
            found += [[*held[:index], place, *held[index + 1 :]] for place in named.values()]
    return found
