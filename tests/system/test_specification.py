"""``docs/schemas`` and ``docs/asyncapi.yaml`` are current, and true to ``docs/protocol.md``."""

import json
import re
from typing import Any

import pytest
import yaml

from edged_conformance.cases import SILENCE, Action, Case
from edged_conformance.payload import Scope, build
from edged_conformance.read_cases import case_folder, read_folder
from scripts.specification.files import schemas, specification_files
from tests.paths import ROOT
from tests.schemas import problems, require_jsonschema, strict

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")
SCHEMAS = schemas()
ASYNCAPI: dict[str, Any] = yaml.safe_load(specification_files()["asyncapi.yaml"])
INFO = {
    "limits": {
        "queue": 8,
        "slots": 4,
        "max_tokens": 128,
        "max_payload_bytes": 16384,
        "max_timeout_ms": 300_000,
    },
    "model": {"max_model_len": 2048, "id": "tiny"},
    "specialists": [{"name": "washer", "kind": "label"}],
}
# What JSON Schema cannot say, or says of a payload that is none; everything else it must refuse.
BEYOND_SCHEMA = (
    "the last message is not the user's",
    "a system text beside a system message",
    "the schema has an unknown type",
    "a node that holds none says so",
    "a specialist that is not installed",
    "without any specialist there is none to choose",
    "a specialist and no stream",
    "a specialist in a question that is not installed",
)
GOLDEN = (
    *("reply-answer", "reply-session", "reply-cancel", "reply-queue-full", "reply-timeout"),
    *("reply-choice", "reply-choice-cut", "reply-correct", "reply-scored", "reply-questions"),
    *("fragment", "fragment-done"),
)
CASES = [
    case
    for case in read_folder(case_folder())
    if len(case.steps) == 1
    and case.steps[0].action in (Action.ASK, Action.CANCEL)
    and case.steps[0].operation in ("generate", "cancel")
    and not case.steps[0].properties
    and case.has_account is not True  # what a reply topic of theirs may be, no schema says
    and SILENCE not in case.steps[0].expected.outcomes
]


def test_the_files_in_docs_are_what_the_declarations_say() -> None:
    for name, text in specification_files().items():
        assert (ROOT / "docs" / name).read_text("utf-8") == text, "run scripts/make-specification"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_a_schema(name: str) -> None:
    require_jsonschema()
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - not in a base install

    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_message_satisfies_its_schema(name: str) -> None:
    path = ROOT / "tests" / "data" / "messages" / f"{name}.json"
    message = json.loads(json.loads(path.read_text("utf-8"))["payload"])
    assert problems(message, strict(SCHEMAS[name.partition("-")[0]])) == []


