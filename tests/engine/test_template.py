"""Chat templates: those of real models as transformers reads them, hostile ones refused."""

import json
import subprocess
import sys
from typing import NoReturn

import pytest
from jinja2 import nodes
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edged.engine.tokenizer.template import ChatTemplate, TemplateError
from edged.errors import BundleError
from tests.chat_templates import REAL

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
LONG_TEXT = "{% set x %}{% for a in range(999) %}aaaaaaaaaaaaaaaaaaaaa{% endfor %}{% endset %}"
GROWING = (
    "{{% set ns = namespace(x={0}) %}}"
    "{{% for a in range(900) %}}{{% set ns.x = {1} %}}{{% endfor %}}"
)
TWICE = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"

HOSTILE = [
    # Larger and larger values.
    ("{{ 'ab ' * 100000000 }}", "for numbers"),
    ("{% set x = 'ab ' * 100000000 %}", "for numbers"),
    ("{% set x = [0] * 1000000000 %}", "for numbers"),
    ("{{ 1000000000 * 'a' }}", "for numbers"),
    ("{{ 9 ** 9 ** 9 }}", "line 1: pow is not for"),
    ("{{ " + "9" * 5000 + " }}", "cannot be compiled"),
    (GROWING.format("'a'", "ns.x + ns.x"), "more steps"),
    (GROWING.format("'a'", "ns.x ~ ns.x"), "more steps"),
    (GROWING.format("[1]", "ns.x + ns.x"), "more steps"),
    (GROWING.format("3", "ns.x * ns.x"), "63 bits"),
    (GROWING.format("[1]", "[ns.x, ns.x]") + "{{ ns.x }}", "more steps"),
    (GROWING.format("[1]", "[ns.x, ns.x]") + "{{ ns.x == ns.x | list }}", "more steps"),
    (GROWING.format("[1]", "[ns.x, ns.x]") + "{{ ns.x | tojson }}", "more steps"),
    # Methods and filters that make more than they read.
    ("{{ 'a'.ljust(1000000000) }}", "cannot call"),
    ("{{ 'a'.zfill(1000000000) }}", "cannot call"),
    ("{{ '\\t'.expandtabs(1000000000) }}", "cannot call"),
    ("{{ '{:1000000000}'.format(1) }}", "cannot call"),
    ("{{ (1).to_bytes(1000000000, 'big') }}", "cannot call"),
    ("{{ 'a' | center(1000000000) }}", "line 1: No filter named 'center'"),
    ("{{ 'a' | indent(1000000000) }}", "No filter named 'indent'"),
    ("{{ 1.5 | round(1000000000) }}", "No filter named 'round'"),
    ("{{ [1] | batch(1000000000, 1) | list }}", "No filter named 'batch'"),
    ("{{ '%1000000000d' | format(1) }}", "No filter named 'format'"),
    ("{{ '%1000000000d' % 1 }}", "for numbers"),
    ("{{ [1] | tojson(indent=1000000000) }}", "indent must be"),
    (LONG_TEXT + "{{ x.replace('a', x) }}", "more steps"),
    (LONG_TEXT + "{{ x | replace('a', x) }}", "more steps"),
    (LONG_TEXT + "{{ x.join(x) }}", "more steps"),
    (LONG_TEXT + "{{ x | join(x) }}", "more steps"),
    (LONG_TEXT + "{{ x | join([x]) }}", "more steps"),
    (LONG_TEXT + "{{ x.strip(x) }}", "more steps"),
    # Steps without end.
    ("{% for a in range(1000000000) %}{% endfor %}", "Range too big"),
    (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "more steps",
    ),
    ("{% for a in range(99999) if false %}{% endfor %}" * 9, "more steps"),
    ("{{ range(99999) | join }}", "more steps"),
    ("{{ 'a' in range(99999) }}", "more steps"),
    ("{{ messages | map(attribute='" + "a." * 9000 + "a') | list }}", "more steps"),
    (TWICE, "more steps"),
    ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "recursion"),
    (
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
        "recu",
    ),
    ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "for is not for chat"),
    # Long prompts.
    ("{% for m in range(100) %}" + "x" * 60000 + "{% endfor %}", "many times as long"),
    # The filters of the sandbox itself: a negative cost or a NaN would lift the limit.
    ("{% set x = (0 - 1000000000) | _charge %}", "a cost must be"),
    ("{% set x = [0 - 1000000000] | map('_charge') | list %}", "a cost must be"),
    ("{% set x = 'nan' | float | _charge %}", "a cost must be"),
    ("{% set x = [1] | _charge_items(0 - 1000000000) %}", "a cost must be"),
    # What a compiler chokes on.
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be compiled"),
    ("{{ " + "1+" * 2000 + "1 }}", "cannot be compiled"),
    ("{% if a %}" * 2000 + "{% endif %}" * 2000, "cannot be compiled"),
    ("{% for a in b %}" * 30 + "{% endfor %}" * 30, "cannot be compiled"),
    ("{{a}}" * 13000, "more than 4096 parts"),
    # Other templates, and settings.
    ("{% include 'x' %}", "include is not for"),
    ("{% extends 'x' %}", "extends is not for"),
    ("{% import 'x' as y %}", "import is not for"),
    ("{% block a %}{{ self.a() }}{% endblock %}", "block is not for"),
    ("{% autoescape true %}{% endautoescape %}", "is not for"),
]

