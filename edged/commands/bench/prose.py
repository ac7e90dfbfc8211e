"""Text for the prompts: prose as an appliance's log would have it, never the same twice.

Rule: real words rather than random tokens, so that no more of an embedding table is touched than
in service; and no repeated passages, which an engine that guesses ahead would profit from.
"""

import random

_SUBJECTS = (
    *("the pump in the cellar", "a neighbour", "the old boiler", "our gardener", "the front door"),
    *("the night train", "a small drone", "the kitchen window", "somebody upstairs", "the lift"),
    *("the baker's van", "a wet dog", "the solar inverter", "the milk cooler", "my grandmother"),
)
_VERBS = (
    *("reported", "ignored", "repaired", "woke", "followed", "measured", "forgot", "painted"),
    *("answered", "carried", "stopped", "counted", "remembered", "sold", "washed", "photographed"),
)
_OBJECTS = (
    *("the valve", "a letter from Lisbon", "the thermostat", "three bottles", "the alarm"),
    *("an empty shelf", "the garden hose", "two passengers", "the meter", "a broken fuse"),
    *("the recipe", "the spare key", "the third floor", "a bag of apples", "the radio"),
)
_PLACES = (
    *("before breakfast", "near the harbour", "at the end of the corridor", "under the stairs"),
    *("while the rain lasted", "in a hurry", "behind the station", "after the holidays"),
    *("during the power cut", "on the terrace", "for the second time", "without saying a word"),
)
_LINKS = ("and", "because", "although", "until", "so", "but", "as if", "once")
_PATTERNS = (
    "{subject} {verb} {object} {place}.",
    "{place}, {subject} {verb} {object}, {link} {other} was {number} metres away.",
    "at {hour}:{minute:02} {subject} {verb} {object} {link} {other} had {number} of them.",
    "was it {subject} that {verb} {object} {place}?",
)


def prose(num_sentences: int, seed: int) -> str:
    """Return text that is the same for the same seed everywhere."""
    choose = random.Random(seed)  # noqa: S311 - filler text
    return " ".join(_sentence(choose) for _ in range(num_sentences))


def _sentence(choose: random.Random) -> str:
    sentence = choose.choice(_PATTERNS).format(
        subject=choose.choice(_SUBJECTS),
        verb=choose.choice(_VERBS),
        object=choose.choice(_OBJECTS),
        place=choose.choice(_PLACES),
        link=choose.choice(_LINKS),
        other=choose.choice(_SUBJECTS),
        number=choose.randint(2, 99),
        hour=choose.randint(0, 23),
        minute=choose.randint(0, 59),
    )
    return sentence[0].upper() + sentence[1:]
