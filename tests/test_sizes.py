"""The house rules that a linter does not know: small modules, small functions, honest names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40
# Such a name says where a class stands, not what it is; such a module collects what has no place.
VAGUE_CLASS_ENDINGS = ("Manager", "Helper", "Handler", "Base", "Impl")
VAGUE_MODULES = {"utils", "util", "helpers", "common", "misc", "manager", "base"}

MODULES = sorted(
    path
    for room in ("benchmarks", "edged", "scripts", "tests/conformance")
    for path in (ROOT / room).rglob("*.py")
)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines from ``def`` to its end, without its docstring."""
    start, first = function.lineno, function.body[0]
    is_documented = ast.get_docstring(function, clean=False) is not None
    documentation = (first.end_lineno or 0) - first.lineno + 1 if is_documented else 0
    return (function.end_lineno or start) - start + 1 - documentation


@pytest.fixture(params=MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def module(request: pytest.FixtureRequest) -> Path:
    """One module that is no test."""
    path: Path = request.param
    return path


def test_a_module_is_one_thing(module: Path) -> None:
    lines = len(module.read_text("utf-8").splitlines())
    assert lines <= MAX_MODULE_LINES, f"{lines} lines: it is two things"


def test_a_function_fits_a_screen(module: Path) -> None:
    tree = ast.parse(module.read_text("utf-8"))
    long = [f"{f.name}: {length(f)}" for f in functions(tree) if length(f) > MAX_FUNCTION_LINES]
    assert not long, f"longer than {MAX_FUNCTION_LINES} lines"


def test_a_name_says_what_a_thing_is(module: Path) -> None:
    tree = ast.parse(module.read_text("utf-8"))
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert not [name for name in names if name.endswith(VAGUE_CLASS_ENDINGS)]
    assert module.stem not in VAGUE_MODULES


def test_the_rules_look_at_the_package() -> None:
    assert ROOT / "edged" / "protocol" / "request.py" in MODULES
