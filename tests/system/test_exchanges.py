"""``docs/exchanges.md``: what a node answers, one exchange for each code and kind of event."""

import re

from edged.errors import ErrorCode
from edged.protocol.event import Event
from tests.exchanges import CODES, page
from tests.paths import ROOT

DOCUMENT = ROOT / "docs" / "exchanges.md"
PROTOCOL = DOCUMENT.with_name("protocol.md")


def test_the_page_is_what_a_node_answers() -> None:
    assert page() == DOCUMENT.read_text(), "run: python -m tests.exchanges > docs/exchanges.md"


def test_each_code_that_a_reply_may_have_is_there_with_its_own_reply() -> None:
    never_sent = {ErrorCode.LOADING}
    assert set(CODES) == {code.value for code in ErrorCode if code not in never_sent}
    for code in CODES:
        section = DOCUMENT.read_text().split(f"\n`{code}`:\n")[1].partition("```\n")[0]
        codes = re.findall(r'"error": {"code": "(\w+)"', section)
        assert codes == [code]


def test_each_kind_of_event_is_there() -> None:
    told = set(re.findall(r'"event": "(\w+)"', DOCUMENT.read_text()))
    assert told == {kind.kind for kind in Event.__subclasses__()}


def test_each_topic_of_the_protocol_is_there() -> None:
    rows = re.findall(r"^\| `([^`]+/[^`]+)` \|", PROTOCOL.read_text(), re.MULTILINE)
    shown_there = {"edged/<node>/info", "edged/<node>/state"}
    names = {
        "<node>": "kitchen",
        "<group>": "heating",
        "<id>": "s1",
        "<client>": "[^/]+",
        "<user>": "me",
    }
    page_text = DOCUMENT.read_text()
    assert len(rows) > len(shown_there)
    for row in sorted(set(rows) - shown_there):
        pattern = row.replace("edged_<node>", "edged_kitchen")
        for name, value in names.items():
            pattern = pattern.replace(name, value)
        assert re.search(rf"^[→←] {pattern}$", page_text, re.MULTILINE), row
