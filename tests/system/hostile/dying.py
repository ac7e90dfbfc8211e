"""``edged`` with a library that crashes at a certain text, as a bug in it would.

Run this module with WHERE HOW TEXT run ...: it changes the named library, then runs the command.
Only documented functions of the libraries are changed; nothing here depends on edged's internals.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any, Never

import jinja2
import llguidance

DECODING, TEMPLATE, GRAMMAR = "decoding", "template", "grammar"
ABORT, PANIC = "abort", "panic"


class PanicException(BaseException):
    """The exception for a panic in a Rust library; ``except Exception`` does not catch it."""

    __module__ = "pyo3_runtime"  # its class cannot be imported


def _abort() -> Never:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def _panic() -> Never:
    raise PanicException("called `Option::unwrap()` on a `None` value")


def _change(where: str, text: str, fail: Callable[[], Never]) -> None:
    if where == DECODING:
        loads = json.loads

        def load(data: Any, **options: Any) -> Any:  # noqa: ANN401 - as json has it
            if text in str(data):
                fail()
            return loads(data, **options)

        json.loads = load  # type: ignore[assignment]
    elif where == TEMPLATE:
        _change_template(text, fail)
    else:
        _change_grammar(text, fail)


def _change_template(text: str, fail: Callable[[], Never]) -> None:
    """Change both methods that render a template."""
    for name in ("render", "generate", "stream"):
        method = getattr(jinja2.Template, name)

        def render(
            self: jinja2.Template,
            *args: Any,  # noqa: ANN401 - as jinja2 has it
            method: Callable[..., Any] = method,
            **variables: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401
            if text in str(args) + str(variables):
                fail()
            return method(self, *args, **variables)

        setattr(jinja2.Template, name, render)


def _change_grammar(text: str, fail: Callable[[], Never]) -> None:
    real = llguidance.LLMatcher

    class _Type(type):
        def __getattr__(cls, name: str) -> Any:  # noqa: ANN401 - whatever the library has
            return getattr(real, name)

        def __call__(cls, tokenizer: Any, grammar: Any, **options: Any) -> Any:  # noqa: ANN401
            if text in str(grammar):
                fail()
            return real(tokenizer, grammar, **options)

    class LLMatcher(metaclass=_Type):
        """The library's own class, except for one text."""

    llguidance.LLMatcher = LLMatcher


if __name__ == "__main__":
    where, how, text, *words = sys.argv[1:]
    _change(where, text, _abort if how == ABORT else _panic)
    from edged.cli import main

    sys.exit(main(words))
