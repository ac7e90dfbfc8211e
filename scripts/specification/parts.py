"""Parts of schemas, and the docstrings of declarations."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any, get_type_hints

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
BOOLEAN: Schema = {"type": "boolean"}
STRING: Schema = {"type": "string"}
_JSON_TYPES: dict[object, Schema] = {
    int: COUNT,
    float: NUMBER,
    bool: BOOLEAN,
    str: STRING,
    dict[str, int]: {"type": "object", "additionalProperties": COUNT},
}


def described(schema: Schema, description: str) -> Schema:
    """Return a schema with a description, which comes first."""
    return {"description": description, **schema}


def nullable(schema: Schema) -> Schema:
    """Return a schema that accepts null, too."""
    changed = dict(schema)
    if "enum" in schema:
        changed["enum"] = [*schema["enum"], None]
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        changed["type"] = [*kinds, "null"]
    return changed


def members(properties: Mapping[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """Return an object schema; a reader must ignore further members."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def document(name: str, title: str, description: str, schema: Schema) -> Schema:
    """Return a complete JSON Schema document."""
    head = {"$schema": DIALECT, "$id": f"urn:edged:v1:{name}", "title": title}
    return head | {"description": description} | schema


def docs_of(declaration: type) -> dict[str, str]:
    """Return the docstring of each attribute of a class, by the attribute's name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(declaration)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found: dict[str, str] = {}
    name = ""
    for node in body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                pass
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                found[name] = plain(text)
    return found


def fields_of(declaration: type) -> dict[str, Schema]:
    """Return a schema for each field of a dataclass, by its type and its docstring."""
    docs, hints = docs_of(declaration), get_type_hints(declaration)
    properties = {}
    for item in fields(declaration):
        hint = hints[item.name]
        is_enum = isinstance(hint, type) and issubclass(hint, StrEnum)
        schema = {"enum": [str(word) for word in hint]} if is_enum else _JSON_TYPES[hint]
        doc = docs.get(item.name)
        properties[item.name] = described(schema, doc) if doc else schema
    return properties


def plain(text: str) -> str:
    """Return a docstring on one line, with Markdown's quotes instead of Sphinx's."""
    return " ".join(text.split()).replace("``", "`")
