"""A reader of EMQX's ``acl.conf``: the forms that our rules use, decided as EMQX 5.8 decides them.

No test runs EMQX. Its page "Use ACL File" has the format; which rule is taken, how ``${username}``
is filled in and how a subscription is compared follow its ``emqx_authz_rule.erl`` and
``emqx_topic.erl``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r'\s+|%[^\n]*|(?P<text>"(?:[^"\\]|\\.)*")|(?P<atom>[a-z]\w*)|(?P<sign>[{}\[\],.])'
)
_CLOSING = {"{": "}", "[": "]"}
_ACTIONS = ("publish", "subscribe", "all")


class Atom(str):
    """An Erlang atom, such as ``allow``; Erlang's strings are plain ``str``."""

    __slots__ = ()


@dataclass(frozen=True)
class Rule:
    """One rule of the file."""

    is_allowed: bool
    who: object
    action: str
    filters: tuple[str, ...]

    def is_of(self, user: str) -> bool:
        """Whether the rule is for an account.

        Raises:
            ValueError: If it is for others than the reader knows.
        """
        match self.who:
            case Atom("all"):
                return True
            case (Atom("username"), (Atom("re"), str(expression))):
                return re.search(expression, user) is not None
            case (Atom("username"), str(name)):
                return user == name
        raise ValueError(f"{self.who!r}: unknown here")


class Rights:
    """What the rules allow one account, with ``no_match = deny``."""

    def __init__(self, rules: list[Rule], user: str) -> None:
        # The name is put in before a filter is read: a wildcard in a name is one.
        self._rules = [
            (rule, [text.replace("${username}", user).split("/") for text in rule.filters])
            for rule in rules
            if rule.is_of(user)
        ]

    def has(self, action: str, topic: str) -> bool:
        """Whether the first rule that concerns it allows it; ``topic`` may be a subscription."""
        levels = topic.split("/")
        for rule, filters in self._rules:
            if rule.action in ("all", action) and any(_matches(levels, each) for each in filters):
                return rule.is_allowed
        return False


def read_rules(text: str) -> list[Rule]:
    """Read the file.

    Raises:
        ValueError: If it has anything that is not known here.
    """
    words, rules = _words(text), []
    for word in words:
        members, stop = _term(word, words), next(words, "")
        match members, stop:
            case (Atom("allow" | "deny") as permission, who, Atom(action), list(filters)), ".":
                rule = Rule(permission == "allow", who, action, tuple(map(str, filters)))
            case _:
                raise ValueError(f"{members!r} {stop}: not a rule")
        rule.is_of("")
        if action not in _ACTIONS:
            raise ValueError(f"{action}: not an action")
        rules.append(rule)
    return rules


def _words(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(f"not a term: {text[position : position + 40]!r}")
        position = found.end()
        if found.lastgroup is not None:
            yield found[0]


def _term(word: str, words: Iterator[str]) -> object:
    """Read the term that begins with ``word``."""
    if word[0] == '"':
        return re.sub(r"\\(.)", r"\1", word[1:-1])
    if word[0].isalpha():
        return Atom(word)
    if word not in _CLOSING:
        raise ValueError(f"a term cannot begin with {word}")
    members, sign = [], ","
    while sign == ",":
        members.append(_term(next(words, ""), words))
        sign = next(words, "")
    if sign != _CLOSING[word]:
        raise ValueError(f"{word} is not closed by {sign}")
    return members if word == "[" else tuple(members)


def _matches(levels: list[str], filter_levels: list[str]) -> bool:
    for number, level in enumerate(filter_levels):
        if level == "#":
            return True
        # `+` stands for `#`, too, where a subscription ends with it.
        if number == len(levels) or level not in ("+", levels[number]):
            return False
    return len(levels) == len(filter_levels)
