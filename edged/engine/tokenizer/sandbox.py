"""A Jinja sandbox that meters the work of a chat template.

A template is compiled to Python, and a few characters of it can ask for any amount of work. So each
rendering has an allowance: a pass through a loop or a macro costs the size of its body, and an
operator, filter or method costs the size of what it reads and makes. What makes more than it reads
is paid for before it is done.

Rule: what has no known price is not there.
"""

import json
from collections.abc import Callable
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn, TypeAlias, cast

from jinja2 import Template, TemplateSyntaxError, Undefined, nodes, pass_context, pass_eval_context
from jinja2 import TemplateError as JinjaError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

_Value: TypeAlias = Any
"""Whatever a template has in hand."""
_OBJECT = 8
"""Price of a value beside its characters or members."""
_PIECE = 16
"""Price of a value made for a character of a text or a number of a range."""
_INTEGER_BITS = 63
_INDENT = 16
_ERROR_CHARACTERS = 200
_MAX_NODES = 4096
"""Of a syntax tree. Each takes Python's compiler some 10 kB; templates for tools have 250."""

# What a template may be made of. It cannot read other templates, nor take powers.
_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Scope, nodes.With, nodes.For),
    *(nodes.If, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.Break, nodes.Continue),
    *(nodes.Assign, nodes.AssignBlock, nodes.Name, nodes.NSRef, nodes.Const, nodes.List),
    *(nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr, nodes.Call),
    *(nodes.Filter, nodes.Test, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Concat),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
)
_SCOPES = ("_block_vars", "_loop_vars")
"""What compiled templates add to the arguments of each call."""
_SEQUENCES = (str, list, tuple)
_VIEWS: tuple[type[Any], ...] = tuple(
    type(getattr({}, name)()) for name in ("keys", "values", "items")
)
_SIZED: tuple[type[Any], ...] = (*_SEQUENCES, dict, *_VIEWS)
_COUNTED: tuple[type[Any], ...] = (*_SIZED, range)
_FREE_FILTERS = ("count", "d", "default", "first", "items", "last", "length")
_FILTERS_OF_ITEMS = ("list", "map", "reject", "rejectattr", "reverse", "select", "selectattr")
_FILTERS_OF_ALL = (
    *("abs", "capitalize", "dictsort", "float", "int", "lower", "max", "min", "sort", "string"),
    *("title", "trim", "unique", "upper"),
)
_FREE_TESTS = (
    *("boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping"),
    *("none", "number", "sequence", "string", "true", "undefined"),
)
_TESTS_OF_ALL = (
    *("!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le"),
    *("lessthan", "lower", "lt", "ne", "sameas", "upper"),
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        (
            *("capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha"),
            *("isdecimal", "isdigit", "islower", "isnumeric", "isspace", "isupper", "join"),
            *("lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind"),
            *("rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith"),
            *("strip", "title", "upper"),
        )
    ),
    list: frozenset(("count", "index")),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    LoopContext: frozenset(("changed", "cycle")),
}