@pytest.mark.parametrize("data", [{"choice": None}, {"choice": -1}, {"choice": "yes"}])
def test_a_choice_that_is_none_has_no_words_by_the_schema(data: dict[str, Any]) -> None:
    path = ROOT / "tests" / "data" / "messages" / "reply-choice.json"
    message = json.loads(json.loads(path.read_text("utf-8"))["payload"])
    assert problems(message, SCHEMAS["reply"]) == []
    message["data"] |= data
    assert problems(message, SCHEMAS["reply"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_schema_of_requests_and_the_conformance_cases_agree(case: Case) -> None:
    step = case.steps[0]
    message = build(step, Scope("edged", "kitchen", INFO, "c1", "1"), is_v5=True)
    found = problems(json.loads(message.payload), SCHEMAS[step.operation])
    is_refused = step.expected.outcomes == ("bad_request",) and case.name not in BEYOND_SCHEMA
    assert bool(found) == is_refused, found


@pytest.mark.parametrize("name", ["format", "messages", "stop"])
def test_a_key_that_is_left_out_and_one_that_is_null_are_the_same(name: str) -> None:
    assert problems({"prompt": "x", name: None}, SCHEMAS["generate"]) == []


def test_the_schema_of_requests_has_the_keys_of_the_protocol_in_its_order_and_words() -> None:
    table = PROTOCOL[PROTOCOL.index("| key | type |") : PROTOCOL.index("Text must not contain NUL")]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines()[2:] if line]
    documented = {row[0].strip("| `"): row[3].rstrip(" |").split(", see [")[0] for row in rows}
    properties = SCHEMAS["generate"]["properties"]
    assert list(properties) == list(documented)
    assert {key: value["description"] for key, value in properties.items()} == documented


def test_the_bounds_in_the_protocol_are_those_of_the_schema() -> None:
    for key, schema in SCHEMAS["generate"]["properties"].items():
        if "minimum" in schema:
            row = re.search(rf"(?m)^\| `{key}` \| \w+, ([0-9.]+)\W([0-9.]+) \|", PROTOCOL)
            assert row is not None, key
            bounds = [json.loads(row[1]), json.loads(row[2])]
            assert bounds == [schema["minimum"], schema["maximum"]]


def test_the_schema_of_replies_has_the_members_of_the_protocol() -> None:
    table = PROTOCOL[PROTOCOL.index("| member | type | present") :].partition("\n\n")[0]
    documented = re.findall(r"(?m)^\| `(\w+)` \|", table)
    assert list(SCHEMAS["reply"]["properties"]) == documented


def test_the_schema_of_state_has_the_members_of_the_protocol() -> None:
    table = PROTOCOL[PROTOCOL.index("`state`:\n\n| member") :].split("\n\n")[1]
    names = re.findall(r"(?m)^\| (`[^|]*) \|", table)
    documented = [name for cell in names for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(SCHEMAS["state"]["properties"]) == sorted([*documented, "v", "node"])


@pytest.mark.parametrize("text", re.findall(r"(?s)```json\n(.*?)```", PROTOCOL))
def test_an_example_of_the_protocol_satisfies_the_schema_of_its_kind(text: str) -> None:
    told = json.loads(text)
    marks = {"delta": "fragment", "event": "event", "operations": "info", "uptime_s": "state"}
    marks |= {"answer": "correct", "inputs": "generate"}
    kinds = [kind for mark, kind in marks.items() if mark in told] or ["reply"]
    assert problems(told, strict(SCHEMAS[kinds[0]])) == []


def test_the_schema_of_errors_has_the_codes_of_the_protocol() -> None:
    table = PROTOCOL[PROTOCOL.index("| code | status | retryable") :].partition("\n\n")[0]
    documented = re.findall(r"(?m)^\| `(\w+)` \| (\d+) \| (yes|no)", table)
    kinds = [kind["properties"] for kind in SCHEMAS["reply"]["properties"]["error"]["oneOf"]]
    assert documented == [
        (
            kind["code"]["const"],
            str(kind["status"]["const"]),
            "yes" if kind["retryable"]["const"] else "no",
        )
        for kind in kinds
    ]


def test_the_schema_of_events_has_the_kinds_of_the_protocol() -> None:
    table = PROTOCOL[PROTOCOL.index("| event | members | when |") :].partition("\n\n")[0]
    documented = {
        kind: re.findall(r"`(\w+)`", members)
        for kind, members in re.findall(r"(?m)^\| `(\w+)` \|([^|]*)\|", table)
    }
    assert {kind["title"]: kind["required"] for kind in SCHEMAS["event"]["oneOf"]} == documented


def references(value: object) -> list[str]:
    """Return every ``$ref`` of a document."""
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [ref for item in value.values() for ref in references(item)]
    if isinstance(value, list):
        return [ref for item in value for ref in references(item)]
    return []


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    found = references(ASYNCAPI)
    assert len(found) > 20
    for reference in found:
        if reference.startswith("./"):
            assert reference[2:] in specification_files()
            continue
        value: Any = ASYNCAPI
        for part in reference.removeprefix("#/").split("/"):
            value = value[part]


def test_the_asyncapi_document_has_the_parts_that_asyncapi_3_asks_for() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= ASYNCAPI["info"].keys()
    for server in ASYNCAPI["servers"].values():
        assert {"host", "protocol"} <= server.keys()
    for channel in ASYNCAPI["channels"].values():
        named = set(re.findall(r"\{(\w+)\}", channel["address"]))
        assert named == set(channel["parameters"])
        assert channel["messages"]
    for operation in ASYNCAPI["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in ASYNCAPI["channels"]
        assert operation["bindings"]["mqtt"]["qos"] in (0, 1)
    for message in ASYNCAPI["components"]["messages"].values():
        assert message["contentType"] in ("application/json", "text/plain")
        assert message["payload"]


def test_the_asyncapi_document_has_the_topics_of_the_protocol() -> None:
    tables = PROTOCOL[PROTOCOL.index("| topic | direction") : PROTOCOL.index("### Accounts")]
    documented = {
        (topic.replace("<", "{").replace(">", "}"), is_in == "to")
        for topic, is_in in re.findall(
            r"(?m)^\| `(edged/[^`]*)` \| (to|from) (?:the|one) node", tables
        )
        if "<client>" not in topic  # a recommendation of the same channel's kind
    }
    channels = ASYNCAPI["channels"]
    receiving = {
        operation["channel"]["$ref"]
        for operation in ASYNCAPI["operations"].values()
        if operation["action"] == "receive"
    }
    assert documented == {
        (channel["address"], f"#/channels/{name}" in receiving)
        for name, channel in channels.items()
    }
