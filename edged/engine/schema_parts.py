"""Read the keywords of a JSON Schema the way llguidance 1.9 reads them.

Rule: a keyword that cannot be enforced, or that would weaken others, is refused with its path.
"""

import json
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import unquote

_Json = TypeVar("_Json", list[Any], dict[str, Any], int)
# The kinds of values that a grammar distinguishes; an integer is a number.
_TYPES = {name: name for name in ("null", "boolean", "number", "string", "array", "object")}
_TYPES["integer"] = "number"
KINDS = frozenset(_TYPES.values())
# fmt: off
# Keywords beside which a subschema needs no rule of its own: combinations and annotations.
_NO_RULE = frozenset([
    "allOf", "anyOf", "oneOf", "$ref", "$anchor", "$defs", "definitions", "$schema", "$id", "id",
    "$comment", "title", "description", "default", "readOnly", "writeOnly", "examples",
    "contentMediaType", "contentEncoding",
])
# Of any draft: the library ignores keywords that the schema's own draft does not define.
_UNIMPLEMENTED = frozenset([
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "propertyNames", "dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems",
    "unevaluatedProperties", "contentSchema", "$dynamicRef", "$dynamicAnchor", "$recursiveRef",
    "$recursiveAnchor", "$vocabulary", "divisibleBy", "disallow", "extends",
])
# fmt: on
# Keywords that bound a number.
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
# The library holds numbers as doubles, and multiplies the digits by a power of ten: beyond these
# limits it may make a neighbour of them. At -2**63 it recurses without end, which ends the process.
_MAX_EXPONENT = 22
_LARGEST = 2**63
_REF = re.compile("#(?:/[^%]*)?", re.DOTALL)
# A percent-encoded ``/`` or ``~`` would change the steps of the pointer when it is decoded.
_ESCAPED = re.compile("%(?:2f|7e)", re.IGNORECASE)
_INDEX = re.compile("0|[1-9][0-9]{0,4}")
# Characters of a requester's name in a message; longer ones are cut.
MAX_NAME = 40


class SchemaError(ValueError):
    """A schema is refused; the message starts with the path in it, which may be empty."""


