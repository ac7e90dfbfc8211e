"""What an answer begins with, and the head that has a say in it.

A model that learned to write from few examples likes to say what most of them say. A head, which
learns from few examples better, reads what was said last, and says how likely each choice is: the
function of a call, or the first word of any other compact answer. The grammar follows both
(``edged.engine.choosing``).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edged.protocol.request import ChatMessage
from edged.specialists.compact.records import Lines, Listing, Record
from edged.specialists.compact.shapes import AnyOf, Listed, Shape, plain_or_quoted
from edged.specialists.decision import decide
from edged.specialists.examples import MAX_LABEL_CHARACTERS, AnswerKind
from edged.specialists.folder import Specialist
from edged.specialists.head import Floats

MAX_POWER = 8.0
# Of what the head finds impossible, or no example chose.
_LEAST_SHARE = 0.01
# The last character of a choice that is a whole answer.
END = "\n"
# A word that the schema gives no more endings, such as the reasons of a refusal, is chosen with the
# rest of the answer.
_MOST_ENDINGS, _MANY = 4, 1 << 20
_FEWEST = 2
# Of what was said last: a request that long is none that many choices are left for.
_MOST_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Powers:
    """How much a head counts: powers of its probabilities, at most ``MAX_POWER``."""

    whole: float
    """Where a whole answer is chosen, or a word that more follows."""
    word: float
    """Among those words: what is meant is often said earlier, which the head does not read."""

    def check(self) -> None:
        """Refuse what is too much.

        Raises:
            ValueError: It is.
        """
        if not (0 <= self.whole <= MAX_POWER and 0 <= self.word <= MAX_POWER):
            raise ValueError(f"choice.powers is not from 0 to {MAX_POWER:g}")


@dataclass(frozen=True, slots=True)
class ChoiceHead:
    """A head for choices."""

    specialist: Specialist
    powers: Powers

    @classmethod
    def of(cls, specialist: Specialist, powers: Powers) -> "ChoiceHead":
        """Return the head of a specialist that was read or just taught.

        Raises:
            ValueError: It does not choose a label.
        """
        if specialist.description.kind is not AnswerKind.LABEL:
            raise ValueError("must choose one of some labels")
        return cls(specialist, powers)

    def preferences(self, features: Floats) -> "Preferences":
        """Return what it prefers, from the features of what was said last."""
        found = decide(self.specialist, features).probabilities
        assert isinstance(found, list)  # noqa: S101 - it chooses one of some labels
        labels = self.specialist.heads[0].description.labels
        return Preferences(dict(zip(labels, found, strict=True)), self.powers)


@dataclass(frozen=True, slots=True)
class Preferences:
    """How likely a head finds each choice, and how much that counts."""

    shares: Mapping[str | None, float]
    """By choice; None is any that is not named."""
    powers: Powers

    def weight(self, choices: Sequence[str]) -> float:
        """Return what the model's probability of one of some choices is multiplied with.

        Args:
            choices: Some that are named, or nothing for one that is not.
        """
        whole = sum(self.shares[choice] for choice in choices if _is_whole(choice))
        words = [choice for choice in choices if not _is_whole(choice)]
        if choices and not words:
            return float(max(whole, _LEAST_SHARE) ** self.powers.whole)
        all_words = sum(share for choice, share in self.shares.items() if not _is_whole(choice))
        among = (
            sum(self.shares[choice] for choice in words) if words else self.shares.get(None, 0.0)
        )
        among /= max(all_words, _LEAST_SHARE)
        kind = max(whole + all_words, _LEAST_SHARE) ** self.powers.whole
        return float(kind * max(among, _LEAST_SHARE) ** self.powers.word)


def _is_whole(choice: str | None) -> bool:
    return choice is not None and choice.endswith(END)


def said_last(messages: Sequence[ChatMessage]) -> str:
    """Return what a choice's head reads of a dialogue."""
    said = [message.content for message in messages if message.role != "system"]
    return said[-1][-_MOST_CHARACTERS:] if said else ""


def choices_of(texts: Sequence[str], groups: Sequence[str], shape: Shape) -> list[str | None]:
    """Return what each of these answers chose; None of rare ones.

    That is its first word, or with ``END`` all of it where the word has few endings.

    Args:
        texts: Of compact answers.
        groups: Of the same examples: those of one group are alike, and count once.
        shape: Of the answers.
    """
    firsts = [text.partition("\n")[0] for text in texts]
    words = [first.partition(" ")[0] for first in firsts]
    are_few = {word: 0 < _num_endings(shape, word) <= _MOST_ENDINGS for word in words}
    pairs = zip(firsts, words, strict=True)
    found = [first + END if are_few[word] else word for first, word in pairs]
    counts = Counter(one for one, _ in set(zip(found, groups, strict=True)))
    return [
        one if counts[one] >= _FEWEST and len(one) <= MAX_LABEL_CHARACTERS else None
        for one in found
    ]


def _num_endings(shape: Shape | Record, word: str) -> int:
    """Return how many lines a shape has that begin with a word; ``_MANY`` at most."""
    if isinstance(shape, AnyOf):
        return sum(_num_endings(option, word) for option in shape.options)
    if isinstance(shape, Lines):
        return _num_endings(shape.item, word)
    if isinstance(shape, Listing):
        return _num_endings(shape.lines, word) + _num_endings(shape.rest, word)
    if not isinstance(shape, Record):
        return _MANY
    if shape.head is None:
        begins = any(word.startswith(f"{field.key}=") for field in shape.fields)
    else:
        named = shape.head.shape.values if isinstance(shape.head.shape, Listed) else ()
        begins = any(plain_or_quoted(str(one)) == word for one in named)
    return _num_values(shape) if begins else 0


def _num_values(shape: Shape | Record) -> int:
    """Return how many values a shape has, the first word of a line not counted."""
    if isinstance(shape, Listed):
        return len(shape.values)
    if isinstance(shape, AnyOf):
        return min(sum(map(_num_values, shape.options)), _MANY)
    if not isinstance(shape, Record):
        return _MANY
    counts = [
        _num_values(field.shape) + (not field.is_required)
        for field in shape.fields
        if field != shape.head
    ]
    return min(math.prod(counts), _MANY)
