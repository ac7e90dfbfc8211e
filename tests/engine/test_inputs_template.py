"""What a specialist says before a prompt: its template and the inputs are strangers' both."""

import pytest

from edged.engine.tokenizer.inputs_template import InputsTemplate, InputsTemplateError
from edged.errors import BundleError

HOME = """Devices:
{% for one in inputs.devices %}
{{ one.id.split(".")[0] }}: {{ one.name }}{% if one.area %} ({{ one.area }}){% endif %}

{% endfor %}
{% if inputs.area %}Here: {{ inputs.area }}{% endif %}"""


def test_the_inputs_are_listed() -> None:
    template = InputsTemplate(HOME)
    devices = [{"id": "light.a", "name": "Lamp", "area": "Hall"}, {"id": "lock.b", "name": "Door"}]
    said = template.render({"devices": devices, "area": "Hall"})
    assert said == "Devices:\nlight: Lamp (Hall)\nlock: Door\nHere: Hall"
    assert template.render({}) == "Devices:\n"
    assert InputsTemplate("Answer with commands.").render({}) == "Answer with commands."


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% for", "template, line 1"),
        ("{% include 'x' %}", "is not for chat templates"),
        ("x" * 10_000, "more than 8192 characters"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "template"),
    ],
)
def test_what_is_no_template_is_refused(source: str, complaint: str) -> None:
    with pytest.raises(BundleError, match=complaint):
        InputsTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(10000000) %}x{% endfor %}",
        "{% for a in inputs.b %}{% for c in inputs.b %}x{% endfor %}{% endfor %}",
        "{{ inputs.b|join('x' * 100000) }}",
        "{{ inputs.__class__.__mro__ }}{{ inputs.missing.member }}",
        "{{ inputs.a.replace('a', inputs.a).replace('a', inputs.a) }}",
    ],
)
def test_a_template_does_no_more_than_it_may(source: str) -> None:
    inputs = {"a": "a" * 4000, "b": ["c"] * 2000}
    with pytest.raises(InputsTemplateError, match=r"^inputs: the specialist's template fails"):
        InputsTemplate(source).render(inputs)


def test_inputs_are_bounded_before_anything_is_rendered() -> None:
    with pytest.raises(
        InputsTemplateError, match=r"inputs: 40\d+ characters of JSON, at most 32768"
    ):
        InputsTemplate("").render({"a": "b" * 40_000})