IN_LITTLE_MEMORY = """
import json, resource, sys
from edged.errors import BundleError
from edged.engine.tokenizer.template import ChatTemplate
used = resource.RLIMIT_AS
resource.setrlimit(used, (int(sys.argv[1]) << 20,) * 2)
for source in json.load(sys.stdin):
    try:
        ChatTemplate(source, {})
    except BundleError:
        print("refused")
"""


def dialogue(*roles: str, content: str = "Is it warm? ") -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role in roles]


DIALOGUES = [
    dialogue("user"),
    dialogue("system", "user"),
    dialogue("user", "assistant", "user", content="<think>\nno\n</think>\n\nyes\t"),
    dialogue("system", *["user", "assistant"] * 20, "user", content="a b c " * 100),
    dialogue("assistant", "assistant"),
    dialogue(*["user", "assistant"] * 100, "user", content="a"),
]


class _Generation(Extension):
    tags = {"generation"}  # noqa: RUF012 - as jinja2 reads it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> NoReturn:
    raise JinjaError(message)


def rendered_by_jinja(source: str, messages: list[dict[str, str]]) -> str | None:
    """Render as transformers does; None where the template refuses the messages."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = lambda x, indent=None: json.dumps(
        x, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = _raise
    given = {"messages": messages, "add_generation_prompt": True, "tools": None, **TOKENS}
    try:
        return environment.from_string(source).render(**given)
    except JinjaError:
        return None


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("messages", DIALOGUES, ids=range(len(DIALOGUES)))
def test_a_real_template_gives_what_jinja_gives(name: str, messages: list[dict[str, str]]) -> None:
    if name == "MACROS":
        messages = messages[:100]  # it reads all of them for each of them
    expected = rendered_by_jinja(REAL[name], messages)
    template = ChatTemplate(REAL[name], TOKENS)
    if expected is None:
        with pytest.raises(TemplateError, match="refuses them"):
            template.render(messages)
    else:
        assert template.render(messages) == expected


@pytest.mark.parametrize(("source", "said"), HOSTILE, ids=[source[:40] for source, _ in HOSTILE])
def test_a_template_that_does_more_than_it_may_is_refused_when_it_is_loaded(
    source: str, said: str
) -> None:
    with pytest.raises(BundleError, match=said) as caught:
        ChatTemplate(source, TOKENS)
    assert str(caught.value).startswith("manifest.json: chat_template")
    assert "edged build" in str(caught.value)


def test_all_that_takes_little_memory() -> None:
    """Each was more than a gigabyte, or took for ever."""
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, "400"],
        input=json.dumps([source for source, _ in HOSTILE]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["refused"] * len(HOSTILE)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("{{ ('-' ~ messages[0].content) * 9 }}", "for numbers"),
        (
            "{% for a in range(99999) %}{% for b in range(99) %}{% endfor %}{% endfor %}",
            "more steps",
        ),
        ("{% for m in range(9) %}" + "x" * 60000 + "{% endfor %}", "many times as long"),
        ("{{ 1 // 0 }}", "zero"),
        ("{{ ns.x }}", "undefined"),
        ("{% for a in 5 %}{% endfor %}", "not iterable"),
    ],
)
def test_one_that_waits_for_a_word_is_refused_then(what: str, said: str) -> None:
    template = ChatTemplate("{% if 'now' in messages[0].content %}" + what + "{% endif %}", TOKENS)
    assert template.render(dialogue("user")) == ""
    with pytest.raises(TemplateError, match=said) as caught:
        template.render(dialogue("user", content="now"))
    assert str(caught.value).startswith("messages: ")
    assert template.render(dialogue("user")) == ""


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].__class__ }}{{ messages[0].__class__.__mro__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ cycler('a') }}{{ lipsum(9) }}",
        "{{ namespace(x=1) }}",
        "{{ messages | map('upper') | map(attribute='format') | list }}",
    ],
)
def test_what_a_template_has_no_business_with_is_refused(source: str) -> None:
    with pytest.raises((BundleError, TemplateError)):
        ChatTemplate(source, TOKENS).render(dialogue("user"))


def test_a_text_is_never_taken_for_a_format() -> None:
    """Jinja's own test computes ``text % 2``."""
    source = (
        "{{ '%1000000000d' is odd }} {{ '%1000000000d' is even }} {{ 2 is even }} {{ 3 is odd }}"
    )
    assert ChatTemplate(source, TOKENS).render(dialogue("user")) == "False False True True"


def test_the_reason_of_a_refusal_is_short() -> None:
    template = ChatTemplate("{{ raise_exception(messages[0].content) }}", TOKENS)
    with pytest.raises(TemplateError) as caught:
        template.render(dialogue("user", content="x" * 10_000))
    assert len(str(caught.value)) < 500