class AllowanceError(JinjaError):
    """A template would do more than it is allowed, or what has no known price."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates and pays for what they do; for one rendering at a time."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing is computed before there is an allowance
            extensions=[loopcontrols, _GenerationBlock],
        )
        self.allowance = 0
        """What the rendering may still spend."""
        known = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        # No strftime_now: a clock at the head of a prompt would make every prompt a new one.
        self.globals = {**known, "raise_exception": self._raise_exception}
        self._functions = tuple(self.globals.values())
        filters = cast("dict[str, Callable[..., Any]]", self.filters)
        tests = cast("dict[str, Callable[..., Any]]", self.tests)
        self._join_items = filters["join"]
        self.filters = {
            "_paid": pass_context(lambda _, price: self._spend(price)),
            "_passes": pass_context(lambda _, items, price: self._counted(items, price)),
            "_measured": pass_context(lambda _, value: self._measured(value)),
            "_weighed": pass_context(lambda _, value: self._weighed(value)),
            **{name: self._priced(filters[name], self._held) for name in _FREE_FILTERS},
            **{name: self._priced(filters[name], self._counted) for name in _FILTERS_OF_ITEMS},
            **{name: self._priced(filters[name], self._weighed) for name in _FILTERS_OF_ALL},
            "join": self._priced(self._join, self._weighed),
            "replace": self._priced(self._replace, self._weighed),
            "safe": self._priced(str, self._weighed),
            "tojson": self._priced(self._to_json, self._weighed),
        }
        self.tests = {
            **{name: tests[name] for name in _FREE_TESTS},
            **{name: self._priced(tests[name], self._weighed) for name in _TESTS_OF_ALL},
            # Jinja's own would format a text.
            "even": lambda value: isinstance(value, int) and value % 2 == 0,
            "odd": lambda value: isinstance(value, int) and value % 2 == 1,
        }

    def compile_priced(self, source: str) -> Template:
        """Compile a template.

        Raises:
            TemplateSyntaxError: it is not one, or is made of what has no price.
        """
        tree = self.parse(source)
        self._num_nodes = 0
        self._price(tree)
        return self.from_string(tree)

    # What compiled templates call.

    def call(
        self, context: Context, function: _Value, /, *args: _Value, **kwargs: _Value
    ) -> _Value:
        """Call what a template may call.

        Raises:
            AllowanceError: it is something else, or takes too much.
        """
        self._spend(1 + len(args) + len(kwargs))
        if isinstance(function, Macro | Undefined):
            return super().call(context, function, *args, **kwargs)
        if any(function is known for known in self._functions):
            for value in (*args, *kwargs.values()):
                self._measured(value)
            return super().call(context, function, *args, **kwargs)
        is_method = isinstance(function, BuiltinMethodType | MethodType)
        owner = function.__self__ if is_method else None
        if getattr(function, "__name__", None) not in _METHODS.get(type(owner), ()):
            raise AllowanceError(f"a {type(function).__name__} that a template cannot call")
        paid = [self._weighed(value) for value in args]
        named = {k: self._weighed(v) for k, v in kwargs.items() if k not in _SCOPES}
        return self._call_method(owner, function, paid, named)

    def call_binop(self, context: Context, operator: str, left: _Value, right: _Value) -> _Value:
        """Compute with numbers, and put texts or lists together.

        Raises:
            AllowanceError: it is something else, or makes too much.
        """
        if operator != "+" and (isinstance(left, _SEQUENCES) or isinstance(right, _SEQUENCES)):
            raise AllowanceError(f"{operator} is for numbers only")
        return self._measured(super().call_binop(context, operator, left, right))

    def _call_method(
        self,
        owner: _Value,
        method: _Value,
        args: list[_Value],
        kwargs: dict[str, _Value],
    ) -> _Value:
        if isinstance(owner, dict):  # what is in it is handed out, not read
            self._measured(owner)
            return method(*args, **kwargs)
        if isinstance(owner, LoopContext):
            return method(*args, **kwargs)
        self._weighed(owner)
        if method.__name__ == "join":
            self._spend(len(owner) * len(args[0]))
        elif method.__name__ == "replace":
            return self._measured(self._replace(owner, *args))
        elif method.__name__ in {"strip", "lstrip", "rstrip"} and args and args[0]:
            self._spend(len(owner) * len(args[0]))
        return self._weighed(method(*args, **kwargs))

    def _priced(
        self, function: Callable[..., _Value], pay: Callable[[_Value], _Value]
    ) -> Callable[..., _Value]:
        """Return a filter or test that pays for its arguments and for its result."""
        passed = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

        @pass_context
        def run(context: Context, value: _Value, *args: _Value, **kwargs: _Value) -> _Value:
            value, args = pay(value), tuple(map(pay, args))
            kwargs = {name: pay(argument) for name, argument in kwargs.items()}
            # Each item may be compared with each character, or be asked for a path of attributes.
            texts = [text for text in (*args, *kwargs.values()) if isinstance(text, str)]
            size = len(value) if isinstance(value, _COUNTED) else 1
            self._spend(1 + size * sum(map(len, texts)))
            lead = {"context": context, "eval_context": context.eval_ctx, "environment": self}
            first = (lead[passed], value) if passed else (value,)
            result = function(*first, *args, **kwargs)
            # An iterator stays one: true even when it is empty, and used up when it was read.
            return iter(self._held(result)) if hasattr(result, "__next__") else pay(result)

        return run

    # What things cost.

    def _spend(self, price: int) -> None:
        self.allowance -= price
        if self.allowance < 0:
            raise AllowanceError("it takes more steps, or makes more text, than it may")

    def _held(self, value: _Value) -> _Value:
        """Return a value, or the items of an iterator, each paid for as it is made."""
        if not hasattr(value, "__next__"):
            return value
        items = []
        for item in value:
            self._spend(_OBJECT)
            items.append(item)
        return items

    def _measured(self, value: _Value) -> _Value:
        """Pay for a value, but not for what is in it."""
        if isinstance(value, int):
            self._weighed(value)
        else:
            self._spend(_OBJECT + (len(value) if isinstance(value, _SIZED) else 0))
        return value

    def _counted(self, value: _Value, price: int = 1) -> _Value:
        """Pay so much for each item of a value."""
        value = self._held(value)
        if isinstance(value, _COUNTED):
            self._spend(len(value) * (price + _PIECE * isinstance(value, str | range)))
        return value

    def _weighed(self, value: _Value) -> _Value:
        """Pay for a value with all that is in it.

        Raises:
            AllowanceError: there is too much, or something that is no text.
        """
        value = self._held(value)
        if isinstance(value, str):
            self._spend(_OBJECT + len(value))
        elif isinstance(value, int):
            if value.bit_length() > _INTEGER_BITS:
                raise AllowanceError(f"a number has more than {_INTEGER_BITS} bits")
            self._spend(1)
        elif isinstance(value, range):
            self._spend(_PIECE * len(value))
        elif isinstance(value, _SIZED):
            self._spend(_OBJECT)
            for item in value.items() if isinstance(value, dict) else value:
                self._weighed(item)
        elif value is None or isinstance(value, float | Undefined):
            self._spend(1)
        else:
            raise AllowanceError(f"a {type(value).__name__} is no text")
        return value

    def _price(self, node: nodes.Node) -> int:
        """Have the parts of a tree pay, and return what one pass through it costs.

        Raises:
            TemplateSyntaxError: a part has no price, or there are too many.
        """
        if not isinstance(node, _NODES) or getattr(node, "recursive", False):
            raise TemplateSyntaxError(
                f"{type(node).__name__.lower()} is not for chat templates", node.lineno
            )
        self._num_nodes += 1
        if self._num_nodes > _MAX_NODES:
            raise TemplateSyntaxError(f"it has more than {_MAX_NODES} parts", node.lineno)
        if isinstance(node, nodes.Const | nodes.TemplateData):
            return 1 + len(str(node.as_const()))
        price = 1 + sum(self._price(child) for child in node.iter_child_nodes(exclude=("body",)))
        body = getattr(node, "body", [])
        body_price = sum(map(self._price, body))
        self._have_paid(node, price)
        if not isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            return price + body_price
        paid = self._filter("_paid", nodes.Const(body_price))
        body.insert(0, nodes.ExprStmt(paid, lineno=node.lineno))
        return price

    def _have_paid(self, node: nodes.Node, price: int) -> None:
        """Have what a node reads pass through the filters that take its price."""
        if isinstance(node, nodes.For):
            node.iter = self._filter("_passes", cast("nodes.Expr", node.iter), nodes.Const(price))
        elif isinstance(node, nodes.Output | nodes.Concat):
            node.nodes = [self._weighing(child) for child in node.nodes]
        elif isinstance(node, nodes.Compare | nodes.Operand):
            node.expr = self._weighing(node.expr)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            node.node = self._filter("_measured", node.node)

    def _weighing(self, node: nodes.Expr) -> nodes.Expr:
        is_text = isinstance(node, nodes.Const | nodes.TemplateData)
        return node if is_text else self._filter("_weighed", node)

    def _filter(self, name: str, node: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
        priced = nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)
        priced.set_environment(self)
        return priced

    # What chat templates expect beside Jinja's own.

    @pass_eval_context
    def _join(
        self,
        settings: EvalContext,
        items: _Value,
        d: str = "",
        attribute: _Value = None,
    ) -> _Value:
        self._spend(len(items) * len(d))
        return self._join_items(settings, items, d, attribute)

    def _replace(self, value: _Value, old: _Value, new: _Value, count: int | None = None) -> str:
        text, part = str(value), str(old)
        self._spend(text.count(part) * len(str(new)))
        return text.replace(part, str(new), -1 if count is None else count)

    def _to_json(self, value: object, indent: int | None = None) -> str:
        if indent is None:
            return json.dumps(value, ensure_ascii=False)
        if not 0 <= indent <= _INDENT:
            raise AllowanceError(f"tojson: indent must be from 0 to {_INDENT}")
        pieces = json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value)
        return "".join(cast("list[str]", self._held(pieces)))

    def _raise_exception(self, message: object) -> NoReturn:
        raise JinjaError(str(self._weighed(message))[:_ERROR_CHARACTERS])


class _GenerationBlock(Extension):
    """``{% generation %}`` marks the answer for training; here its body simply stays."""

    tags = {"generation"}  # noqa: RUF012 - the name and type that jinja2 reads

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
