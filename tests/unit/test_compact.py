"""The compact form of answers: written, read back, and held by an expression of both."""

import json
import re
import string
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.specialists.compact import records, shapes
from edged.specialists.compact.named import InputsError
from edged.specialists.compact.ranges import decimal_numbers, whole_numbers
from edged.specialists.compact.schemas import shape_of, tools_shape
from edged.specialists.compact.shapes import AmbiguousError, AnswerError, ShapeError, either, same
from edged.specialists.wording import WordingKind, lark, wording_of_schema, wording_of_tools
from tests.schemas import problems

TEXTS = st.text(alphabet=string.ascii_letters + ' ="\\,-[]()/.é\n\x7f𝄞5', max_size=12)
NAMES = st.sampled_from(["mode", "name", "level", "a-b", "x", "room"])


def singles() -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of single values."""
    whole = st.tuples(st.integers(-1200, 1200), st.integers(0, 1200)).map(
        lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
    )
    decimal = st.tuples(st.integers(-50, 50), st.integers(1, 50), st.sampled_from([1, 4, 10])).map(
        lambda parts: {
            "type": "number",
            "minimum": parts[0] / parts[2],
            "maximum": (parts[0] + parts[1]) / parts[2],
        }
    )
    listed = st.lists(
        st.one_of(TEXTS, st.integers(-9, 9), st.booleans(), st.none()), min_size=1, max_size=4
    ).map(lambda values: {"enum": values})
    text = st.sampled_from([{"type": "string"}, {"type": "string", "maxLength": 5}])
    plain = st.one_of(whole, decimal, listed, text, st.just({"type": ["boolean", "null"]}))
    return st.one_of(plain, st.lists(plain, min_size=2, max_size=3).map(lambda o: {"anyOf": o}))


def objects(depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of objects, with lists and one level of objects in them."""
    lists = st.tuples(singles(), st.integers(0, 1), st.integers(1, 3), st.booleans()).map(
        lambda parts: {
            "type": "array",
            "items": parts[0],
            "minItems": parts[1],
            "maxItems": parts[2],
            "uniqueItems": parts[3],
        }
    )
    values = st.one_of(singles(), lists, *([objects(1)] if depth == 0 else []))
    return st.dictionaries(NAMES, st.tuples(values, st.booleans()), max_size=4).map(
        lambda fields: {
            "type": "object",
            "properties": {name: schema for name, (schema, _) in fields.items()},
            "required": [name for name, (_, is_required) in fields.items() if is_required],
            "additionalProperties": False,
        }
    )


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of whole answers."""
    lines = st.tuples(objects(), st.integers(0, 1), st.integers(1, 3)).map(
        lambda parts: {
            "type": "array",
            "items": parts[0],
            "minItems": parts[1],
            "maxItems": parts[2],
        }
    )
    listing = st.tuples(objects(1), lines).map(
        lambda parts: {
            **parts[0],
            "properties": {**parts[0]["properties"], "actions": parts[1]},
            "required": [*parts[0]["required"], "actions"],
        }
    )
    either = st.lists(objects(), min_size=2, max_size=3).map(lambda found: {"anyOf": found})
    return st.one_of(objects(), lines, listing, either, singles())


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one each
    """Values that a schema allows."""
    if "anyOf" in schema:
        return st.one_of([values(one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    if isinstance(kind, list):
        return st.sampled_from([True, False, None])
    if kind == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    if kind == "number":
        low, high = schema["minimum"], schema["maximum"]
        return st.integers(0, 100).map(lambda part: round(low + (high - low) * part / 100, 3))
    if kind == "string":
        return TEXTS.map(lambda text: text[: schema.get("maxLength", 256)])
    if kind == "array":
        key = json.dumps if schema.get("uniqueItems") else None
        items = values(schema["items"])
        least, most = schema["minItems"], schema["maxItems"]
        return st.lists(items, min_size=least, max_size=most, unique_by=key)
    required = {
        n: values(one) for n, one in schema["properties"].items() if n in schema["required"]
    }
    optional = {n: values(one) for n, one in schema["properties"].items() if n not in required}
    return st.fixed_dictionaries(required, optional=optional)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.data())
def test_what_is_written_is_read_back_and_in_the_grammar(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    value = data.draw(values(schema))
    shape = shape_of(schema)
    try:
        text = shape.write(value, {})
    except AnswerError:
        # Nothing tells these apart: an empty object within, equal lines, or alternatives.
        return
    assert same(shape.read(text, {}), value)
    pattern = shape.pattern({})
    assert pattern is not None
    assert re.fullmatch(pattern, text)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.data())
def test_what_the_grammar_allows_is_read_as_what_the_schema_allows(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    shape = shape_of(schema)
    pattern = shape.pattern({})
    assert pattern is not None
    text = data.draw(st.from_regex(re.compile(pattern), fullmatch=True))
    try:
        value = shape.read(text, {})
    except AnswerError:
        # Equal values where they must differ are more than an expression can see.
        has_different = '"uniqueItems": true' in json.dumps(schema)
    else:
        assert problems(value, schema) == []
        has_different = True
    assert has_different


@given(st.integers(-3000, 3000), st.integers(0, 3000), st.integers(-7000, 7000))
def test_a_range_of_integers_is_matched_exactly(low: int, count: int, number: int) -> None:
    expression = re.compile(whole_numbers(low, low + count))
    assert bool(expression.fullmatch(str(number))) is (low <= number <= low + count)
    assert expression.fullmatch(str(low))
    assert expression.fullmatch(str(low + count))
    assert not expression.fullmatch(f"0{abs(number)}")


def test_a_range_of_decimals_is_matched_exactly() -> None:
    expression = re.compile(decimal_numbers(Decimal("-0.5"), Decimal("1.25"), 2))
    for hundredths in range(-300, 300):
        number = Decimal(hundredths) / 100
        text = f"{number.normalize():f}"
        text = "0" if text == "-0" else text
        assert bool(expression.fullmatch(text)) is (Decimal("-0.5") <= number <= Decimal("1.25"))
    for text in ("0.50", "-0", "1.", ".5", "00", "0.125"):
        assert not expression.fullmatch(text)


THERMOSTAT = {
    "type": "function",
    "function": {
        "name": "set_thermostat",
        "parameters": {
            "type": "object",
            "properties": {
                "mode": {"type": "string", "enum": ["cool", "heat"]},
                "temperature": {"type": "integer", "minimum": 40, "maximum": 90},
                "name": {"type": "string"},
            },
            "required": ["mode"],
        },
    },
}
UNCLEAR = {"type": "function", "function": {"name": "unclear"}}


def test_a_call_is_its_name_and_its_arguments() -> None:
    shape = tools_shape([THERMOSTAT, UNCLEAR])
    call = {"name": "set_thermostat", "arguments": {"mode": "cool", "temperature": 70}}
    assert shape.write(call, {}) == "set_thermostat mode=cool temperature=70"
    named = {"name": "set_thermostat", "arguments": {"mode": "heat", "name": "up stairs"}}
    assert shape.write(named, {}) == "set_thermostat mode=heat name=up stairs"
    assert shape.read("unclear", {}) == {"name": "unclear", "arguments": {}}
    for text in ("", "unclear mode=cool", "set_thermostat", "set_thermostat mode=cool mode=heat"):
        with pytest.raises(AnswerError):
            shape.read(text, {})


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (
            {"name": "set_thermostat", "arguments": {"mode": "warm"}},
            r'^\.arguments\.mode: must be one of cool, heat, got "warm"',
        ),
        ({"name": "open", "arguments": {}}, "none of the alternatives"),
        ("set_thermostat", "none of the alternatives"),
    ],
)
def test_a_wrong_call_is_refused(answer: object, where: str) -> None:
    with pytest.raises(AnswerError, match=where):
        tools_shape([THERMOSTAT, UNCLEAR]).write(answer, {})


def test_of_one_function_the_wrong_argument_is_named() -> None:
    call = {"name": "set_thermostat", "arguments": {"mode": "cool", "temperature": 99}}
    with pytest.raises(AnswerError, match=r"^\.arguments\.temperature: 99 is not an integer from"):
        tools_shape([THERMOSTAT]).write(call, {})


def test_calls_and_texts_may_be_mixed_and_several_calls_are_lines() -> None:
    unclear = {"name": "unclear", "arguments": {}}
    wording = wording_of_tools([THERMOSTAT, UNCLEAR], [unclear, "Which one?"])
    assert wording.write("unclear") == '"unclear"'
    assert wording.read('"Which one?"') == "Which one?"
    assert wording.read("unclear") == unclear
    wording = wording_of_tools([THERMOSTAT, UNCLEAR], [[unclear, unclear]])
    assert wording.write([unclear, unclear]) == "unclear\nunclear"
    assert wording.read("[]") == []


HOME: dict[str, Any] = {
    "type": "object",
    "properties": {
        "actions": {
            "type": "array",
            "items": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {
                            "service": {"const": service},
                            "target": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "type": "string",
                                    "x-inputs": {
                                        "list": "devices",
                                        "value": "id",
                                        "say": "name",
                                        "apart": ["area", "floor"],
                                        "where": {"id": [f"{service.partition('.')[0]}.*"]},
                                    },
                                },
                            },
                            "data": {"type": "object", "properties": data, "required": [*data]},
                        },
                        "required": ["service", "target", "data"],
                    }
                    for service, data in (
                        ("light.turn_off", {}),
                        ("cover.set_position", {"position": {"type": "integer", "minimum": 0}}),
                    )
                ]
            },
        },
        "reason": {"enum": ["none", "ambiguous"]},
    },
    "required": ["actions"],
    "x-ambiguous": {"actions": [], "reason": "ambiguous"},
}
DEVICES = [
    {"id": "light.desk", "name": "Desk lamp", "area": "Office"},
    {"id": "light.a", "name": "Lamp", "area": "Office"},
    {"id": "light.b", "name": "Lamp", "area": "Bedroom", "floor": "Up"},
    {"id": "cover.left", "name": "Lamp", "area": "Office"},
]


def test_what_there_is_comes_with_the_request() -> None:
    wording, problem = wording_of_schema(HOME)
    assert problem is None
    inputs = {"devices": DEVICES}
    off = {"service": "light.turn_off", "target": ["light.desk", "light.b"], "data": {}}
    up = {"service": "cover.set_position", "target": ["cover.left"], "data": {"position": 50}}
    answer = {"actions": [off, up]}
    text = wording.write(answer, inputs)
    # The cover is the only one of its kind with this name; of the lamps the area tells.
    assert text == (
        "light.turn_off target=Desk lamp, Lamp (Bedroom)\n"
        "cover.set_position target=Lamp position=50"
    )
    assert wording.read(text, inputs) == answer
    assert wording.write({"actions": [], "reason": "none"}, inputs) == "reason=none"
    grammar = wording.grammar(inputs)
    assert grammar is not None
    assert grammar.startswith("start: ANSWER\nANSWER: /")
    with pytest.raises(AnswerError):
        wording.read("light.turn_off target=Hall lamp", inputs)
    without = wording.grammar({"devices": DEVICES[:1]})
    assert without is not None
    assert "cover" not in without  # there is nothing that it could be said of


def test_what_nothing_tells_apart_is_ambiguous() -> None:
    wording, _ = wording_of_schema(HOME)
    twins = {"devices": [{**DEVICES[0], "id": f"light.{one}"} for one in "ab"]}
    assert wording.read("light.turn_off target=Desk lamp (Office)", twins) == {
        "actions": [],
        "reason": "ambiguous",
    }
    lamp = {"service": "light.turn_off", "target": ["light.a"], "data": {}}
    with pytest.raises(AmbiguousError, match=r"light\.a and light\.b; name them apart"):
        wording.write({"actions": [lamp]}, twins)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (None, r"inputs\.devices: must be a list of at most"),
        ([{}] * 300, r"inputs\.devices: must be a list of at most"),
        ([7], r"inputs\.devices\[0\]: must be an object, or a text"),
        ([{"id": "light.x", "name": "x" * 201}], "name must be a text of 1 to 200 characters"),
        ([{"id": "light.x", "name": ["x"]}], "name must be a text"),
    ],
)
def test_inputs_of_strangers_are_bounded(devices: object, message: str) -> None:
    wording, _ = wording_of_schema(HOME)
    with pytest.raises(InputsError, match=message):
        wording.grammar({} if devices is None else {"devices": devices})


def test_names_that_would_end_a_value_are_quoted() -> None:
    schema = {"type": "string", "x-inputs": {"list": "rooms"}}
    names = ["a, b", 'the "den"', "x=1", " y", "z\nz", "-", "[]", "hall"]
    shape, inputs = shape_of(schema), {"rooms": names}
    for name in names:
        text = shape.write(name, inputs)
        assert shape.read(text, inputs) == name
        assert text.startswith('"') is (name != "hall")


def test_without_anything_to_say_there_is_no_grammar() -> None:
    shape = shape_of({"type": "string", "x-inputs": {"list": "rooms"}})
    with pytest.raises(AnswerError, match="nothing can be answered"):
        lark(shape, {"rooms": []})


def nested(depth: int, num_fields: int) -> dict[str, Any]:
    """Objects that may be left out, each within the next: each has each of its fields first."""
    fields: dict[str, Any] = {f"f{index}": {"type": "boolean"} for index in range(num_fields)}
    within = {"within": nested(depth - 1, num_fields)} if depth else {}
    last = {"last": {"type": "boolean"}}
    return {"type": "object", "properties": fields | within | last, "required": ["last"]}


@pytest.mark.parametrize(
    "schema",
    [
        nested(7, 40),
        {"type": "object", "properties": {f"f{n}": {"type": "boolean"} for n in range(3000)}},
        {"anyOf": [nested(2, 8) for _ in range(200)]},
    ],
)
def test_what_can_be_said_in_far_too_many_ways_is_refused_before_it_is_written_down(
    schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def counted(patterns: Sequence[str]) -> str | None:
        lengths.append(sum(map(len, patterns)))
        return either(patterns)

    for module in (shapes, records):
        monkeypatch.setattr(module, "either", counted)
    with pytest.raises(AnswerError, match=r"^inputs: the answers that they allow are too many"):
        lark(shape_of(schema), {})
    assert sum(lengths) < 20 * shapes.MAX_PATTERN_CHARACTERS


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "string", "pattern": "a+"}, ".pattern"),
        ({"type": "object", "properties": {"a b": {"type": "null"}}}, ".properties.a b"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, ".properties.a.type"),
        ({"type": "object", "patternProperties": {}}, ".patternProperties"),
        ({"type": "object", "additionalProperties": {"type": "null"}}, ".additionalProperties"),
        ({"type": "object", "required": ["a"]}, ".required"),
        ({"type": "object", "required": [[]]}, ""),
        ({"type": "object", "required": 1}, ""),
        ({"type": "object", "properties": []}, ""),
        ({"type": "array", "items": {"type": "array"}}, ".items.items"),
        ({"type": "number", "multipleOf": 1e-9}, ""),
        ({"type": "integer", "minimum": 3, "maximum": 2}, ""),
        ({"type": "integer", "multipleOf": 2.5}, ".multipleOf"),
        ({"type": "integer", "minimum": 0, "maximum": 9, "multipleOf": 1e-30}, ".multipleOf"),
        ({"type": "integer", "minimum": "3"}, ".minimum"),
        ({"enum": [[1]]}, ""),
        ({"type": "string", "enum": [1]}, ".type"),
        ({"anyOf": []}, ".anyOf"),
        ({"anyOf": [{"type": "null"}], "minimum": 1}, ".minimum"),
        ({"type": "string", "anyOf": [{"enum": ["a"]}, {"type": "null"}]}, ".anyOf[1].type"),
        ({"type": "string", "x-inputs": {"list": "a"}, "maxLength": 3}, ".maxLength"),
        ({"type": "string", "x-inputs": {"list": "a", "as": "b"}}, ".x-inputs.as"),
        ({"type": "string", "x-inputs": {"list": 1}}, ".x-inputs"),
        ({"type": "string", "x-inputs": {"list": "a", "where": []}}, ".x-inputs.where"),
        (True, ""),
    ],
)
def test_a_schema_without_a_compact_form_is_refused_with_its_path(
    schema: object, path: str
) -> None:
    with pytest.raises(ShapeError) as error:
        shape_of(schema)
    assert str(error.value).startswith(path + ":")


def test_a_type_beside_alternatives_is_the_type_of_each() -> None:
    values = [{"const": "on", "title": "On"}, {"enum": ["off", 1]}, {"minLength": 3}]
    shape = shape_of({"type": "string", "anyOf": values})
    assert [shape.write(one, {}) for one in ("on", "off", "dim")] == ["on", "off", "dim"]
    for value in (1, "no"):
        with pytest.raises(AnswerError):
            shape.write(value, {})


def test_such_answers_are_written_as_json() -> None:
    wording, problem = wording_of_schema({"type": "string", "pattern": "a+"})
    assert problem == ".pattern: has no compact form"
    assert wording.kind is WordingKind.JSON
    assert wording.write({"a": [1, "é"]}) == '{"a":[1,"é"]}'
    assert wording.read('{"a":[1,"é"]}') == {"a": [1, "é"]}
    assert wording.grammar() is None
    # No reply has a value for the last one: it would be null, which the schema may not allow.
    for text in ("{", "[1e999]"):
        with pytest.raises(AnswerError):
            wording.read(text)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer", "minimum": 5, "maximum": 30, "multipleOf": 10}, [10, 20, 30]),
        ({"type": "integer", "minimum": -25, "maximum": -5, "multipleOf": 10}, [-20, -10]),
        ({"type": "integer", "minimum": -0.5, "maximum": 2.5}, [0, 1, 2]),
        ({"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 2.5}, [1, 2]),
        ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}, [1, 2]),
        ({"type": "number", "minimum": 0.7, "maximum": 3.9, "multipleOf": 1}, [1, 2, 3]),
        ({"type": "number", "exclusiveMinimum": 0.5, "maximum": 4, "multipleOf": 2}, [2, 4]),
    ],
)
def test_only_numbers_within_the_bounds_can_be_said(
    schema: dict[str, Any], expected: list[int]
) -> None:
    pattern = shape_of(schema).pattern({})
    assert pattern is not None
    assert [n for n in range(-40, 40) if re.fullmatch(pattern, str(n))] == expected


def test_of_values_beside_a_type_those_of_it_can_be_said() -> None:
    values = ["a", None, True, 1, 2.0, 0.5]
    expected = {"string": ["a"], "integer": [1, 2.0], "number": [1, 2.0, 0.5], "null": [None]}
    for kind, fitting in expected.items():
        assert shape_of({"type": kind, "enum": values}) == shape_of({"enum": fitting})
    assert shape_of({"type": ["boolean", "null"], "enum": values}) == shape_of(
        {"enum": [None, True]}
    )


def test_what_several_alternatives_of_one_of_allow_is_no_answer() -> None:
    options = [{"type": "integer", "maximum": 9}, {"type": "number"}, {"enum": ["off", 11]}]
    fields: dict[str, Any] = {"type": "object", "properties": {"a": {"oneOf": options}}}
    shape = shape_of(fields)
    for value in (0.5, 10, "off"):
        assert shape.read(shape.write({"a": value}, {}), {}) == {"a": value}
    for value in (9, 11):
        with pytest.raises(AnswerError):
            shape.write({"a": value}, {})
        with pytest.raises(AnswerError, match="several alternatives of oneOf"):
            shape.read(f"a={value}", {})
    fields["properties"]["a"] = {"anyOf": options}
    assert shape_of(fields).read("a=9", {}) == {"a": 9}


def test_multiples_are_listed() -> None:
    shape = shape_of({"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25})
    assert shape.read("0.75", {}) == 0.75
    with pytest.raises(AnswerError):
        shape.write(0.3, {})


def test_a_name_within_an_object_that_occurs_twice_is_written_with_its_path() -> None:
    inner = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    shape = shape_of({"type": "object", "properties": {"x": {"type": "integer"}, "in": inner}})
    assert shape.write({"x": 1, "in": {"x": 2}}, {}) == "x=1 in.x=2"
    assert shape.write({}, {}) == "-"
    assert shape.read("in.x=2", {}) == {"in": {"x": 2}}


def test_a_line_that_the_list_needs_is_of_the_list() -> None:
    """Whatever other fields could be written the same way."""
    mode = {"mode": {"enum": ["dim"]}}
    item = {"type": "object", "properties": mode, "additionalProperties": False}
    listed = {"type": "array", "items": item, "minItems": 1}
    schema = {"type": "object", "properties": {**mode, "on": listed}, "required": ["on"]}
    shape = shape_of(schema)
    for value in ({"on": [{"mode": "dim"}]}, {"on": [{"mode": "dim"}], "mode": "dim"}):
        assert shape.read(shape.write(value, {}), {}) == value
    assert shape.read("mode=dim", {}) == {"on": [{"mode": "dim"}]}
