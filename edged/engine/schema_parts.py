"""Read a schema part by part, the way llguidance 1.9 reads it.

Rule: a keyword that cannot be enforced, or that would weaken what others ask for, is refused with
its path.
"""

import re
from typing import Any, NamedTuple
from urllib.parse import unquote

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
"""Of values that a grammar is built for; an integer is a number."""
_IN_PLACE = frozenset(["allOf", "anyOf", "oneOf", "$ref"])
# fmt: off
_ANNOTATIONS = frozenset([
    "$anchor", "$defs", "definitions", "$schema", "$id", "id", "$comment", "title", "description",
    "default", "readOnly", "writeOnly", "examples", "contentMediaType", "contentEncoding",
])
# Of any draft: what the library's own reading of the draft does not know, it ignores.
_UNIMPLEMENTED = frozenset([
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "propertyNames", "dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems",
    "unevaluatedProperties", "contentSchema", "$dynamicRef", "$dynamicAnchor", "$recursiveRef",
    "$recursiveAnchor", "$vocabulary", "divisibleBy", "disallow", "extends",
])
# fmt: on
_REF = re.compile("#(?:/[^%]*)?", re.DOTALL)
_ESCAPED = re.compile("%(?:2f|7e)", re.IGNORECASE)
_INDEX = re.compile("0|[1-9][0-9]{0,4}")
_NAME_LENGTH = 40
"""Of a name in a path; longer ones are cut."""


class SchemaError(ValueError):
    """A schema is refused; the message starts with the path in it, which may be empty."""


class Place(NamedTuple):
    """A subschema, or what stands in its place, and where."""

    path: str
    schema: Any


class Part(NamedTuple):
    """The keywords of one place that hold together with others, or a reference yet to follow."""

    path: str
    schema: dict[str, Any]
    chain: tuple[str, ...]
    """The references that led here without a property or an item between them."""
    ref: str | None = None
    """A JSON pointer into the schema, with ``#``."""


def check_place(place: Place, *, is_root: bool) -> None:
    """Refuse what is no schema, and the keywords that stand in it and cannot be enforced.

    Raises:
        SchemaError: there is one.
    """
    path, schema = place
    if not isinstance(schema, dict):
        raise SchemaError(f"{path}: schema must be an object or boolean")
    if "x-guidance" in schema:  # the library's own options: `lenient` would enforce nothing
        raise SchemaError(f"{path}.x-guidance: is not allowed; take it out")
    unimplemented = sorted(_UNIMPLEMENTED.intersection(schema))
    if unimplemented:
        keys = ", ".join(f'"{key}"' for key in unimplemented)
        raise SchemaError(f"{path}: Unimplemented keys: [{keys}]")
    if "$schema" in schema and not (is_root and "json-schema.org/" in str(schema["$schema"])):
        raise SchemaError(f"{path}.$schema: must be at the top, and a draft of json-schema.org")


def has_keywords(schema: dict[str, Any]) -> bool:
    """Whether something holds here beyond what other places say; unknown keywords count."""
    return not schema.keys() <= _IN_PLACE | _ANNOTATIONS


def part_of(place: Place, chain: tuple[str, ...]) -> Part:
    """Return the keywords of a place without its alternatives and references."""
    return Part(place.path, place.schema, chain)


def reference(place: Place, chain: tuple[str, ...]) -> Part:
    """Return the ``$ref`` of a place, not followed.

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
        SchemaError: it leads nowhere, or to itself before anything is asked for.
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
        SchemaError: a part of it has an ``$id``, which would move where references lead to.
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
            raise SchemaError(f"{part.path}.type: Invalid type: {shortened(str(name))}")
    return {_TYPES[name] for name in names}


def shortened(name: str) -> str:
    """Return as much of a requester's name as a message holds."""
    return name[:_NAME_LENGTH]


def sub(part: Part, key: str) -> Place:
    """Return the subschema that a keyword holds; what is absent allows anything."""
    return Place(f"{part.path}.{key}", part.schema.get(key, True))


def list_of(holder: Part | Place, key: str) -> list[Place]:
    """Return the subschemas that a keyword lists.

    Raises:
        SchemaError: it holds no list.
    """
    value = holder.schema.get(key, [])
    if not isinstance(value, list):
        raise SchemaError(f"{holder.path}.{key}: must be an array")
    return [Place(f"{holder.path}.{key}[{index}]", one) for index, one in enumerate(value)]


def map_of(part: Part, key: str) -> dict[str, Place]:
    """Return the subschemas that a keyword holds by name.

    Raises:
        SchemaError: it holds no object.
    """
    value = part.schema.get(key, {})
    if not isinstance(value, dict):
        raise SchemaError(f"{part.path}.{key}: must be an object")
    at = f"{part.path}.{key}"
    return {name: Place(f"{at}.{shortened(name)}", one) for name, one in value.items()}


def required_names(part: Part) -> list[str]:
    """Return the properties that must be there.

    Raises:
        SchemaError: they are no list of strings.
    """
    names = part.schema.get("required", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SchemaError(f"{part.path}.required: must be an array of strings")
    return names


def items_of(part: Part) -> tuple[list[Place], Place]:
    """Return what holds for the first items, and what for all others.

    Raises:
        SchemaError: old keywords and new ones stand side by side; the library would ignore some.
    """
    is_old = isinstance(part.schema.get("items"), list)
    if not is_old and "additionalItems" not in part.schema:
        return list_of(part, "prefixItems"), sub(part, "items")
    if "prefixItems" in part.schema:
        raise SchemaError(f"{part.path}.prefixItems: does not go with additionalItems")
    return (
        (list_of(part, "items"), sub(part, "additionalItems"))
        if is_old
        else ([], sub(part, "items"))
    )


def count_of(part: Part, key: str) -> int:
    """Return the number that a keyword holds, 0 where it is absent.

    Raises:
        SchemaError: it holds no integer.
    """
    value = part.schema.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SchemaError(f"{part.path}.{key}: must be an integer")
    return value


def places_of(
    name: str,
    properties: list[dict[str, Place]],
    patterns: list[dict[str, Place]],
    rest: list[Place],
) -> list[list[Place]]:
    """Return what a property of several parts may be held to, together.

    Which of the patterns a name matches is not looked at: each may be the one.
    """
    held = [named.get(name, other) for named, other in zip(properties, rest, strict=True)]
    found = [held]
    for index, named in enumerate(patterns):
        if name not in properties[index]:
            found += [[*held[:index], place, *held[index + 1 :]] for place in named.values()]
    return found
