"""Read cases from YAML files, strictly: an unknown or repeated key is an error with its place."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edged_conformance.cases import SILENCE, Action, Case, Client, Expected, Step, Wait
from edged_conformance.errors import CaseError
from edged_conformance.matchers import check_matcher
from edged_conformance.rules import ERRORS
from edged_conformance.strict_yaml import load_strictly

_FILE_KEYS = {"section": str, "account": bool, "templates": list, "cases": dict}
_CASE_KEYS = {
    "needs": dict,
    "versions": list,
    "account": bool,
    "order": list,
    "at_least": dict,
    "steps": list,
}
_STEP_KEYS: dict[str, Any] = {
    **{str(action): object for action in Action},
    "as": str,
    "expect": str | list,
    "refused": str,
    "names": str,
    "reply": dict,
    "when": dict,
    "told": dict,
    "to": str,
    "properties": dict,
    "default_topic": bool,
    "id": str,
    "pad_to": str | int,
    "retain": bool,
    "qos": int,
    "wait": str,
    "times": str | int,
    "by": str,
}
_PROPERTIES = frozenset(
    {"response_topic", "correlation_data", "content_type"}
    | {"payload_format", "message_expiry", "user"}
)
_V5_PATHS = ("@correlation_data", "@content_type", "@payload_format", "@message_expiry", "@user")
_BODIES: dict[Action, Any] = {
    Action.ASK: dict,
    Action.CANCEL: dict,
    Action.SEND: dict,
    Action.AGAIN: str,
    Action.READ: str,
}
_DOCUMENTS = ("info", "state", "availability")
_PAYLOADS = ("json", "text", "base64")


def case_folder() -> Path:
    """Return the folder of the shipped cases: in the wheel, else in the checkout."""
    shipped = Path(__file__).with_name("cases")
    return shipped if shipped.is_dir() else Path(__file__).parents[1] / "cases"


def read_folder(folder: Path) -> list[Case]:
    """Read every ``*.yaml`` in a folder, in the order of their names.

    Raises:
        CaseError: A file is invalid, or there is none.
    """
    cases = [case for path in sorted(folder.glob("*.yaml")) for case in read_file(path)]
    if not cases:
        raise CaseError(f"{folder}: no case in a *.yaml file here")
    return cases


def read_file(path: Path) -> list[Case]:
    """Read one file.

    Raises:
        CaseError: It cannot be read, is not YAML, or a key is unknown, repeated or wrong.
    """
    document = load_strictly(path)
    place = str(path)
    _check_keys(document, _FILE_KEYS, place)
    for key in ("section", "cases"):
        if key not in document:
            raise CaseError(f"{place}: {key}: missing")
    return [
        _case(path.stem, str(name), document, given, f"{place}: cases.{name}")
        for name, given in document["cases"].items()
    ]


def _check_keys(given: object, known: Mapping[str, Any], place: str) -> None:
    if not isinstance(given, dict):
        raise CaseError(f"{place}: expected keys and values")
    for key, value in given.items():
        if key not in known:
            raise CaseError(f"{place}: {key}: unknown key; known are {', '.join(known)}")
        if not isinstance(value, known[key]):
            raise CaseError(f"{place}: {key}: has the wrong type")


def _case(theme: str, name: str, document: Mapping[str, Any], given: object, place: str) -> Case:
    _check_keys(given, _CASE_KEYS | _STEP_KEYS, place)
    assert isinstance(given, dict)
    own = {key: given[key] for key in _CASE_KEYS if key in given}
    only = {key: value for key, value in given.items() if key not in _CASE_KEYS}
    if bool(only) == ("steps" in own):
        raise CaseError(f"{place}: give either `steps` or the keys of a single step")
    listed = own.get("steps") or [only]
    steps = tuple(
        _step(step, f"{place}.steps[{i}]" if "steps" in own else place, str(i + 1))
        for i, step in enumerate(listed)
    )
    for path, matcher in own.get("needs", {}).items():
        _check_matcher(matcher, f"{place}.needs.{path}")
    _check_labels(steps, own.get("order", []), place)
    versions = tuple(map(str, own.get("versions", ["5"] if _uses_v5(steps) else ["5", "3.1.1"])))
    return Case(
        theme,
        name,
        steps,
        document["section"],
        own.get("needs", {}),
        versions,
        tuple(own.get("order", [])),
        own.get("at_least", {}),
        own.get("account", document.get("account")),
    )


def _uses_v5(steps: Sequence[Step]) -> bool:
    """Return whether a case needs properties; omitting Correlation Data does not count."""
    return any(
        any(value is not None for value in step.properties.values())
        or any(path.startswith(_V5_PATHS) for path in step.expected.reply)
        for step in steps
    )


def _check_labels(steps: Sequence[Step], order: Sequence[str], place: str) -> None:
    labels = [step.label for step in steps]
    named = [*order, *(step.body for step in steps if step.action is Action.AGAIN)]
    known = {*labels, *(f"{s.label}-{n}" for s in steps if s.times != 1 for n in range(1, 10))}
    wrong = next((label for label in named if label not in known), None)
    if wrong is not None or len(set(labels)) != len(labels):
        raise CaseError(f"{place}: no step, or more than one, is `as: {wrong or labels}`")


def _step(given: object, place: str, label: str) -> Step:
    _check_keys(given, _STEP_KEYS, place)
    assert isinstance(given, dict)
    actions = [action for action in Action if action in given]
    if len(actions) != 1:
        raise CaseError(f"{place}: needs exactly one of {', '.join(Action)}")
    action = actions[0]
    body = given[action]
    _check_body(action, body, f"{place}: {action}")
    unknown = set(given.get("properties", {})) - _PROPERTIES
    if unknown:
        raise CaseError(f"{place}: properties.{min(unknown)}: known are {sorted(_PROPERTIES)}")
    if given.get("wait", "reply") not in set(Wait):
        raise CaseError(f"{place}: wait: must be one of {', '.join(Wait)}")
    if given.get("by", "self") not in set(Client):
        raise CaseError(f"{place}: by: must be one of {', '.join(Client)}")
    default = "cancel" if action is Action.CANCEL else "generate"
    return Step(
        action,
        body,
        given.get("as", label),
        _expected(given, place),
        given.get("to", default),
        given.get("properties", {}),
        given.get("default_topic", False),
        given.get("id"),
        given.get("pad_to"),
        given.get("retain", False),
        given.get("qos", 1),
        Wait(given.get("wait", "reply")),
        given.get("times", 1),
        Client(given.get("by", "self")),
    )


def _check_body(action: Action, body: object, place: str) -> None:
    if not isinstance(body, _BODIES[action]):
        raise CaseError(f"{place}: has the wrong type")
    if action is Action.READ and body not in _DOCUMENTS:
        raise CaseError(f"{place}: must be one of {', '.join(_DOCUMENTS)}")
    if action is Action.SEND and (len(body) != 1 or not set(body) <= set(_PAYLOADS)):
        raise CaseError(f"{place}: needs exactly one of {', '.join(_PAYLOADS)}")
    if action is Action.SEND and "base64" in body:
        try:
            base64.b64decode(body["base64"], validate=True)
        except ValueError as error:
            raise CaseError(f"{place}: not base64: {error}") from error


def _expected(given: Mapping[str, Any], place: str) -> Expected:
    if "refused" in given and ("expect" in given or "names" in given):
        raise CaseError(f"{place}: refused: means `expect: bad_request` with `names`; drop those")
    outcomes = given.get("expect", "bad_request" if "refused" in given else "ok")
    outcomes = (outcomes,) if isinstance(outcomes, str) else tuple(outcomes)
    known = {"ok", SILENCE, *ERRORS}
    wrong = next((outcome for outcome in outcomes if outcome not in known), None)
    if wrong is not None or not outcomes:
        raise CaseError(f"{place}: expect: {wrong!r} is none of {', '.join(sorted(known))}")
    when = given.get("when", {})
    for key, matchers in {"reply": given.get("reply", {}), **when}.items():
        for path, matcher in matchers.items():
            _check_matcher(matcher, f"{place}.{key}.{path}")
    if given.get("told") is not None and outcomes != (SILENCE,):
        raise CaseError(
            f"{place}: told: only together with `expect: silence`, which can be repeated"
        )
    names = given.get("refused", given.get("names"))
    return Expected(outcomes, names, given.get("reply", {}), when, given.get("told"))


def _check_matcher(matcher: object, place: str) -> None:
    problem = check_matcher(matcher)
    if problem is not None:
        raise CaseError(f"{place}: {problem}")
