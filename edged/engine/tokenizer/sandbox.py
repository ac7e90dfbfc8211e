"""A Jinja sandbox that limits the work of a chat template.

A template is compiled to Python, and a few characters of it can ask for any amount of work. So each
rendering has a budget: a pass through a loop or a macro costs the size of its body; an operator,
filter or method costs the size of what it reads and makes. What makes more than it reads is charged
before it is done.

Rule: an operation whose cost is not known is not available.
"""

import json
from collections.abc import Callable, ItemsView, KeysView, ValuesView
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn, TypeAlias, cast

from jinja2 import Template, TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2 import TemplateError as JinjaError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

# A value within a template.
_Value: TypeAlias = Any
_Charge: TypeAlias = Callable[[_Value], _Value]
# Cost of a value beside its characters or members.
_OBJECT = 8
# Cost of a value made for a character of a text or a number of a range.
_NEW_ITEM = 16
_INTEGER_BITS = 63
_INDENT = 16
_ERROR_CHARACTERS = 200
# Of a syntax tree. Each takes Python's compiler some 10 kB; templates for tools have 250.
_MAX_NODES = 4096
# Arguments that compiled templates add to each call.
_SCOPES = ("_block_vars", "_loop_vars")
_SEQUENCES = (str, list, tuple)
_SIZED = (*_SEQUENCES, dict, KeysView, ValuesView, ItemsView)
_COUNTED = (*_SIZED, range)
_BLOCKS = (nodes.For, nodes.Macro, nodes.CallBlock)

# fmt: off
# The syntax that is allowed: no access to other templates, no powers.
_NODES = (
    *_BLOCKS, nodes.Template, nodes.Output, nodes.TemplateData, nodes.Scope, nodes.With, nodes.If,
    nodes.FilterBlock, nodes.Break, nodes.Continue, nodes.Assign, nodes.AssignBlock, nodes.Name,
    nodes.NSRef, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword,
    nodes.CondExpr, nodes.Call, nodes.Filter, nodes.Test, nodes.Getattr, nodes.Getitem, nodes.Slice,
    nodes.Concat, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg,
    nodes.Pos, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod,
)
# Filters by what they read: the value alone, each of its items, or all of its content.
_FILTERS_OF_VALUE = ("count", "d", "default", "first", "items", "last", "length")
_FILTERS_OF_ITEMS = ("list", "map", "reject", "rejectattr", "reverse", "select", "selectattr")
_FILTERS_OF_ALL = (
    "abs", "capitalize", "dictsort", "float", "int", "join", "lower", "max", "min", "sort",
    "string", "title", "trim", "unique", "upper",
)
_FREE_TESTS = (
    "boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping", "none",
    "number", "sequence", "string", "true", "undefined",
)
_TESTS_OF_ALL = (
    "!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le",
    "lessthan", "lower", "lt", "ne", "sameas", "upper",
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset([
        "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal",
        "isdigit", "islower", "isnumeric", "isspace", "isupper", "join", "lower", "lstrip",
        "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition",
        "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper",
    ]),
    list: frozenset(["count", "index"]),
    dict: frozenset(["copy", "get", "items", "keys", "values"]),
}
# fmt: on


