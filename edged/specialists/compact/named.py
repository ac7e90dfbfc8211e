"""Values that come with the request: what there is, is listed in its ``inputs``.

A schema says so in ``x-inputs``::

    {"type": "string", "x-inputs": {"list": "devices", "value": "id", "say": "name",
                                    "apart": ["area", "floor"], "where": {"id": ["light.*"]}}}

The value is then the ``value`` of one of the objects in ``inputs.devices`` of which every member
in ``where`` is as one of the texts, where a ``*`` at the end stands for anything. It is said by its
``say``. Of those that are said alike, each is said with its first members of ``apart`` that tell
them apart, ``Lamp (Office)``; where nothing does, they are one text, which is ambiguous.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edged.specialists.compact.shapes import (
    AmbiguousError,
    AnswerError,
    Inputs,
    ShapeError,
    either,
    escaped,
    plain_or_quoted,
)

MAX_LISTED = 256
MAX_SAID_CHARACTERS = 200


class InputsError(ValueError):
    """The inputs of a request are not what the schema needs; the message names the member."""


@dataclass(frozen=True, slots=True)
class Named:
    """One of the things in a list of the inputs."""

    listed: str
    """Name of the list."""
    value: str
    """The member that is the value."""
    say: str
    """The member that is said."""
    apart: tuple[str, ...] = ()
    """Members that tell apart what is said alike."""
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Members, and what they may be."""

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401
        """Return how the thing with this value is said.

        Raises:
            AnswerError: It is none of the shape.
            AmbiguousError: It names several things.
        """
        for text, values in self.said(inputs).items():
            if value in values:
                if len(values) > 1:
                    raise AmbiguousError(f": {text} is {' and '.join(values)}; name them apart")
                return text
        raise AnswerError(f": {value!r} is not in inputs.{self.listed}, or not of this kind")

    def read(self, text: str, inputs: Inputs) -> str:
        """Return the value of what is said.

        Raises:
            AnswerError: The text is no such value.
            AmbiguousError: It names several things.
        """
        values = self.said(inputs).get(text, [])
        if len(values) > 1:
            raise AmbiguousError(f": {text} is {' and '.join(values)}")
        if not values:
            raise AnswerError(f": {text[:60]!r} is not in inputs.{self.listed}")
        return values[0]

    def pattern(self, inputs: Inputs) -> str | None:
        """Return the expression of everything that can be said; None where there is nothing."""
        return either([escaped(text) for text in self.said(inputs)])

    def said(self, inputs: Inputs) -> dict[str, list[str]]:
        """Return the values by what is said.

        Raises:
            InputsError: The list is missing, too long, or a member of it is no text.
        """
        if not isinstance(inputs, ReadInputs):
            return self._said(inputs)
        if self not in inputs.said:
            inputs.said[self] = self._said(inputs)
        return inputs.said[self]

    def _said(self, inputs: Inputs) -> dict[str, list[str]]:
        found = [one for one in listed(inputs, self.listed) if self._is_meant(one)]
        texts = _told_apart([_member(one, self.say, self.listed) for one in found], found, self)
        said: dict[str, list[str]] = {}
        for text, one in zip(texts, found, strict=True):
            said.setdefault(plain_or_quoted(text), []).append(_member(one, self.value, self.listed))
        return said

    def _is_meant(self, one: Mapping[str, Any]) -> bool:
        return all(
            any(_is_like(str(one.get(name, "")), pattern) for pattern in patterns)
            for name, patterns in self.where
        )


class ReadInputs(dict[str, Any]):
    """Inputs with what was read of them: many shapes of one answer ask for the same."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self.said: dict[Named, dict[str, list[str]]] = {}


def listed(inputs: Inputs, name: str) -> Sequence[Mapping[str, Any]]:
    """Return a list of the inputs; its texts stand for objects that have nothing else.

    Raises:
        InputsError: It is missing, too long, or no list of objects or texts.
    """
    found = inputs.get(name)
    if not isinstance(found, list) or len(found) > MAX_LISTED:
        raise InputsError(f"inputs.{name}: must be a list of at most {MAX_LISTED}")
    things = [{"": one} if isinstance(one, str) else one for one in found]
    for index, one in enumerate(things):
        if not isinstance(one, dict):
            raise InputsError(f"inputs.{name}[{index}]: must be an object, or a text")
    return things


def _member(one: Mapping[str, Any], name: str, where: str) -> str:
    value = one.get(name, one.get(""))
    if not isinstance(value, str) or not 0 < len(value) <= MAX_SAID_CHARACTERS:
        raise InputsError(
            f"inputs.{where}: {name} must be a text of 1 to {MAX_SAID_CHARACTERS} characters"
        )
    return value


def _is_like(text: str, pattern: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def _told_apart(texts: list[str], things: Sequence[Mapping[str, Any]], named: Named) -> list[str]:
    added: list[list[str]] = [[] for _ in texts]
    said = list(texts)
    for name in named.apart:
        counts = {text: said.count(text) for text in said}
        for index, one in enumerate(things):
            if counts[said[index]] > 1 and isinstance(one.get(name), str):
                added[index].append(one[name])
        said = [
            f"{text} ({', '.join(more)})" if more else text
            for text, more in zip(texts, added, strict=True)
        ]
    return said


def named_shape(value: object, path: str) -> Named:
    """Return the shape that ``x-inputs`` of a schema describes.

    Raises:
        ShapeError: It is not one.
    """
    if not isinstance(value, dict) or not isinstance(value.get("list"), str):
        raise ShapeError(f'{path}: must be an object such as {{"list": "devices", …}}')
    if unknown := sorted(value.keys() - {"list", "value", "say", "apart", "where"}):
        raise ShapeError(f"{path}.{unknown[0]}: is not known")
    apart, where = value.get("apart", []), value.get("where", {})
    texts = [value.get("value", ""), value.get("say", value.get("value", ""))]
    if not are_texts(apart) or not are_texts(texts):
        raise ShapeError(f"{path}: value and say must be texts, apart a list of them")
    if not isinstance(where, dict):
        raise ShapeError(f"{path}.where: must be an object")
    kept = {name: [one] if isinstance(one, str) else one for name, one in where.items()}
    if not all(map(are_texts, kept.values())):
        raise ShapeError(f"{path}.where: must hold a text or a list of texts for each member")
    patterns = tuple((name, tuple(listed)) for name, listed in kept.items())
    return Named(value["list"], texts[0], texts[1], tuple(apart), patterns)


def are_texts(value: object) -> bool:
    """Tell whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
