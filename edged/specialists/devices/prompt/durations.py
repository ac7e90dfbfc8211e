"""How long a timer is to run, as a prompt says it: a model writes "00:09:00" for 90 seconds."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from edged.specialists.devices.command import Command
from edged.specialists.hearing import number_words

_FIELD = "duration"
_FORM = re.compile(r"\d\d:\d\d:\d\d")
_NUMBERS = {number_words(number): float(number) for number in range(1, 100)}
_WORDS = "|".join(sorted(_NUMBERS, key=len, reverse=True)).replace(" ", "[ -]")
_NUMBERS |= {"half": 0.5, "a": 1.0, "an": 1.0}
_SHARES = {"half": 0.5, "quarter of": 0.25, "three quarters of": 0.75}
_SECONDS = {"hour": 3600, "hr": 3600, "minute": 60, "min": 60, "second": 1, "sec": 1}
# "Hang on a minute" is none.
_ONE = r"(?<!\bon )(?<!\bwait )(?<!\bjust )(?<!\bme )(?<!\bgot )an?"
_PART = re.compile(
    # "One hundred and twenty" is more than 20.
    r"(?<![\w.,:/-])(?<!hundred )(?<!hundred and )(?<!point )(?<!\bin )"
    rf"(?:(?P<share>{'|'.join(_SHARES)}) an?"
    rf"|(?P<number>\d{{1,3}}(?:\.\d)?|half|{_ONE}|{_WORDS})(?P<half> and a half)?)"
    rf"[ -]?(?P<unit>{'|'.join(_SECONDS)})s?\b(?P<half_more> and a half\b)?"
)
_BETWEEN = re.compile(r",?(?: and)? ?")
_LONGEST = 100 * 3600


def with_durations(commands: Sequence[Command], prompt: str) -> list[Command]:
    """Return commands, the one that has a duration with that of the prompt, if it says just one."""
    timers = [one for one in commands if _FORM.fullmatch(str(one.data.get(_FIELD, "")))]
    said = [*_said(prompt.lower())] if len(timers) == 1 else []
    if len(said) != 1 or not 1 <= said[0] < _LONGEST:
        return [*commands]
    minutes, seconds = divmod(round(said[0]), 60)
    text = f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    return [
        replace(one, data={**one.data, _FIELD: text}) if one in timers else one for one in commands
    ]


def _said(text: str) -> Iterator[float]:
    """Yield each duration in a text in seconds: "an hour and ten minutes" is one."""
    seconds, end, unit = 0.0, 0, 0
    for part in _PART.finditer(text):
        of_one = _SECONDS[part["unit"]]
        goes_on = of_one < unit and _BETWEEN.fullmatch(text, end, part.start())
        if seconds and not goes_on:
            yield seconds
            seconds = 0.0
        seconds += of_one * _number(part)
        end, unit = part.end(), of_one
    if seconds:
        yield seconds


def _number(part: re.Match[str]) -> float:
    if part["share"]:
        return _SHARES[part["share"]]
    said = part["number"].replace("-", " ")
    number = _NUMBERS[said] if said in _NUMBERS else float(said)
    return number + 0.5 * bool(part["half"]) + 0.5 * bool(part["half_more"])
