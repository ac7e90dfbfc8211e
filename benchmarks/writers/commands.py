"""Sentences with their commands, sampled from the templates of ``home-assistant-intents``.

The package (its sentences: CC-BY-4.0) and ``hassil``, which parses its templates, are installed by
whoever measures; nothing of them is kept here. A template is taught or tested, never both: so the
forms of the sentences that are judged were not among the examples.
"""

import importlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What is asked of a home; by intent the kinds of devices, where its sentences do not say which.
INTENTS = (
    *("HassTurnOn", "HassTurnOff", "HassLightSet", "HassSetPosition", "HassFanSetSpeed"),
    *("HassClimateSetTemperature", "HassClimateGetTemperature", "HassSetVolume"),
    *("HassSetVolumeRelative", "HassMediaPause", "HassMediaUnpause", "HassMediaNext"),
    *("HassMediaPrevious", "HassVacuumStart", "HassVacuumReturnToBase", "HassShoppingListAddItem"),
    "HassGetWeather",
)
_AREAS = ("kitchen", "living room", "bedroom", "bathroom", "office", "garage")
_FLOORS = ("ground", "first", "upstairs")
_NAMES = {
    "light": ("desk lamp", "ceiling light", "reading lamp", "porch light"),
    "switch": ("coffee maker", "heater plug"),
    "fan": ("ceiling fan", "desk fan"),
    "cover": ("left blind", "garage door", "patio shade"),
    "valve": ("water valve", "garden valve"),
    "lock": ("front door", "back door"),
    "media_player": ("television", "kitchen radio"),
    "climate": ("thermostat", "floor heating"),
    "vacuum": ("robot", "dusty"),
    "weather": ("berlin", "home forecast"),
}
_ITEMS = ("milk", "oat milk", "eggs", "two lemons", "dish soap", "bread", "green apples", "coffee")
_TEST_SHARE = 0.25
_TRIES = 40


@dataclass(frozen=True, slots=True)
class Task:
    """What is taught, what it is judged by, and the functions that the answers call."""

    taught: Sequence[Mapping[str, Any]]
    tests: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]


