"""The shipped cases, and the errors for invalid case files."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from edged.cli import main
from edged_conformance.cases import Action, Case, Expected, Step, Wait
from edged_conformance.errors import CaseError, NotApplicableError
from edged_conformance.payload import Scope, build
from edged_conformance.read_cases import case_folder, read_file, read_folder
from edged_conformance.report import print_table, summary, write_junit
from edged_conformance.suite import Result
from tests.paths import ROOT

INFO = {"limits": {"queue": 8, "max_payload_bytes": 1000}, "operations": ["generate", "cancel"]}
SCOPE = Scope("edged", "kitchen", INFO, "c1", "2")
CASE = "section: Payload\ncases:\n  one: "


def read(folder: Path, text: str) -> list[Case]:
    path = folder / "theme.yaml"
    path.write_text(text)
    return read_file(path)


def without_names(case: Case) -> str:
    steps = [asdict(replace(step, label="")) for step in case.steps]
    return json.dumps([steps, case.order, sorted(case.versions)], sort_keys=True, default=str)


def test_at_least_150_distinct_cases_are_shipped() -> None:
    cases = read_folder(case_folder())
    contents = {without_names(case) for case in cases}
    assert len(contents) == len(cases) >= 150
    assert len({case.title for case in cases}) == len(cases)


def test_each_file_names_a_section_of_the_protocol() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    headings = set(re.findall(r"(?m)^##+ (.*)$", text))
    assert {case.section for case in read_folder(case_folder())} <= headings


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cases: [", "line 1"),
        ("- a", "expected keys and values"),
        ("cases: {}", "section: missing"),
        ("section: Payload", "cases: missing"),
        ("section: Payload\ncases: []", "cases: has the wrong type"),
        (CASE + "{ask: {}, ask: {}}", "line 3: the key 'ask' is repeated"),
        (CASE + "{akt: {}}", "cases.one: akt: unknown key"),
        (CASE + "{ask: {}, cancel: {}}", "cases.one: needs exactly one of ask, cancel"),
        (CASE + "{ask: []}", "cases.one: ask: has the wrong type"),
        (CASE + "{ask: {}, steps: []}", "cases.one: give either `steps`"),
        (CASE + "{steps: [{ask: {}}, {ask: {}, wait: long}]}", "cases.one.steps[1]: wait"),
        (CASE + "{steps: [{ask: {}, as: a}, {again: b}]}", "is `as: b`"),
        (CASE + "{steps: [{ask: {}, as: a}, {ask: {}, as: a}]}", "more than one"),
        (CASE + "{ask: {}, order: [b]}", "is `as: b`"),
        (CASE + "{ask: {}, expect: fine}", "cases.one: expect: 'fine' is none of"),
        (CASE + "{ask: {}, expect: []}", "cases.one: expect"),
        (CASE + "{ask: {}, refused: prompt, expect: ok}", "cases.one: refused"),
        (CASE + "{ask: {}, reply: {data.text: {rgex: a}}}", "cases.one.reply.data.text"),
        (CASE + "{ask: {}, reply: {data.text: {type: text}}}", "type: 'text' is none of"),
        (CASE + "{ask: {}, reply: {data.text: {}}}", "cases.one.reply.data.text"),
        (CASE + "{ask: {}, needs: {limits.queue: {min: 1}}}", "cases.one.needs.limits.queue"),
        (CASE + "{ask: {}, properties: {expiry: 1}}", "properties.expiry"),
        (CASE + "{send: {json: {}, text: a}}", "send: needs exactly one of json, text, base64"),
        (CASE + "{send: {base64: '?'}}", "send: not base64"),
        (CASE + "{read: log}", "read: must be one of info, state, availability"),
        (CASE + "{ask: {}, told: {event: dropped}}", "told: only together with `expect: silence`"),
        (CASE + "{ask: {}, retain: 'yes'}", "retain: has the wrong type"),
    ],
)
def test_an_invalid_file_is_refused_with_its_name_and_key(
    tmp_path: Path, text: str, named: str
) -> None:
    with pytest.raises(CaseError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "theme.yaml") in str(caught.value)
    assert named in str(caught.value)


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"gone\.yaml: cannot be read"):
        read_file(tmp_path / "gone.yaml")
    with pytest.raises(CaseError, match="no case"):
        read_folder(tmp_path)


def test_yaml_1_1_booleans_are_read_as_strings(tmp_path: Path) -> None:
    (case,) = read(tmp_path, CASE + "{ask: {a: [on, off, yes, no, true]}}")
    assert case.steps[0].body == {"a": ["on", "off", "yes", "no", True]}


def test_a_case_with_properties_is_for_mqtt_5_only(tmp_path: Path) -> None:
    def versions(text: str) -> tuple[str, ...]:
        return read(tmp_path, CASE + text)[0].versions

    assert versions("{ask: {}}") == ("5", "3.1.1")
    assert versions("{ask: {}, properties: {message_expiry: 3}}") == ("5",)
    assert versions('{ask: {}, reply: {"@content_type": a}}') == ("5",)
    assert versions("{ask: {}, properties: {correlation_data: null}}") == ("5", "3.1.1")
    assert versions("{ask: {}, versions: ['3.1.1']}") == ("3.1.1",)


def test_each_request_has_its_own_reply_topic() -> None:
    step = Step(Action.ASK, {}, "2")
    own = "edged/kitchen/response/generate/c1-2"
    over_5 = build(step, SCOPE, is_v5=True)
    assert over_5.properties["response_topic"] == over_5.reply_topic == own
    assert "response_topic" not in json.loads(over_5.payload)
    over_3 = build(step, SCOPE, is_v5=False)
    assert json.loads(over_3.payload)["response_topic"] == over_3.reply_topic == own
    assert over_3.request_id == json.loads(over_3.payload)["id"] == "c1-2"


def test_a_payload_that_cannot_name_a_topic_is_answered_at_the_default_one_over_3_1_1() -> None:
    message = build(Step(Action.SEND, {"text": "hello $id"}, "2"), SCOPE, is_v5=False)
    assert message.payload == b"hello c1-2"
    assert message.reply_topic == "edged/kitchen/response/generate"


def test_a_payload_is_padded_to_a_size_from_info() -> None:
    step = Step(Action.ASK, {}, "2", pad_to="$info.limits.max_payload_bytes + 1")
    payload = build(step, SCOPE, is_v5=True).payload
    assert len(payload) == 1001
    assert json.loads(payload)["id"] == "c1-2"


def test_dollar_variables_are_replaced_at_any_depth() -> None:
    given = {"$node": ["$root/$id:a", "$info.limits.queue * 2", "$SYS/x", 7, "$prefix"]}
    assert SCOPE.fill(given) == {"kitchen": ["edged/kitchen/c1-a", 16, "$SYS/x", 7, "edged"]}
    assert SCOPE.fill({"$repeat": "ab", "times": "$info.limits.queue"}) == "ab" * 8
    assert SCOPE.of("unblock", None, 3).fill("$id:b-$number") == "c1-b-3"


def test_a_member_that_info_lacks_makes_a_case_not_applicable() -> None:
    with pytest.raises(NotApplicableError, match=r"limits\.sessions"):
        SCOPE.fill("$info.limits.sessions")


def test_correlation_data_may_be_any_bytes_or_none() -> None:
    given = {"correlation_data": {"base64": "AP8="}, "user": {"a": "b"}}
    message = build(Step(Action.CANCEL, {}, "2", properties=given), SCOPE, is_v5=True)
    assert message.properties["correlation_data"] == b"\x00\xff"
    assert message.properties["user"] == [("a", "b")]
    none = Step(Action.CANCEL, {}, "2", properties={"correlation_data": None})
    assert "correlation_data" not in build(none, SCOPE, is_v5=True).properties


def results() -> list[Result]:
    case = Case(
        "theme", "one", (Step(Action.ASK, {}, "1", Expected(), wait=Wait.REPLY),), "Payload"
    )
    other = replace(case, name="five", versions=("5",))
    return [
        Result(case, "3.1.1", duration_s=0.5),
        Result(replace(case, name="two"), "3.1.1", ["a: expected \x01", "b"]),
        Result(replace(case, name="three"), "3.1.1", not_applicable="info: no"),
        Result(other, "3.1.1", not_applicable="only for MQTT 5"),
    ]


def test_the_table_shows_failures_and_why_a_case_does_not_apply(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(results(), "heading")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        "heading",
        "theme",
        "passed one 500 ms",
        "FAILED two 0 ms",
        "a: expected \x01",
        "b",
        "n/a three info: no",
        "n/a 1 cases are for another version of MQTT",
    ]
    assert summary(results()) == "1 passed, 1 failed, 2 not applicable in 0.5 s"


def test_a_junit_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    assert main(["conformance", "--case", "no such case", "--broker", "mqtt://localhost"]) == 64
    with pytest.raises(Exception, match="--junit: cannot be written"):
        write_junit(results(), tmp_path / "no" / "such.xml")


def test_the_cases_can_be_listed_without_a_broker(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "--list", "--case", "refused_values*seed*"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert "refused_values: seed is negative" in listed
    assert all("seed" in line for line in listed)


def test_json_that_is_not_an_object_is_sent_unchanged() -> None:
    message = build(Step(Action.SEND, {"json": ["$id"]}, "2"), SCOPE, is_v5=True)
    assert message.payload == b'["c1-2"]'


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--timeout", "0", "--node", "x"],
        ["--broker", "x", "--node", "x"],
        ["--node", "x", "--password-file", "/nowhere"],
        ["--node", "#"],
        ["--node", "x", "--prefix", "edged/"],
        ["--node", "x", "--prefix", "$share"],
    ],
)
def test_a_wrong_option_is_refused(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGED_NODE", raising=False)
    assert main(["conformance", *options]) == 64
