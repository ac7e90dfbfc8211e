"""What a stranger's request for a home may cost: its devices, prompt and commands are anybody's.

The rules run between two steps of the model, so everybody's answers wait for them.
"""

import json
import sys
from collections.abc import Callable, Sequence
from itertools import chain, permutations, product
from string import ascii_lowercase
from typing import Any

import pytest

from edged.specialists.compact.shapes import Listed
from edged.specialists.devices import calling, household, places, words
from edged.specialists.devices.household import Device, Household
from edged.specialists.devices.meaning import HomeMeaning
from edged.specialists.devices.prompt import as_said, named
from edged.specialists.devices.words import Speller, places_in
from edged.specialists.hearing import MAX_WORDS, is_slip
from tests.unit.test_home_commands import MEANING, asked, targets

_ATTEMPTS = 8192
LAMPS = "\n".join(f"light.{n} | Lamp {n} | Area {n} | Floor {n}" for n in range(256))
SPEAKERS = "\n".join(f"media_player.{n} | Speaker {n} | Den" for n in range(256))


def counted(
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    count: Callable[..., bool] = lambda *_: True,
) -> list[Any]:
    """Return the arguments of each call of a function from now on."""
    calls: list[Any] = []
    function = getattr(owner, name)

    def counting(*given: Any) -> Any:  # noqa: ANN401 - of any function
        if count(*given):
            calls.append(given)
        return function(*given)

    monkeypatch.setattr(owner, name, counting)
    return calls


def alike(word: str) -> list[str]:
    """Return words that have all but two letters of a word, and are no slip of it."""
    shorter = [word[:at] + word[at + 1 :] for at in range(len(word))]
    parts = {one[:at] + one[at + 1 :] for one in shorter[1:] for at in range(1, len(one))}
    added = (part[:at] + "z" + part[at:] for part in sorted(parts) for at in range(1, len(part)))
    return [one for one in added if not any(is_slip(one, text) for text in (word, *shorter))]


