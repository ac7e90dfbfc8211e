"""Render messages through the model's chat template, as the model saw them in training.

Rule: a template comes with a model, so it runs in a sandbox, sees nothing but its arguments, and
takes and makes no more than a few times what it was given.
"""

from collections.abc import Mapping, Sequence

from jinja2 import TemplateSyntaxError

from edged.engine.tokenizer.sandbox import AllowanceError, Sandbox
from edged.errors import BundleError

_ERROR_CHARACTERS = 300
_MESSAGE_CHARACTERS = 256
"""Of a message, beside its content: what templates write around it."""
_OUTPUT_FACTOR = 4
_OUTPUT_CHARACTERS = 1 << 16
"""A prompt has at most so many characters, and the factor of what was said. Templates repeat little
of it, and the instructions of some for tools are 20,000 characters."""
_STEPS_FACTOR = 32
_STEPS = 1 << 18
"""The same for what a rendering may spend in the sandbox. Known templates spend 10 for a character
and 1,000 for a message at most."""
_TRIALS = (("user",), ("system", "user"), ("system", "user", "assistant", "user"))


class TemplateError(ValueError):
    """The model's chat template does not take these messages, or its tokenizer their text."""


class _TooMuchError(TemplateError):
    """It does not come to an end with them."""


class ChatTemplate:
    """A compiled chat template; renders one prompt at a time.

    Args:
        source: Jinja text, written for the settings that transformers uses.
        tokens: further variables: ``bos_token`` and ``eos_token``.

    Raises:
        BundleError: the text is not a template, uses what edged does not know, or does not come to
            an end.
    """

    def __init__(self, source: str, tokens: Mapping[str, str | None]) -> None:
        self._sandbox = Sandbox()
        self._tokens = {name: token or "" for name, token in tokens.items()}
        try:
            self._template = self._sandbox.compile_priced(source)
        except TemplateSyntaxError as error:
            raise _wrong(f", line {error.lineno}: {error.message}") from error
        except Exception as error:  # nested too deep, a number too long: Python's compiler's
            raise _wrong(f": it cannot be compiled ({type(error).__name__})") from error
        for roles in _TRIALS:
            try:
                self.render([{"role": role, "content": "Hello"} for role in roles])
            except _TooMuchError as error:
                raise _wrong(f": {error.__cause__}") from error
            except TemplateError:  # it has no such role; a request will be told
                continue

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt up to where the answer begins.

        Raises:
            TemplateError: the template refuses a role or an order of roles, or fails.
            _TooMuchError: one of these, when it would make or take too much.
        """
        size = sum(_MESSAGE_CHARACTERS + len(message["content"]) for message in messages)
        try:
            return self._render(messages, size)
        except (AllowanceError, MemoryError, OverflowError, RecursionError) as error:
            raise _TooMuchError(
                f"messages: the model's chat template does more than it may ({_said(error)}); "
                "send less, or use another model"
            ) from error
        except Exception as error:  # whatever a template can do wrong
            raise TemplateError(
                f"messages: the model's chat template refuses them ({_said(error)}); "
                "leave out the system message, or let user and assistant alternate"
            ) from error

    def _render(self, messages: Sequence[Mapping[str, str]], size: int) -> str:
        self._sandbox.allowance = _STEPS + _STEPS_FACTOR * size
        left = _OUTPUT_CHARACTERS + _OUTPUT_FACTOR * size
        pieces = []
        for piece in self._template.generate(
            messages=[dict(message) for message in messages],
            add_generation_prompt=True,
            tools=None,
            documents=None,
            **self._tokens,
        ):
            left -= len(piece)
            if left < 0:
                raise AllowanceError("it makes a prompt many times as long as what was said")
            pieces.append(piece)
        return "".join(pieces)


def _said(error: Exception) -> str:
    return str(error)[:_ERROR_CHARACTERS] or type(error).__name__


def _wrong(complaint: str) -> BundleError:
    return BundleError(
        f"manifest.json: chat_template{complaint}; do not use this bundle, or rebuild it with "
        "`edged build` from a model whose template edged knows"
    )
