"""The shape of answers: ``services.json``, and whether an answer has it."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent.parent / "services.json"
_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
}


@cache
def services() -> dict[str, dict[str, Any]]:
    """Return the parameters of each service, a JSON schema, by its name."""
    functions = json.loads(FILE.read_text("utf-8"))
    return {f["function"]["name"]: f["function"]["parameters"] for f in functions}


def schema() -> dict[str, Any]:
    """Return the schema of what is taught: commands that a node makes calls of services of."""
    return {"x-home": json.loads(FILE.read_text("utf-8"))}


def faults(answer: Mapping[str, Any], inputs: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with an answer for a home."""
    actions = answer["actions"]
    if bool(actions) == ("reason" in answer) or answer.get("reason", "none") not in (
        "none",
        "ambiguous",
    ):
        yield "a reason is there where there are no actions, and only then"
    ids = {device["id"] for device in inputs["devices"]}
    for action in actions:
        service, targets = action["service"], action["target"]
        if service not in services():
            yield f"{service}: no such service"
            continue
        if not targets or len({*targets}) != len(targets) or not {*targets} <= ids:
            yield f"{service}: {targets} are not devices of the home, each once"
        domain = service.split(".")[0]
        if any(target.split(".")[0] != domain for target in targets):
            yield f"{service}: {targets} are not all of {domain}"
        yield from (f"{service}: {fault}" for fault in _data_faults(service, action["data"]))


def _data_faults(service: str, data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the data of an action."""
    parameters = services()[service]
    for name in parameters["required"]:
        if name not in data:
            yield f"{name} is missing"
    for name, value in data.items():
        if name not in parameters["properties"]:
            yield f"{name}: no such field"
        elif not _is_valid(value, parameters["properties"][name]):
            yield f"{name}: {value!r} is out of range"


def _is_valid(value: object, schema: Mapping[str, Any]) -> bool:
    """Tell whether a value is what its schema says."""
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or isinstance(value, bool) != (kind == "boolean"):
        return False
    if isinstance(value, str):
        least, most = schema.get("minLength", 0), schema.get("maxLength", len(value))
        return value in schema.get("enum", (value,)) and least <= len(value) <= most
    if isinstance(value, int | float):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True
