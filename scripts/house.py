"""The house rules that ruff does not know: sizes, names, and what stands in ``edged/``.

    house.py            print ``file:line: rule`` for each finding; 1 when a rule is broken
    house.py --table    print the measures of the whole beside their targets

A rule in ``WARN_ONLY`` is printed and breaks nothing.
"""

import ast
import collections.abc
import statistics
import subprocess
import sys
import time
import tomllib
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVING_ROOMS = frozenset(
    ("protocol", "config", "bundle", "scheduling", "engine", "transport", "node", "daemon")
)
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_ENTRIES = 13
SHORT_MODULE_LINES = 50
MAX_SHORT_MODULES = 10
# Such a name says where a class stands, not what it is; such a module collects what has no place.
VAGUE_CLASS_ENDINGS = ("Manager", "Helper", "Handler", "Base", "Impl")
VAGUE_MODULES = {"utils", "util", "helpers", "common", "misc", "manager", "base"}
STANDARD_NAMES = {*typing.__all__, *collections.abc.__all__}
HEAVY_PACKAGES = {"onnxruntime", "tokenizers", "llguidance", "jinja2", "paho", "psutil"}

# Rules that are printed as warnings and break nothing, by name.
WARN_ONLY: frozenset[str] = frozenset()

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule."""

    rule: str
    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        place = self.path.relative_to(ROOT)
        kind = "warning: " if self.rule in WARN_ONLY else ""
        return f"{place}:{self.line}: {kind}{self.message} ({self.rule})"


@dataclass(frozen=True)
class Module:
    """One Python file, parsed."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The entry of ``edged/`` that it belongs to; ``""`` outside of a folder there."""
        parts = self.path.relative_to(ROOT).parts
        return parts[1] if parts[0] == "edged" and len(parts) > 2 else ""  # noqa: PLR2004

    @property
    def num_lines(self) -> int:
        """Lines of the file."""
        return len(self.text.splitlines())

    @property
    def is_short(self) -> bool:
        """Whether a serving room could do without this file."""
        is_counted = self.room in SERVING_ROOMS and not self.path.stem.startswith("__")
        return is_counted and self.num_lines < SHORT_MODULE_LINES

    def classes(self) -> Iterator[ast.ClassDef]:
        """Yield each class."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef))

    def functions(self) -> Iterator[Function]:
        """Yield each function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def read_modules() -> list[Module]:
    """Parse the package and the scripts."""
    paths = [*(ROOT / "edged").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    texts = [(path, path.read_text("utf-8")) for path in sorted(paths)]
    return [Module(path, text, ast.parse(text)) for path, text in texts]


def function_lines(function: Function, *, is_documentation_counted: bool) -> int:
    """Count a function's lines from ``def`` to its end."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if is_documentation_counted or ast.get_docstring(function, clean=False) is None:
        return total
    first = function.body[0]
    return total - ((first.end_lineno or first.lineno) - first.lineno + 1)


def entries() -> list[str]:
    """Name what stands in ``edged/``, but for what Python itself asks for."""
    names = {path.name for path in (ROOT / "edged").iterdir()} - {"py.typed"}
    return sorted(name for name in names if not name.startswith(("__", ".")))


def check_sizes(modules: list[Module]) -> Iterator[Finding]:
    """Find modules and functions that are too long."""
    for module in modules:
        if module.num_lines > MAX_MODULE_LINES:
            message = f"{module.num_lines} lines, at most {MAX_MODULE_LINES}: it is two modules"
            yield Finding("module-length", module.path, MAX_MODULE_LINES + 1, message)
        for function in module.functions():
            length = function_lines(function, is_documentation_counted=False)
            if length > MAX_FUNCTION_LINES:
                message = f"{function.name}: {length} lines, at most {MAX_FUNCTION_LINES}"
                yield Finding("function-length", module.path, function.lineno, message)


def check_vague_names(modules: list[Module]) -> Iterator[Finding]:
    """Find names that say nothing."""
    for module in modules:
        if module.path.stem in VAGUE_MODULES:
            message = f"{module.path.stem}: say what the module is about"
            yield Finding("module-name", module.path, 1, message)
        for node in module.classes():
            if node.name.endswith(VAGUE_CLASS_ENDINGS):
                message = f"{node.name}: say what the class is"
                yield Finding("class-name", module.path, node.lineno, message)


def check_class_names(modules: list[Module]) -> Iterator[Finding]:
    """Find classes with the name of another one in their room, or of the standard library's."""
    seen: dict[tuple[str, str], Path] = {}
    for module in modules:
        for node in module.classes():
            name = node.name
            if name in STANDARD_NAMES:
                message = f"{name}: typing or collections.abc has that name"
                yield Finding("class-shadows", module.path, node.lineno, message)
            first = seen.setdefault((module.room, name), module.path)
            if module.room and first != module.path:
                message = f"{name}: {first.relative_to(ROOT)} has a class of that name, too"
                yield Finding("class-twice", module.path, node.lineno, message)


def check_layout(modules: list[Module]) -> Iterator[Finding]:
    """Find too many entries in ``edged/`` and too many short modules in the serving rooms."""
    if len(names := entries()) > MAX_ENTRIES:
        message = f"{len(names)} entries, at most {MAX_ENTRIES}: {', '.join(names)}"
        yield Finding("entries", ROOT / "edged", 1, message)
    short = [module for module in modules if module.is_short]
    if len(short) > MAX_SHORT_MODULES:
        for module in short:
            message = (
                f"{module.num_lines} lines; {len(short)} modules of the serving rooms have less "
                f"than {SHORT_MODULE_LINES}, at most {MAX_SHORT_MODULES} may"
            )
            yield Finding("short-modules", module.path, 1, message)


CHECKS: tuple[Callable[[list[Module]], Iterable[Finding]], ...] = (
    check_sizes,
    check_vague_names,
    check_class_names,
    check_layout,
)


def longest_chain(imports: dict[str, set[str]]) -> int:
    """Count the floors: the nodes of the longest chain of imports.

    Raises:
        ValueError: If the imports run in a circle.
    """
    floors: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            raise ValueError(f"a circle of imports: {' -> '.join((*above, name))}")
        if name not in floors:
            below = [floor(other, (*above, name)) for other in imports.get(name, set())]
            floors[name] = 1 + max(below, default=0)
        return floors[name]

    return max(floor(name, ()) for name in imports)


def room_imports() -> tuple[dict[str, set[str]], int]:
    """Return which entries of ``edged/`` each one imports, and how many modules do so."""
    import grimp  # noqa: PLC0415 - comes with import-linter, which only the table needs

    graph = grimp.build_graph("edged")
    rooms: dict[str, set[str]] = {name.removesuffix(".py"): set() for name in entries()}
    num_modules = 0
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            upper, lower = (f"{name}.".split(".")[1] for name in (module, imported))
            if upper in rooms and lower in rooms and upper != lower:
                rooms[upper].add(lower)
                num_modules += 1
    return rooms, num_modules


def import_cost(room: str) -> tuple[float, list[str]]:
    """Import a room in a process of its own; return the seconds and the heavy packages it loads."""
    names = [f"edged.{room}.{path.stem}" for path in (ROOT / "edged" / room).glob("*.py")]
    code = f"import sys, {', '.join(names)}; print(*sys.modules)".replace(".__init__", "")
    times_s: dict[str, list[float]] = {"pass": [], code: []}
    loaded: list[str] = []
    for program in [*times_s] * 3:
        start_s = time.perf_counter()
        command = [sys.executable, "-c", program]
        shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        times_s[program].append(time.perf_counter() - start_s)
        loaded += shown.stdout.split()
    return min(times_s[code]) - min(times_s["pass"]), sorted(HEAVY_PACKAGES & set(loaded))


def comment_share(modules: list[Module]) -> float:
    """Return which share of the lines is nothing but a comment."""
    lines = [line for module in modules for line in module.text.splitlines()]
    return sum(line.lstrip().startswith("#") for line in lines) / len(lines)


def count_repeated_classes(modules: list[Module]) -> tuple[int, int]:
    """Count the findings about class names: twice in a room, and shadowing."""
    rules = [finding.rule for finding in check_class_names(modules)]
    return rules.count("class-twice"), rules.count("class-shadows")


def function_sizes(modules: list[Module]) -> str:
    """Return median, 90th percentile and maximum of the functions' lines."""
    sizes = sorted(
        function_lines(function, is_documentation_counted=True)
        for module in modules
        for function in module.functions()
    )
    return f"{statistics.median(sizes):.0f} / {sizes[len(sizes) * 9 // 10]} / {sizes[-1]}"


def rows(modules: list[Module]) -> Iterator[tuple[str, str, str]]:
    """Yield each measure with its value and its target."""
    package = [module for module in modules if module.path.is_relative_to(ROOT / "edged")]
    serving = [module for module in package if module.room in SERVING_ROOMS]
    yield "lines of the package", f"{sum(module.num_lines for module in package):,}", ""
    yield "lines of the serving rooms", f"{sum(m.num_lines for m in serving):,}", "<= 14,500"
    yield "entries in edged/", str(len(entries())), f"<= {MAX_ENTRIES}"
    lengths = sorted(module.num_lines for module in serving)
    measured = f"{statistics.median(lengths):.0f} / {lengths[-1]}"
    yield "module, median / longest (serving rooms)", measured, f"100-200 / <= {MAX_MODULE_LINES}"
    num_short = sum(module.is_short for module in modules)
    yield "modules under 50 lines (serving rooms)", str(num_short), f"<= {MAX_SHORT_MODULES}"
    name = "function, median / p90 / longest"
    yield f"{name} (serving rooms)", function_sizes(serving), "keep 7 / 20 / 47"
    yield f"{name} (package)", function_sizes(package), ""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    yield "import contracts", str(len(pyproject["tool"]["importlinter"]["contracts"])), "<= 12"
    rooms, num_modules = room_imports()
    yield "floors of imports between rooms", str(longest_chain(rooms)), "<= 10"
    yield "arrows between rooms", str(sum(map(len, rooms.values()))), "<= 110"
    yield "arrows between modules of different rooms", str(num_modules), ""
    twice, shadowing = count_repeated_classes(modules)
    yield "classes named twice in a room", str(twice), "0"
    yield "classes that shadow typing or collections.abc", str(shadowing), "0"
    yield "comment lines (serving rooms)", f"{comment_share(serving):.1%}", "3-6 %"
    seconds, heavy = import_cost("node")
    yield "import of all of edged/node", f"{seconds:.2f} s", "<= 0.15 s"
    yield "heavy packages that it loads", " ".join(heavy) or "none", "none"


def print_table(modules: list[Module]) -> None:
    """Print the measures as a table of Markdown."""
    print("| | measured | target |\n|---|---|---|")
    for row in rows(modules):
        print(f"| {' | '.join(row)} |")


def main() -> int:
    """Look at every module; 1 when a rule is broken that does not only warn."""
    modules = read_modules()
    if sys.argv[1:] == ["--table"]:
        print_table(modules)
        return 0
    found = [finding for check in CHECKS for finding in check(modules)]
    for finding in found:
        print(finding)
    return 1 if any(finding.rule not in WARN_ONLY for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main())
