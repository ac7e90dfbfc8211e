"""Hold messages against JSON Schema; ``jsonschema`` is imported when it is first needed."""

from importlib.util import find_spec
from typing import Any

from tests.requirements import require


def require_jsonschema() -> None:
    require(find_spec("jsonschema"), "jsonschema is not installed (the extra `dev`)")


def problems(message: object, schema: dict[str, Any]) -> list[str]:
    """Return what the schema says against a message."""
    require_jsonschema()
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - not in a base install

    errors = Draft202012Validator(schema).iter_errors(message)
    return [f"{error.json_path}: {error.message}" for error in errors]


def strict(schema: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """Return the same schema, but with no members beyond the declared ones.

    Whoever reads a message must ignore members it does not know; a test of what edged itself sends
    must not.
    """
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        changed["unevaluatedProperties"] = False
    return changed
