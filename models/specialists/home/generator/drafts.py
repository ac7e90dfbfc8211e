"""Sentences of commands before they are delivered."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from models.specialists.home.generator.clauses import Clause, Speaker, corrected, say, shortened
from models.specialists.home.generator.mentions import place_phrase, without_place
from models.specialists.home.generator.resolve import Place, Verdict
from models.specialists.home.generator.tables import Form, Section, phrases

_TERSE_WORDS = 4
# How often a command is said anew until it is for the place of the one before.
_TRIES = 10
# A section begins with how most people say it; what is seldom said are the many lines below.
_NUM_PLAIN, _PLAIN_SHARE = 20, 0.35
# Of sentences of several commands, those without verbs, and with these those where some have none.
_ALL_TERSE, _SOME_TERSE = 0.25, 0.4
Wanted = Sequence[tuple[Section, str]]
"""Commands, each with the kind of device that it is to be said for."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A sentence before it is delivered."""

    text: str
    group: str
    """What is asked for."""
    clauses: tuple[Clause, ...] = ()
    """The commands in it that are to be carried out."""
    reason: str = ""
    """Why there are none: ``none`` or ``ambiguous``."""
    is_request: bool = True
    """Whether something polite may be put around it."""
    forms: tuple[str, ...] = ()
    """The forms that it was made of."""
    said: tuple[Clause, ...] = ()
    """The commands that a listener hears who does not know the home."""

    @property
    def heard(self) -> tuple[Clause, ...]:
        """The commands in it, whether or not they can be carried out."""
        return self.said or self.clauses


def say_one(
    speaker: Speaker, section: Section, kind: str, *, is_request: bool, is_terse: bool = False
) -> Clause | None:
    """Say one command for a device of a kind.

    Args:
        speaker: Who, and where.
        section: The command.
        kind: Of the device.
        is_request: Whether something polite may be put around it.
        is_terse: Whether it is said without a verb: "lamp off".
    """
    devices = [device for device in speaker.home.devices if device.kind == kind]
    forms = section.forms[speaker.split]
    if is_terse:
        forms = tuple(form for form in forms if _is_terse(form))
    elif is_request:
        forms = tuple(form for form in forms if form.is_request)
    if speaker.rng.random() < _PLAIN_SHARE:
        forms = forms[:_NUM_PLAIN]
    if not devices or not forms:
        return None
    return say(speaker, section, speaker.rng.choice(forms), speaker.rng.choice(devices))


def _is_terse(form: Form) -> bool:
    words = form.text.split()
    is_short = words[0] == "{x}" and len(words) <= _TERSE_WORDS
    return is_short and not form.is_request and "{is}" not in words