@pytest.mark.parametrize("times", [1, 190])
def test_a_word_is_looked_up_once(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    compared = counted(monkeypatch, words, "is_slip")
    Speller(alike("abcdefghijkl")[:40]).repaired(["abcdefghijkl"] * times)
    assert len(compared) == 80


def test_words_that_are_alike_too_often_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = counted(monkeypatch, words, "is_slip")
    said = [ascii_lowercase[:12].replace(*two) for two in permutations("bcdefghijklmno", 2)]
    speller = Speller([*chain(*map(alike, said[:20])), "kitchen"])
    assert speller.repaired(["kitchne"]) == ("kitchen",)
    speller.repaired(said)
    assert _ATTEMPTS // 2 < len(compared) < 2 * _ATTEMPTS
    assert speller.repaired(["kitchne", "kitcehn"]) == ("kitchen", "kitcehn")


def test_long_words_that_are_like_none_are_not_looked_up_for_ever() -> None:
    looked_up = []

    class Near(dict[str, list[str]]):
        def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - as a dictionary's
            looked_up.append(key)
            return super().get(key, default)

    speller = Speller(["kitchen"])
    speller._near = Near(speller._near)
    speller.repaired([f"{number:024}" for number in range(500)])
    assert len(looked_up) < 2 * _ATTEMPTS


def test_a_place_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = counted(monkeypatch, places, "synonyms")
    home = "\n".join(f"light.{n} | La {n} | lounge {n} | lounge{n} lounge" for n in range(170))
    spa = {"do": "turn_on", "what": "pool", "in": "living " * 10 + "spa", "brightness_pct": 20}
    assert asked(*[spa] * 16, home=home) == "none"
    assert [word for (word,) in looked_up] == ["living", "spa"]


def test_floors_are_not_read_for_each_place(monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted(monkeypatch, words, "words_of", lambda text: text.startswith("Floor"))
    counts = []
    for count in (1, 16):
        read.clear()
        commands = [{"what": "pool", "in": "upstairs" + " story" * n} for n in range(count)]
        assert asked(*({"do": "turn_on", **one} for one in commands), home=LAMPS) == "none"
        counts.append(len(read))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("way", ["_may_be_called", "_may_be", "_may_be_called_otherwise"])
def test_a_device_is_tested_once_for_all_services(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    tested: list[Device] = []
    made = getattr(calling, way)

    def counting(said: tuple[str, ...]) -> household.Test:
        test = made(said)

        def tests(device: Device) -> bool:
            tested.append(device)
            return bool(test(device))

        return tests

    monkeypatch.setattr(calling, way, counting)
    pool = {"do": "set_percentage", "what": "jacuzzi pool", "in": "spa", "percentage": 30}
    assert asked(*[pool] * 16, home=LAMPS, prompt="jacuzzi to 30") == "none"
    assert len(tested) == 2 * 256  # with the words of the place, and without


def test_names_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted(monkeypatch, household, "words_of")
    home = "\n".join(f"light.{n} | Blue fan lamp {n}" for n in range(256))
    found = asked(*[{"do": "turn_on", "what": "blue fans"}] * 16, home=home)
    assert not isinstance(found, str)
    assert [len(ids) for _, ids, _ in found] == [256]
    assert len(read) <= 2 * 256


def test_services_are_tried_once_for_devices_of_a_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = counted(monkeypatch, HomeMeaning, "_can")
    again = [{"do": "volume_set", "kind": "speaker", "volume_level": n / 20} for n in range(15)]
    found = asked({"do": "media_play", "what": "speakers"}, *again, home=SPEAKERS)
    assert not isinstance(found, str)
    assert [len(ids) for _, ids, _ in found] == [256] * 16
    assert len(tried) < 256


def test_devices_are_told_apart_without_a_look_at_them() -> None:
    assert Device.__eq__ is object.__eq__
    twice = "light.a | Lamp | Den\nlight.a | Lamp | Den\nlight.b | Lamp | Den"
    assert targets(home=twice, what="lamps") == ["light.a", "light.b"]


def test_floors_of_areas_are_looked_for_once() -> None:
    devices = [{"id": f"light.{n}", "name": "a", "area": f"{n}", "floor": "Up"} for n in (1, 1, 2)]
    home = Household({"devices": [*devices, {**devices[0], "floor": "Down"}]})
    assert home.floor_of("1") == "Up"
    home.devices = ()
    assert (home.floor_of("2"), home.floor_of("3"), home.floor_of("")) == ("Up", "", "")


def test_places_of_the_same_words_are_one() -> None:
    areas = ["Den", "den", "The den", "dens"]
    devices = [{"id": f"light.{n}", "name": "a", "area": one} for n, one in enumerate(areas)]
    attic = [{"id": f"light.{one}", "name": "a", "floor": one} for one in ("DEN", "den", "the Den")]
    beginnings = Household({"devices": [*devices, *attic]}).beginnings
    found = [(*place.areas, *place.floors) for place in beginnings[("den",)]]
    assert found == [("DEN",), ("den",)]


def naive_places(said: Sequence[str], looked_for: Sequence[str]) -> list[int]:
    count = len(looked_for)
    starts = range(len(said) - count + 1) if count else ()
    return [at for at in starts if [*said[at : at + count]] == [*looked_for]]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_words_are_found_where_they_stand(count: int) -> None:
    for said in product(("a", "ab", "b"), repeat=5):
        for looked_for in product(("a", "ab", "b"), repeat=count):
            assert places_in(said, looked_for) == naive_places(said, looked_for)


@pytest.mark.parametrize("said", [{"kind": "light"}, {"what": "zz"}])
def test_names_that_are_alike_are_looked_for_once(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str]
) -> None:
    looked_for = counted(monkeypatch, named, "places_in")
    home = "\n".join(f"light.{n} | a a" for n in range(256))
    asked({"do": "turn_on", **said}, prompt="a " * 200, home=home)
    assert len(looked_for) <= 2


def test_of_words_without_spaces_the_last_count(monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted(monkeypatch, as_said, "singles")
    prompt = "so-a-" * 600 + "desk-lamp on"
    assert targets(prompt=prompt, kind="light", color_name="red") == ["light.desk"]
    assert read
    assert all(len(words.words_of(text)) <= MAX_WORDS for (text,) in read)


def test_numbers_are_written_without_an_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = counted(monkeypatch, json, "dumps")
    steps = Listed((*range(500), *(n / 2 for n in range(1, 500, 2)), True, None))
    assert [steps.write(one, {}) for one in (7, 7.5, True, None)] == ["7", "7.5", "true", "null"]
    assert len(encoded) <= 2 * 4


def kept() -> dict[str, int]:
    """Return what is kept from one request to the next: the size of each cache."""
    modules = [one for name, one in sys.modules.items() if name.startswith(household.__package__)]
    functions = [one for module in modules for one in vars(module).values()]
    caches = [one for one in functions if hasattr(one, "cache_info")]
    assert caches
    return {one.__name__: one.cache_info().currsize for one in caches}


def test_of_kinds_that_are_together_nothing_is_kept() -> None:
    domains = ("light", "fan", "lock", "valve", "vacuum", "siren", "climate", "switch")
    devices = [{"id": f"{one}.a", "name": f"{one} a"} for one in domains]

    def ask(some: Sequence[dict[str, str]]) -> None:
        said = {"commands": [{"do": "turn_on", "what": "jacuzzi a"}]}
        MEANING.actions(said, {"devices": [*some]}, "turn on the jacuzzi a")

    ask(devices)
    before = kept()
    for chosen in product((True, False), repeat=len(devices)):
        ask([one for one, is_there in zip(devices, chosen, strict=True) if is_there])
    assert kept() == before


def test_of_prompts_nothing_is_kept() -> None:
    sizes = []
    for word in ("lamp", "a" * 4000, "b" * 3000):
        assert targets(what="dsek jacuzzi", prompt=f"the {word} of jacuzzi on") == "none"
        sizes.append(kept())
    assert sizes[0] == sizes[1] == sizes[2]