def task(
    language: str = "en",
    *,
    most: int = 60,
    num_taught: int = 735,
    num_tests: int = 232,
    seed: int = 0,
) -> Task:
    """Sample a task; the same for the same seed and version of the package."""
    source = importlib.import_module("home_assistant_intents")
    path = Path(str(source.__file__)).parent / "data" / f"{language}.json"
    sampler = _Sampler(json.loads(path.read_text(encoding="utf-8")), random.Random(seed))  # noqa: S311 - reproducible
    taught: list[Mapping[str, Any]] = []
    tests: list[Mapping[str, Any]] = []
    for intent in INTENTS:
        for rows, part in zip((taught, tests), sampler.split(intent), strict=True):
            rows.extend(sampler.examples(intent, part, most if rows is taught else most // 3))
    answers: dict[str, set[str]] = {}
    for row in (*taught, *tests):
        answers.setdefault(row["prompt"], set()).add(json.dumps(row["answer"]))
    seen = {row["prompt"] for row in taught}
    taught = [row for row in taught if len(answers[row["prompt"]]) == 1]
    tests = [row for row in tests if len(answers[row["prompt"]]) == 1 and row["prompt"] not in seen]
    for rows in (taught, tests):
        sampler.random.shuffle(rows)
    return Task(taught[:num_taught], tests[:num_tests], sampler.tools())


class _Sampler:
    def __init__(self, data: Mapping[str, Any], rng: random.Random) -> None:
        self.random = rng
        self._data = data
        parser: Any = importlib.import_module("hassil.parse_expression")
        self._parse = parser.parse_sentence
        self._slots: dict[str, dict[str, dict[str, Any]]] = {}
        self._listed: dict[tuple[str, str], dict[str, None]] = {}
        self._intent = ""

    def split(self, intent: str) -> tuple[list[Any], list[Any]]:
        """Return the templates that are taught, and those that are judged."""
        blocks = self._data["intents"][intent]["data"]
        found = [(block, text) for block in blocks for text in block["sentences"]]
        self.random.shuffle(found)
        num_tests = round(len(found) * _TEST_SHARE) if len(found) > 1 else 0
        num_tests = max(num_tests, 1) if len(found) > 1 else 0
        return found[num_tests:], found[:num_tests]

    def examples(self, intent: str, part: Sequence[Any], most: int) -> list[dict[str, Any]]:
        """Return different sentences, from one template after the other."""
        rows: dict[str, dict[str, Any]] = {}
        self._intent = intent
        for count in range(most * _TRIES if part else 0):
            block, text = part[count % len(part)]
            slots = dict(block.get("slots", {}))
            if "domain" in slots:
                self._listed.setdefault((intent, "domain"), {})[slots["domain"]] = None
            said = self._sample(self._parse(text).expression, block, slots)
            prompt = " ".join(said.split())
            self._note(intent, slots)
            answer = {"name": intent, "arguments": dict(sorted(slots.items()))}
            rows.setdefault(prompt, {"prompt": prompt, "answer": answer, "group": text})
            if len(rows) == most:
                break
        return list(rows.values())

    def _note(self, intent: str, slots: Mapping[str, Any]) -> None:
        known = self._slots.setdefault(intent, {})
        for name, value in slots.items():
            known.setdefault(name, self._schema(name, value))

    def _sample(self, node: Any, block: Mapping[str, Any], slots: dict[str, Any]) -> str:  # noqa: ANN401
        kind = type(node).__name__
        if kind == "TextChunk":
            return str(node.original_text)
        if kind == "RuleReference":
            rules = {**self._data["expansion_rules"], **block.get("expansion_rules", {})}
            rule = self._parse(rules[node.rule_name]).expression
            return self._sample(rule, block, slots)
        if kind == "ListReference":
            said, value = self._value(node, block)
            slots[node.slot_name] = value
            return said
        items = list(node.items)
        if kind == "Alternative":
            return self._sample(self.random.choice(items), block, slots)
        if kind == "Permutation":
            self.random.shuffle(items)
        return "".join(self._sample(one, block, slots) for one in items)

    def _value(self, node: Any, block: Mapping[str, Any]) -> tuple[str, Any]:  # noqa: ANN401
        name = node.list_name
        if name in {"area", "floor", "name"} or name.endswith("_item"):
            listed = self._texts(name, block)
            value = self.random.choice(listed)
            if name == "name":
                self._listed.setdefault((self._intent, name), {}).update(dict.fromkeys(listed))
            return value, value
        found = self._data["lists"][name]
        if "range" in found:
            span = found["range"]
            number = self.random.randrange(span["from"], span["to"] + 1, span.get("step", 1))
            return str(number), number * span.get("multiplier", 1)
        chosen = self.random.choice(found["values"])
        if isinstance(chosen, str):
            return self._sample(self._parse(chosen).expression, block, {}), chosen
        return self._sample(self._parse(chosen["in"]).expression, block, {}), chosen["out"]

    def _texts(self, name: str, block: Mapping[str, Any]) -> Sequence[str]:
        if name == "area":
            return _AREAS
        if name == "floor":
            return _FLOORS
        if name.endswith("_item"):
            return _ITEMS
        domains = block.get("requires_context", {}).get("domain", list(_NAMES))
        domains = [domains] if isinstance(domains, str) else domains
        listed = [one for domain in domains for one in _NAMES.get(domain, ())]
        return listed or [one for names in _NAMES.values() for one in names]

    def _schema(self, slot: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
        fixed = {"area": _AREAS, "floor": _FLOORS}
        if slot in {"name", "domain"}:
            return {"type": "string", "enum": []}  # filled when all are known
        if slot in fixed:
            return {"type": "string", "enum": list(fixed[slot])}
        if slot == "item":
            return {"type": "string"}
        return self._values(slot, value)

    def _values(self, slot: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
        if slot == "volume_step":
            steps = {"type": "integer", "minimum": -100, "maximum": 100}
            return {"anyOf": [{"type": "string", "enum": ["up", "down"]}, steps]}
        if isinstance(value, int):
            highest = 10_000 if slot == "temperature" else 100
            return {"type": "integer", "minimum": 0, "maximum": highest}
        name = {"device_class": "cover_classes"}.get(slot, slot)
        values = self._data["lists"].get(name, {}).get("values", [])
        texts = [one if isinstance(one, str) else one["out"] for one in values]
        return {"type": "string", "enum": sorted(set(texts))} if texts else {"type": "string"}

    def tools(self) -> list[dict[str, Any]]:
        """Return the functions that were used, as OpenAI lists them."""
        for (intent, slot), values in self._listed.items():
            if slot in self._slots[intent]:
                self._slots[intent][slot]["enum"] = sorted(values)
        return [
            {
                "type": "function",
                "function": {
                    "name": intent,
                    "parameters": {
                        "type": "object",
                        "properties": dict(sorted(self._slots[intent].items())),
                        "required": [],
                        "additionalProperties": False,
                    },
                },
            }
            for intent in INTENTS
        ]