class BudgetError(JinjaError):
    """A template exceeds its budget, or uses an operation without a known cost."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates and charges for what they do; for one rendering at a time."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # no constant is computed at compile time, before there is a budget
            extensions=[loopcontrols, _GenerationBlock],
        )
        self.budget = 0
        """The remaining cost that the rendering may have."""
        known = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        # No strftime_now: a clock at the head of a prompt would make every prompt a new one.
        self.globals = {**known, "raise_exception": self._raise_exception}
        filters = cast("dict[str, Callable[..., Any]]", self.filters)
        tests = cast("dict[str, Callable[..., Any]]", self.tests)
        metered = self._metered
        self.filters = {
            "_charge": pass_context(lambda _, cost: self._charge(cost)),
            "_charge_items": pass_context(lambda _, items, cost: self._charge_items(items, cost)),
            "_charge_value": pass_context(lambda _, value: self._charge_value(value)),
            "_charge_content": pass_context(lambda _, value: self._charge_content(value)),
            **{name: metered(filters[name], self._as_list) for name in _FILTERS_OF_VALUE},
            **{name: metered(filters[name], self._charge_items) for name in _FILTERS_OF_ITEMS},
            **{name: metered(filters[name], self._charge_content) for name in _FILTERS_OF_ALL},
            "replace": metered(self._replace, self._charge_content),
            "safe": metered(str, self._charge_content),
            "tojson": metered(self._to_json, self._charge_content),
        }
        self.tests = {
            **{name: tests[name] for name in _FREE_TESTS},
            **{name: metered(tests[name], self._charge_content) for name in _TESTS_OF_ALL},
            # Jinja's own would apply % to a text, which formats it.
            "even": lambda value: isinstance(value, int) and value % 2 == 0,
            "odd": lambda value: isinstance(value, int) and value % 2 == 1,
        }

    def compile_metered(self, source: str) -> Template:
        """Compile a template.

        Raises:
            TemplateSyntaxError: it is not one, or uses syntax that is not allowed.
        """
        tree = self.parse(source)
        self._num_nodes = 0
        self._meter(tree)
        return self.from_string(tree)

    # Called by compiled templates.

    def call(
        self, context: Context, function: _Value, /, *args: _Value, **kwargs: _Value
    ) -> _Value:
        """Call a macro, a global function or an allowed method.

        Raises:
            BudgetError: it is something else, or costs too much.
        """
        self._charge(1 + len(args) + len(kwargs))
        if isinstance(function, Macro | Undefined):
            return super().call(context, function, *args, **kwargs)
        if any(function is known for known in self.globals.values()):
            for value in (*args, *kwargs.values()):
                self._charge_value(value)
            return super().call(context, function, *args, **kwargs)
        is_method = isinstance(function, BuiltinMethodType | MethodType)
        owner = function.__self__ if is_method else None
        if getattr(function, "__name__", None) not in _METHODS.get(type(owner), ()):
            raise BudgetError(f"a {type(function).__name__} that a template cannot call")
        charged = [self._charge_content(value) for value in args]
        named = {k: self._charge_content(v) for k, v in kwargs.items() if k not in _SCOPES}
        return self._call_method(owner, function, charged, named)

    def call_binop(self, context: Context, operator: str, left: _Value, right: _Value) -> _Value:
        """Compute with numbers, or concatenate texts or lists.

        Raises:
            BudgetError: it is another operation, or costs too much.
        """
        if operator != "+" and (isinstance(left, _SEQUENCES) or isinstance(right, _SEQUENCES)):
            raise BudgetError(f"{operator} is for numbers only")
        return self._charge_value(super().call_binop(context, operator, left, right))

    def _call_method(
        self, owner: _Value, method: _Value, args: list[_Value], kwargs: dict[str, _Value]
    ) -> _Value:
        if isinstance(owner, dict):  # its members are returned, not read
            self._charge_value(owner)
            return method(*args, **kwargs)
        self._charge_content(owner)
        if method.__name__ == "replace":
            return self._charge_value(self._replace(owner, *args))
        if method.__name__ in {"join", "strip", "lstrip", "rstrip"} and args and args[0]:
            self._charge(len(owner) * len(args[0]))
        return self._charge_content(method(*args, **kwargs))

    def _metered(self, function: Callable[..., _Value], charge: _Charge) -> Callable[..., _Value]:
        """Return a filter or test that charges for its arguments and its result."""
        passed = getattr(getattr(function, "jinja_pass_arg", None), "name", "")
        # Whatever has been charged with its content may become text.
        textual = _SIZED if charge == self._charge_content else str

        @pass_context
        def run(context: Context, value: _Value, *args: _Value, **kwargs: _Value) -> _Value:
            value, args = charge(value), tuple(map(charge, args))
            kwargs = {name: charge(argument) for name, argument in kwargs.items()}
            # Each item may be compared with each character, searched for a path of attributes, or
            # joined to the next one by the text.
            texts = [str(text) for text in (*args, *kwargs.values()) if isinstance(text, textual)]
            size = len(value) if isinstance(value, _COUNTED) else 1
            self._charge(1 + size * sum(map(len, texts)))
            lead = {"context": context, "eval_context": context.eval_ctx, "environment": self}
            first = (lead[passed], value) if passed else (value,)
            result = function(*first, *args, **kwargs)
            # An iterator must stay one: it is true even when empty, and can be read once.
            return iter(self._as_list(result)) if hasattr(result, "__next__") else charge(result)

        return run

    # Costs.

    def _charge(self, cost: int) -> None:
        # Templates can call the filters that charge: a negative cost or a NaN would lift the limit.
        if type(cost) is not int or cost < 0:
            raise BudgetError("a cost must be an integer of at least 0")
        self.budget -= cost
        if self.budget < 0:
            raise BudgetError("it takes more steps, or makes more text, than it may")

    def _as_list(self, value: _Value) -> _Value:
        """Return a value; an iterator as a list, each item charged as it is made."""
        if not hasattr(value, "__next__"):
            return value
        items = []
        for item in value:
            self._charge(_OBJECT)
            items.append(item)
        return items

    def _charge_value(self, value: _Value) -> _Value:
        """Charge for a value without its members' content."""
        if isinstance(value, int):
            self._charge_content(value)
        else:
            self._charge(_OBJECT + (len(value) if isinstance(value, _SIZED) else 0))
        return value

    def _charge_items(self, value: _Value, cost: int = 1) -> _Value:
        """Charge ``cost`` for each item of a value."""
        value = self._as_list(value)
        if isinstance(value, _COUNTED):
            self._charge(len(value) * (cost + _NEW_ITEM * isinstance(value, str | range)))
        return value

    def _charge_content(self, value: _Value) -> _Value:
        # Nothing is left out, so a value that cannot become text is refused.
        value = self._as_list(value)
        if isinstance(value, str):
            self._charge(_OBJECT + len(value))
        elif isinstance(value, int):
            if value.bit_length() > _INTEGER_BITS:
                raise BudgetError(f"a number has more than {_INTEGER_BITS} bits")
            self._charge(1)
        elif isinstance(value, range):
            self._charge(_NEW_ITEM * len(value))
        elif isinstance(value, _SIZED):
            self._charge(_OBJECT)
            for item in value.items() if isinstance(value, dict) else value:
                self._charge_content(item)
        elif value is None or isinstance(value, float | Undefined):
            self._charge(1)
        else:
            raise BudgetError(f"a {type(value).__name__} is no text")
        return value

    def _meter(self, node: nodes.Node) -> int:
        # Inserts charges into a syntax tree, and returns the cost of one pass through it: a pass is
        # charged where it begins, before it does anything.
        if not isinstance(node, _NODES) or getattr(node, "recursive", False):
            raise TemplateSyntaxError(
                f"{type(node).__name__.lower()} is not for chat templates", node.lineno
            )
        self._num_nodes += 1
        if self._num_nodes > _MAX_NODES:
            raise TemplateSyntaxError(f"it has more than {_MAX_NODES} parts", node.lineno)
        if isinstance(node, nodes.Const | nodes.TemplateData):
            return 1 + len(str(node.as_const()))
        cost = 1 + sum(self._meter(child) for child in node.iter_child_nodes(exclude=("body",)))
        body = getattr(node, "body", [])
        body_cost = sum(map(self._meter, body))
        self._meter_inputs(node, cost)
        if not isinstance(node, _BLOCKS):
            return cost + body_cost
        charged = self._filter("_charge", nodes.Const(body_cost))
        body.insert(0, nodes.ExprStmt(charged, lineno=node.lineno))
        return cost

    def _meter_inputs(self, node: nodes.Node, cost: int) -> None:
        """Pass the inputs of a node through the filters that charge for them."""
        if isinstance(node, nodes.For):
            items = cast("nodes.Expr", node.iter)
            node.iter = self._filter("_charge_items", items, nodes.Const(cost))
        elif isinstance(node, nodes.Output | nodes.Concat):
            node.nodes = [self._filter("_charge_content", child) for child in node.nodes]
        elif isinstance(node, nodes.Compare | nodes.Operand):
            node.expr = self._filter("_charge_content", node.expr)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            node.node = self._filter("_charge_value", node.node)

    def _filter(self, name: str, node: nodes.Expr, *args: nodes.Expr) -> nodes.Expr:
        if name == "_charge_content" and isinstance(node, nodes.Const | nodes.TemplateData):
            return node  # charged with the node that holds it
        added = nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)
        added.set_environment(self)
        return added

    # Replacements of Jinja's filters, and functions that chat templates expect.

    def _replace(self, value: _Value, old: _Value, new: _Value, count: int | None = None) -> str:
        text, part = str(value), str(old)
        self._charge(text.count(part) * len(str(new)))
        return text.replace(part, str(new), -1 if count is None else count)

    def _to_json(self, value: object, indent: int | None = None) -> str:
        if indent is None:
            return json.dumps(value, ensure_ascii=False)
        if not 0 <= indent <= _INDENT:
            raise BudgetError(f"tojson: indent must be from 0 to {_INDENT}")
        chunks = json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value)
        return "".join(cast("list[str]", self._as_list(chunks)))

    def _raise_exception(self, message: object) -> NoReturn:
        raise JinjaError(str(self._charge_content(message))[:_ERROR_CHARACTERS])


class _GenerationBlock(Extension):
    """``{% generation %}`` marks the answer for training; here its body simply stays."""

    tags = {"generation"}  # noqa: RUF012 - the name and type that jinja2 reads

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
