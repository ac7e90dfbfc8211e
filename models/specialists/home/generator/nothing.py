"""Sentences after which nothing is done: no command, or one for which there is nothing here."""

from collections.abc import Sequence
from dataclasses import replace

from models.specialists.home.generator import groups, mentions
from models.specialists.home.generator.clauses import Call, Clause, Speaker, say
from models.specialists.home.generator.drafts import Draft, Wanted, say_one
from models.specialists.home.generator.homes import (
    KINDS,
    SELF_SAID,
    make_home,
)
from models.specialists.home.generator.resolve import Mention, Verdict, resolve
from models.specialists.home.generator.tables import Section, commands, phrases
from models.specialists.home.generator.words import stems

# What is said of commands for the wrong kind of device: sections, and kinds that cannot do it.
_IMPOSSIBLE = (
    (("brightness", "color", "white"), "fan blind curtain lock tv switch vacuum thermostat"),
    (("open", "close"), "light fan tv speaker thermostat"),
    (("lock", "unlock"), "light fan blind curtain tv speaker thermostat vacuum"),
    (("position", "part_open"), "lock tv vacuum"),
    (("temperature",), "blind curtain lock vacuum tv speaker"),
    (("volume", "mute", "next"), "light blind curtain lock thermostat fan vacuum"),
    (("fan_speed", "oscillate"), "light blind lock tv"),
    (("vacuum_start", "dock", "locate"), "light blind lock thermostat"),
    (("color",), "speaker garage_door"),
    (("on", "off"), "sensor detector"),
    (("on", "off"), "sensor detector"),
    (("open",), "lock"),
    (("humidity",), "light blind lock tv"),
)
# What says which of its levels a device is to have.
_LEVELS = {
    "brightness": ("bright", "dim"),
    "position": ("open", "position"),
    "fan_speed": ("speed",),
    "temperature": ("degree", "temperature", "\u00b0"),
    "humidity": ("humidity",),
}


