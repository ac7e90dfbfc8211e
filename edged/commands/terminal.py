"""Text of others, printed so that a terminal shows it and does nothing else.

An answer or a state may hold what moves the cursor, renames the window or fills the clipboard.
"""

import json
import re

# Control characters but tab and line break, half surrogates, and what turns the direction of text.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def shown(text: str) -> str:
    """Return a text without what a terminal would act on."""
    return _UNPRINTABLE.sub(_REPLACEMENT, text)


def shown_json(value: object, *, indent: int | None = None) -> str:
    """Return the JSON of a value, with the same characters escaped: nothing is lost."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
