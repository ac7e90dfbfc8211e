"""Text of others on a terminal: shown, and never carried out."""

import json

import pytest

from edged.commands.received import decode_reply
from edged.commands.terminal import shown, shown_json

ATTACKS = ("\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "\r", "\x08", "\u202e", "\ud800")


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_terminal_would_carry_out_is_replaced(attack: str) -> None:
    found = shown(f"a{attack}b")
    assert found[0] + found[-1] == "ab"
    assert not set(attack) & set(found) - set("]0;title[2J")
    found.encode()


@pytest.mark.parametrize("attack", ATTACKS)
def test_in_json_it_is_escaped_and_nothing_is_lost(attack: str) -> None:
    text = shown_json({"a": attack}, indent=2)
    assert shown(text) == text
    assert json.loads(text) == {"a": attack}


def test_letters_of_all_languages_tabs_and_line_breaks_stay() -> None:
    text = "Küche\t\u5bb6\n\U0001f600 \u05e9"
    assert shown(text) == text
    assert shown_json(text) == json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize("wait_ms", ["1" + "0" * 400, "1e400", "true", '"5"', "-1e300"])
def test_a_time_to_wait_that_is_none_is_left_out(wait_ms: str) -> None:
    payload = f'{{"status": "error", "error": {{"code": "x", "retry_after_ms": {wait_ms}}}}}'
    reply = decode_reply(payload.encode())
    assert reply is not None
    assert reply.retry_after_s is None
