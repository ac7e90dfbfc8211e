"""``docs/exchanges.md``: what a node answers, one exchange for each code and kind of event."""

import re
from pathlib import Path

from edged.errors import ErrorCode
from edged.messages.event import Event
from tests.exchanges import CODES, page

DOCUMENT = Path(__file__).parents[1] / "docs" / "exchanges.md"


def test_the_page_is_what_a_node_answers() -> None:
    assert page() == DOCUMENT.read_text(), "run: python -m tests.exchanges > docs/exchanges.md"


def test_each_code_that_a_reply_may_have_is_there_with_its_own_reply() -> None:
    never_sent = {ErrorCode.FORBIDDEN_TOPIC, ErrorCode.LOADING}
    assert set(CODES) == {code.value for code in ErrorCode if code not in never_sent}
    for code in CODES:
        section = DOCUMENT.read_text().split(f"\n`{code}`:\n")[1].partition("```\n")[0]
        codes = re.findall(r'"error": {"code": "(\w+)"', section)
        assert codes == [code]


def test_each_kind_of_event_is_there() -> None:
    told = set(re.findall(r'"event": "(\w+)"', DOCUMENT.read_text()))
    assert told == {kind.kind for kind in Event.__args__}