def command(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Say one command."""
    section, kind = wanted[0]
    clause = say_one(speaker, section, kind, is_request=False)
    if clause is None or not clause.actions:
        return None
    return _of(clause, section.name)


def _of(clause: Clause, group: str, reason: str = "") -> Draft:
    """Return a sentence of one command."""
    is_request, forms = clause.form.is_request, (clause.form.text,)
    clauses = () if reason else (clause,)
    return Draft(clause.text, group, clauses, reason, is_request, forms, (clause,))


def several(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Say two or three commands in one sentence."""
    rng = speaker.rng
    if rng.random() < 0.3:  # of one kind: "set the lamp to blue and the spot to red"
        wanted = [wanted[0]] * len(wanted)
    style = rng.random()
    clauses: list[Clause] = []
    for section, kind in wanted:
        is_terse = style < _ALL_TERSE or (style < _SOME_TERSE and rng.random() < 0.5)
        clause = say_one(speaker, section, kind, is_request=True, is_terse=is_terse)
        if clause is None or not clause.actions:
            return None
        if clauses and section.implied and "it" in clause.form.text.split():
            return None  # it would be what was named before
        clauses.append(clause)
    if _overlap(clauses) and any(c.section.name != "todo_add" for c in clauses):
        return None
    forms = tuple(clause.form.text for clause in clauses)
    group = "+".join(clause.section.name for clause in clauses)
    is_request = all(clause.form.is_request for clause in clauses)
    text = _joined(speaker, clauses, is_request=is_request)
    return Draft(text, group, tuple(clauses), is_request=is_request, forms=forms)


def _overlap(clauses: Sequence[Clause]) -> bool:
    """Tell whether a device is meant by more than one command."""
    targets = [t for c in clauses for a in c.actions for t in a["target"]]
    return len({*targets}) < len(targets)


def _joined(speaker: Speaker, clauses: Sequence[Clause], *, is_request: bool) -> str:
    """Put commands one behind the other."""
    rng, text = speaker.rng, clauses[0].text
    for before, clause in pairwise(clauses):
        short = shortened(before, clause) if rng.random() < 0.6 else None
        joiner = "and"
        if not is_request:
            joiner = rng.choices(("and", ",", "", ", and"), (5, 3, 1.5, 0.5))[0]
        elif not short:
            joiner = rng.choice(phrases("joiner", speaker.split))
        if is_request and len(clauses) > 2 and clause is not clauses[-1]:
            joiner = ","
        text = f"{text} {joiner} {short or clause.text}"
    return text


def place_first(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Say a place, and then one or two commands for what is there: "upstairs, lights off"."""
    rng = speaker.rng
    clauses: list[Clause] = []
    for section, kind in wanted[: rng.choice((1, 2))]:
        place = clauses[0].mention.place if clauses else None
        tries = (say_one(speaker, section, kind, is_request=True) for _ in range(_TRIES))
        fitting = (one for one in tries if one and _is_in_one_place(one, place))
        if (clause := next(fitting, None)) is None:
            return None
        clauses.append(clause)
    place = clauses[0].mention.place
    assert place is not None  # noqa: S101 - one that is said was looked for
    if not all(place.kind == "here" or place.is_here or c.mention.said_place for c in clauses):
        return None  # it is said as a part of the name: "the upstairs fan"
    found = [without_place(clause.text, place) for clause in clauses]
    if None in found or _overlap(clauses):
        return None
    phrase = place_phrase(place, rng)
    text = f"{phrase}{rng.choice((',', ''))} {' and '.join(filter(None, found))}"
    group = "place_first/" + "+".join(clause.section.name for clause in clauses)
    forms = tuple(clause.form.text for clause in clauses)
    return Draft(text, group, tuple(clauses), is_request=False, forms=forms)


def _is_in_one_place(clause: Clause, place: Place | None) -> bool:
    """Tell whether a command is for what is in a place, or in any one place."""
    mention = clause.mention
    if not clause.actions or mention.parts or mention.excluded or mention.place is None:
        return False
    return place in (None, mention.place)


def correction(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Say a command for the wrong device, then for the right one."""
    section, kind = wanted[0]
    devices = [d for d in speaker.home.devices if d.kind == kind]
    # A value would be said once, and be another one the second time.
    plain = [f for f in section.forms[speaker.split] if f.text.count("{") == 1]
    forms = [form for form in plain if form.text.endswith("{x}")]
    if len(devices) < 2 or not forms:
        return None
    form = speaker.rng.choice(forms)
    first, second = speaker.rng.sample(devices, 2)
    wrong, right = say(speaker, section, form, first), say(speaker, section, form, second)
    if not wrong or not right or not wrong.actions or not right.actions:
        return None
    if wrong.mention.parts or right.mention.parts or wrong.reading == right.reading:
        return None
    if {wrong.mention.number, right.mention.number} != {"one"}:
        return None
    clause = corrected(speaker.rng, wrong, right)
    return _of(clause, "corrected") if clause else None


def unclear_which(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Say a command that fits several, where nothing says which."""
    section, kind = wanted[0]
    clause = say_one(speaker, section, kind, is_request=False)
    if clause is None or clause.reading is not Verdict.AMBIGUOUS:
        return None
    return _of(clause, "ambiguous", "ambiguous")
