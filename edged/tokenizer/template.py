"""Render messages through the model's chat template, as the model saw them in training.

Rule: a template comes with a model, so it runs in a sandbox and sees nothing but its arguments.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

from jinja2 import TemplateError as JinjaError
from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edged.errors import BundleError

_RENDER_ERRORS = (JinjaError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class TemplateError(ValueError):
    """The model's chat template does not take these messages."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja text, written for the settings that transformers uses.
        tokens: further variables: ``bos_token`` and ``eos_token``.

    Raises:
        BundleError: the text is not a template.
    """

    def __init__(self, source: str, tokens: Mapping[str, str | None]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
        )
        environment.filters["tojson"] = _to_json
        # No strftime_now: a clock at the head of a prompt would make every prompt a new one.
        environment.globals["raise_exception"] = _raise_exception
        self._tokens = {name: token or "" for name, token in tokens.items()}
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise BundleError(
                f"manifest.json: chat_template, line {error.lineno}: {error.message}; "
                "rebuild the bundle with `edged build`"
            ) from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt up to where the answer begins.

        Raises:
            TemplateError: the template refuses a role or an order of roles.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._tokens,
            )
        except _RENDER_ERRORS as error:
            raise TemplateError(
                f"messages: the model's chat template refuses them ({error}); "
                "leave out the system message, or let user and assistant alternate"
            ) from error


class _GenerationBlock(Extension):
    """``{% generation %}`` marks the answer for training; here its body simply stays."""

    tags = {"generation"}  # noqa: RUF012 - the name and type that jinja2 reads

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise JinjaError(message)
