"""Render what a specialist says before a prompt, which may use the inputs of the request.

Rule: the template comes with a specialist, and the inputs with a request; neither is trusted. Both
are bounded here before anything is rendered, and the result is text: no control token comes of it.
"""

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateSyntaxError

from edged.engine.tokenizer.sandbox import BudgetError, Sandbox
from edged.errors import BundleError
from edged.protocol.keys import MAX_INPUTS_CHARACTERS

MAX_SOURCE_CHARACTERS = 8192
_STEPS = 1 << 16
_STEPS_FACTOR = 32
_OUTPUT_CHARACTERS = 1 << 14
_OUTPUT_FACTOR = 4
_ERROR_CHARACTERS = 300


class InputsTemplateError(ValueError):
    """The inputs are too large, or the template fails on them."""


class InputsTemplate:
    """A compiled template of a specialist: it sees ``inputs``, and nothing else.

    Raises:
        BundleError: It is too long, not a template, or uses features that edged does not allow.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise BundleError(f"template: more than {MAX_SOURCE_CHARACTERS} characters")
        self._sandbox = Sandbox()
        try:
            self._template = self._sandbox.compile_metered(source)
        except TemplateSyntaxError as error:
            raise BundleError(f"template, line {error.lineno}: {error.message}") from error
        except Exception as error:  # Python's compiler: nested too deep, a number too long
            raise BundleError(f"template: cannot be compiled ({type(error).__name__})") from error

    def render(self, inputs: Mapping[str, Any]) -> str:
        """Return the text for these inputs.

        Raises:
            InputsTemplateError: They are too large, or the template fails or does more than it may.
            BudgetError: It does too much.
        """
        size = len(json.dumps(inputs, ensure_ascii=False))
        if size > MAX_INPUTS_CHARACTERS:
            raise InputsTemplateError(
                f"inputs: {size} characters of JSON, at most {MAX_INPUTS_CHARACTERS}"
            )
        self._sandbox.budget = _STEPS + _STEPS_FACTOR * size
        try:
            return self._render(inputs, _OUTPUT_CHARACTERS + _OUTPUT_FACTOR * size)
        except Exception as error:  # a template can raise anything
            reason = str(error)[:_ERROR_CHARACTERS] or type(error).__name__
            raise InputsTemplateError(
                f"inputs: the specialist's template fails on them ({reason})"
            ) from error

    def _render(self, inputs: Mapping[str, Any], remaining: int) -> str:
        chunks = []
        for chunk in self._template.generate(inputs=inputs):
            remaining -= len(chunk)
            if remaining < 0:
                raise BudgetError("it makes a text many times as long as the inputs")
            chunks.append(chunk)
        return "".join(chunks)
