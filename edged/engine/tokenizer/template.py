"""Render messages through the model's chat template, as the model saw them in training.

Rule: a template comes with a model and is not trusted: it runs in a sandbox, sees its arguments
only, and its time and output are limited in proportion to the messages.
"""

from collections.abc import Mapping, Sequence

from jinja2 import TemplateSyntaxError

from edged.engine.tokenizer.sandbox import BudgetError, Sandbox
from edged.errors import BundleError

_ERROR_CHARACTERS = 300
# Counted for each message beside its content: the text that templates add to it.
_MESSAGE_CHARACTERS = 256
# The prompt's limit, plus the factor times the messages' size. Templates repeat little of the
# messages, and the tool instructions of some are 20,000 characters.
_OUTPUT_FACTOR = 4
_OUTPUT_CHARACTERS = 1 << 16
# The same for the cost of a rendering in the sandbox. Known templates cost at most 10 for a
# character and 1,000 for a message.
_STEPS_FACTOR = 32
_STEPS = 1 << 18
_LIMIT_ERRORS = (BudgetError, MemoryError, OverflowError, RecursionError)
_TRIALS = (("user",), ("system", "user"), ("system", "user", "assistant", "user"))


class TemplateError(ValueError):
    """The model's chat template refuses these messages, or its tokenizer their text."""


class ChatTemplate:
    """A compiled chat template; renders one prompt at a time.

    It is written for the settings that transformers uses, and also sees ``tokens``: ``bos_token``
    and ``eos_token``.

    Raises:
        BundleError: the text is not a template, uses features that edged does not allow, or exceeds
            its limits.
    """

    def __init__(self, source: str, tokens: Mapping[str, str | None]) -> None:
        self._sandbox = Sandbox()
        self._tokens = {name: token or "" for name, token in tokens.items()}
        try:
            self._template = self._sandbox.compile_metered(source)
        except TemplateSyntaxError as error:
            raise _wrong(f", line {error.lineno}: {error.message}") from error
        except Exception as error:  # Python's compiler: nested too deep, a number too long
            raise _wrong(f": it cannot be compiled ({type(error).__name__})") from error
        for roles in _TRIALS:
            try:
                self.render([{"role": role, "content": "Hello"} for role in roles])
            except TemplateError as error:
                # Else it has no such role; a request with it will be refused.
                if isinstance(error.__cause__, _LIMIT_ERRORS):
                    raise _wrong(f": {error.__cause__}") from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt up to where the answer begins.

        Raises:
            TemplateError: the template refuses a role or an order of roles, fails, or exceeds its
                limits.
        """
        size = sum(_MESSAGE_CHARACTERS + len(message["content"]) for message in messages)
        try:
            return self._render(messages, size)
        except Exception as error:  # a template can raise anything
            reason = str(error)[:_ERROR_CHARACTERS] or type(error).__name__
            if isinstance(error, _LIMIT_ERRORS):
                problem = f"does more than it may ({reason}); send less, or use another model"
            else:
                problem = (
                    f"refuses them ({reason}); leave out the system message, or let user and "
                    "assistant alternate"
                )
            raise TemplateError(f"messages: the model's chat template {problem}") from error

    def _render(self, messages: Sequence[Mapping[str, str]], size: int) -> str:
        self._sandbox.budget = _STEPS + _STEPS_FACTOR * size
        remaining = _OUTPUT_CHARACTERS + _OUTPUT_FACTOR * size
        chunks = []
        for chunk in self._template.generate(
            messages=[dict(message) for message in messages],
            add_generation_prompt=True,
            tools=None,
            documents=None,
            **self._tokens,
        ):
            remaining -= len(chunk)
            if remaining < 0:
                raise BudgetError("it makes a prompt many times as long as the messages")
            chunks.append(chunk)
        return "".join(chunks)


def _wrong(complaint: str) -> BundleError:
    return BundleError(
        f"manifest.json: chat_template{complaint}; do not use this bundle, or rebuild it with "
        "`edged build` from a model whose template edged knows"
    )