def nothing(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Say something that is no command, or one for which there is nothing here."""
    makers = (_talk, _about, _later, _not, _absent, _impossible, _not_opened, _not_here)
    # Those that seldom find what they need in a home are tried more often.
    maker = speaker.rng.choices(makers, (1.7, 2, 1.5, 1.4, 8.5, 1.8, 2.5, 1.9))[0]
    return maker(speaker, wanted)


def _of_none(text: str, name: str, forms: Sequence[str] = ()) -> Draft:
    """Return a sentence after which nothing is done."""
    return Draft(text, f"none/{name}", (), "none", is_request=False, forms=tuple(forms))


def _of_command(text: str, name: str, clause: Clause) -> Draft:
    """Return a command that cannot be carried out here."""
    forms = (clause.form.text,)
    return Draft(text, name, (), "none", clause.form.is_request, forms, (clause,))


def _talk(speaker: Speaker, _: Wanted) -> Draft | None:
    """Say something that has nothing to do with the home."""
    text = speaker.rng.choice(phrases("talk", speaker.split))
    said = text.lower()
    taken = {"timer": "timer", "remind": "todo"}
    if any(w in said and d.kind == k for w, k in taken.items() for d in speaker.home.devices):
        return None
    if any(d.name.lower() in said or d.kind in ("script", "scene") for d in speaker.home.devices):
        return None
    return _of_none(text, "talk", [text])


def _about(speaker: Speaker, _: Wanted) -> Draft | None:
    """Ask about a device, or say something about it."""
    unasked = ("sensor", "detector", "camera")
    devices = [d for d in speaker.home.devices if KINDS[d.kind].areas and d.kind not in unasked]
    if not devices:
        return None
    device = speaker.rng.choice(devices)
    title = {"cover": "about cover", "lock": "about lock"}.get(device.domain, "about device")
    if device.domain in ("vacuum", "lawn_mower", "valve", "lock") and title == "about device":
        return None
    form = speaker.rng.choice(phrases(title, speaker.split))
    mention = mentions.one(speaker.rng, speaker.home, device)
    if not mention.text.startswith(("the ", "my ")):
        return None
    text = form.replace("{x}", mention.text)
    if mention.is_plural:
        return None
    return _of_none(text, "about", [form])


def _request(speaker: Speaker, wanted: Wanted) -> Clause | None:
    """Say a request that could be fulfilled."""
    section, kind = wanted[0]
    if section.name in ("scene", "script", "press") or "item" in dict(section.data).values():
        return None
    clause = say_one(speaker, section, kind, is_request=True)
    return clause if clause and clause.actions else None


def _later(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Ask for something later, or on a condition."""
    clause = _request(speaker, wanted)
    if clause is None:
        return None
    form = speaker.rng.choice(phrases("later", speaker.split))
    return _of_none(form.replace("{c}", clause.text), "later", [form, clause.form.text])


def _not(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Ask that something is not done."""
    clause = _request(speaker, wanted)
    if clause is None or clause.text.startswith("make sure"):
        return None
    form = speaker.rng.choice(phrases("not", speaker.split))
    return _of_none(form.replace("{c}", clause.text), "not", [form, clause.form.text])


def _absent(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Ask for a device that is in another home."""
    clause = _say_absent(speaker, *wanted[0], is_request=False)
    return _of_command(clause.text, "none/absent", clause) if clause else None


def half(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Say two commands, of which one is for what is not here: the other is carried out."""
    good = say_one(speaker, *wanted[0], is_request=True)
    bad = _say_absent(speaker, *wanted[1], is_request=True)
    if good is None or bad is None or not good.actions:
        return None
    pair = [good, bad] if speaker.rng.random() < 0.5 else [bad, good]
    joiner = speaker.rng.choice(phrases("joiner", speaker.split))
    text = f"{pair[0].text} {joiner} {pair[1].text}"
    forms = tuple(one.form.text for one in pair)
    return Draft(text, "half", (good,), forms=forms, said=tuple(pair))


def but_not(speaker: Speaker, wanted: Wanted) -> Draft | None:
    """Ask for one thing, and that another is not done."""
    done = say_one(speaker, *wanted[0], is_request=True)
    other = say_one(speaker, *wanted[1], is_request=True)
    if done is None or other is None or not done.actions or not other.actions:
        return None
    if other.text.startswith("make sure") or done.text.startswith("make sure"):
        return None
    if {t for a in done.actions for t in a["target"]} & {
        t for a in other.actions for t in a["target"]
    }:
        return None
    form = speaker.rng.choice(phrases("but not", speaker.split))
    text = form.replace("{c}", done.text).replace("{n}", other.text)
    forms = (form, done.form.text, other.form.text)
    return Draft(text, "but_not", (done,), is_request=False, forms=forms)


def _say_absent(
    speaker: Speaker, section: Section, kind: str, *, is_request: bool
) -> Clause | None:
    """Say a command as in another home, if nothing of it could be meant here."""
    if section.implied or "everything" in section.flags:
        return None
    other = make_home(speaker.rng, speaker.split, 4, [kind])
    clause = say_one(replace(speaker, home=other), section, kind, is_request=is_request)
    if clause is None or not clause.mention.words or clause.mention.excluded:
        return None
    place = clause.mention.place
    if place and place.kind != "area":
        return None
    mention = replace(clause.mention, kinds=frozenset())
    if resolve(speaker.home, mention, lambda _: True) is not Verdict.NONE:
        return None
    is_like = any(device.kind == kind for device in speaker.home.devices)
    return None if is_like and not _tells_apart(mention, kind) else clause


def _tells_apart(mention: Mention, kind: str) -> bool:
    """Tell whether what it is was said, and more; a brand alone may be that of what is here."""
    if kind in SELF_SAID:
        return False
    said = KINDS[kind].said
    is_said = not said or bool(mention.stems & stems(said))
    return is_said and (len(mention.words) > 1 or mention.place is not None)


def _not_here(speaker: Speaker, _: Wanted) -> Draft | None:
    """Ask for what there is, but not there; or for what there is nothing."""
    rng = speaker.rng
    implied = [s for s in commands() if s.implied]
    section = rng.choice(implied)
    devices = [d for d in speaker.home.devices if d.area]
    if not devices:
        return None
    clause = say(speaker, section, rng.choice(section.forms[speaker.split]), rng.choice(devices))
    if clause is None or clause.reading is not Verdict.NONE:
        return None
    return _of_command(clause.text, "none/not_here", clause)


def _impossible(speaker: Speaker, _: Wanted) -> Draft | None:
    """Ask a device for what its kind cannot do."""
    rng = speaker.rng
    names, kinds = rng.choice(_IMPOSSIBLE)
    name = rng.choice(names)
    section = next(s for s in commands() if s.name == name)
    devices = [d for d in speaker.home.devices if d.kind in kinds.split()]
    if not devices:
        return None
    device = rng.choice(devices)
    if device.kind == "switch" and section.name not in ("brightness", "color"):
        return None
    clause = say(speaker, section, rng.choice(section.forms[speaker.split]), device)
    if clause is None or clause.mention.parts or clause.reading is not Verdict.NONE:
        return None
    if device.name.lower() not in clause.text.lower() or not _says_what(section, clause):
        return None
    return _of_command(clause.text, "none/impossible", clause)


def _says_what(section: Section, clause: Clause) -> bool:
    """Tell whether a level is said to be a brightness, say: "set the fan to 40" is a speed."""
    words = _LEVELS.get(section.name)
    return words is None or any(word in clause.text for word in words)


def _not_opened(speaker: Speaker, _: Wanted) -> Draft | None:
    """Ask to open all doors at once."""
    rng = speaker.rng
    name = rng.choice(("unlock", "open"))
    section = next(s for s in commands() if s.name == name)
    kinds = ("lock",) if section.name == "unlock" else ("garage_door", "gate")
    devices = [d for d in speaker.home.devices if d.kind in kinds]
    if not devices:
        return None
    mention = groups.several(rng, speaker.home, rng.choice(devices))
    if mention.number != "all":
        return None
    form = rng.choice([f for f in section.forms[speaker.split] if f.is_request])
    text = form.text.replace("{x}", mention.text)
    if kinds == ("lock",):
        text = text.replace("locks", "doors") if "lock" not in form.text[:4] else text
    call = Call(section.services[0], {})
    noun = "doors" if "doors" in text and kinds == ("lock",) else mention.said
    clause = Clause(text, section, form, replace(mention, said=noun), Verdict.NONE, (call,))
    return replace(_of_none(text, "not_opened", [form.text]), said=(clause,))