class Part(NamedTuple):
    """A subschema, whose keywords may hold together with those of others; or a reference.

    What reads a keyword raises ``SchemaError`` if its value is not what the library takes.
    """

    path: str
    schema: Any
    chain: tuple[str, ...] = ()
    """The references that led here without a property or an item between them."""
    ref: str | None = None
    """A JSON pointer into the schema, with ``#``: the reference is not followed yet."""

    @property
    def has_rule(self) -> bool:
        """Whether anything but references, combinations and annotations is there."""
        return not self.schema.keys() <= _NO_RULE

    def check(self, *, is_root: bool) -> None:
        """Refuse a value that is no schema, or has keywords that cannot be enforced."""
        schema = self.schema
        if not isinstance(schema, dict):
            self._refuse("schema must be an object or boolean")
        # The library's own options: `lenient` would enforce nothing.
        if "x-guidance" in schema:
            self._refuse("is not allowed; take it out", "x-guidance")
        if unimplemented := sorted(_UNIMPLEMENTED.intersection(schema)):
            self._refuse(f"Unimplemented keys: {json.dumps(unimplemented)}")
        if "$schema" in schema and not (is_root and "json-schema.org/" in str(schema["$schema"])):
            self._refuse("must be at the top, and a draft of json-schema.org", "$schema")
        for key in BOUNDS:
            self.check_literal(key, schema.get(key))

    def check_literal(self, key: str, value: Any) -> None:  # noqa: ANN401 - any JSON
        """Refuse a keyword's value in which there is a number that the library changes."""
        if isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                self.check_literal(key, one)
        elif type(value) in (int, float) and not _is_exact(value):
            self._refuse("a number is not exact in a double; use at most 15 digits", key)

    def reference(self) -> "Part":
        """Return the ``$ref`` of a subschema, not followed: a JSON pointer into this schema."""
        ref = self.schema["$ref"]
        decoded = unquote(ref, errors="replace") if isinstance(ref, str) else ""
        if not _REF.fullmatch(decoded) or _ESCAPED.search(ref):
            self._refuse("leads out of the schema; use #/$defs/ and a name", "$ref")
        return Part(f"{self.path}.$ref", {}, self.chain, decoded)

    def follow(self, root: dict[str, Any]) -> "Part":
        """Return the subschema that a reference leads to; its chain ends in the reference."""
        pointer = self.ref or ""
        if pointer in self.chain:
            self._refuse("refers to itself without end; refer to it from a property or an item")
        target: Any = root
        for step in pointer.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list):
                is_in = _INDEX.fullmatch(name) and int(name) < len(target)
                target = target[int(name)] if is_in else None
            else:
                target = target.get(name) if isinstance(target, dict) else None
        if target is None:
            self._refuse("leads nowhere; use #/$defs/ and a name")
        return Part(pointer[1:].replace("/", "."), target, (*self.chain, pointer))

    def kinds(self) -> set[str]:
        """Return which of ``KINDS`` the ``type`` allows."""
        types = self.schema.get("type", list(_TYPES))
        names = types if isinstance(types, list) else [types]
        for name in names:
            if not isinstance(name, str) or name not in _TYPES:
                self._refuse(f"Invalid type: {str(name)[:MAX_NAME]}", "type")
        return {_TYPES[name] for name in names}

    def sub(self, key: str) -> "Part":
        """Return the subschema of a keyword; an absent one allows anything."""
        return Part(f"{self.path}.{key}", self.schema.get(key, True))

    def list_of(self, key: str, chain: tuple[str, ...] = ()) -> "list[Part]":
        """Return the subschemas that a keyword lists."""
        listed = self._typed(key, [], "an array")
        return [Part(f"{self.path}.{key}[{at}]", one, chain) for at, one in enumerate(listed)]

    def map_of(self, key: str) -> "dict[str, Part]":
        """Return the subschemas that a keyword holds by name."""
        named = self._typed(key, {}, "an object")
        return {n: Part(f"{self.path}.{key}.{n[:MAX_NAME]}", one) for n, one in named.items()}

    def count_of(self, key: str) -> int:
        """Return the integer of a keyword, 0 where it is absent."""
        return self._typed(key, 0, "an integer")

    def numbers(self, keys: Iterable[str]) -> list[float]:
        """Return those values of keywords that are numbers."""
        values = (self.schema.get(key) for key in keys)
        return [value for value in values if type(value) in (int, float)]

    def required(self) -> list[str]:
        """Return the properties that an object must have."""
        names = self._typed("required", [], "an array of strings")
        if not all(isinstance(name, str) for name in names):
            self._refuse("must be an array of strings", "required")
        return names

    def items(self) -> "tuple[list[Part], Part]":
        """Return the schemas of the first items, and that of all others."""
        is_old = isinstance(self.schema.get("items"), list)
        if not is_old and "additionalItems" not in self.schema:
            return self.list_of("prefixItems"), self.sub("items")
        # Of keywords of old drafts beside newer ones the library would ignore a part.
        if "prefixItems" in self.schema:
            self._refuse("does not go with additionalItems", "prefixItems")
        if is_old:
            return self.list_of("items"), self.sub("additionalItems")
        return [], self.sub("items")

    def _typed(self, key: str, default: _Json, expected: str) -> _Json:
        value = self.schema.get(key, default)
        if type(value) is not type(default):
            self._refuse(f"must be {expected}", key)
        return value

    def _refuse(self, complaint: str, key: str = "") -> NoReturn:
        path = f"{self.path}.{key}" if key else self.path
        raise SchemaError(f"{path}: {complaint}")


def _is_exact(number: float) -> bool:
    """Return whether the library reads a number as it is."""
    if abs(number) >= _LARGEST:
        return False
    _, digits, exponent = Decimal(repr(number)).as_tuple()
    whole = int("".join(map(str, digits)))
    return int(float(whole)) == whole and abs(int(exponent)) <= _MAX_EXPONENT


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
