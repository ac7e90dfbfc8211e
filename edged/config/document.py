"""Read a YAML document as the text of each key, with its line.

Rule: nothing is constructed from YAML. The document is only composed into nodes, so a tag cannot
name code, an alias cannot multiply, and a scalar stays the text that was written.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

import yaml

from edged.config.kinds import Raw
from edged.errors import ConfigError

_NULL = "tag:yaml.org,2002:null"
# ``merge`` and ``value`` are YAML's names for ``<<`` and ``=``, which are texts like others here.
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")
)


@dataclass(frozen=True, slots=True)
class Given:
    """The text given for a key."""

    raw: Raw | None
    """None is YAML's null."""
    place: str
    """Source and line for an error message: ``edged.yaml, line 3``."""


@dataclass(frozen=True, slots=True)
class Document:
    """The reader of one document, and the keys it may contain."""

    source_name: str
    paths: Collection[str]
    """Dotted paths of all keys."""
    sections: Collection[str]
    """Names of the mappings that contain them."""

    def read(self, text: str) -> dict[str, Given]:
        """Return dotted path → text for each key in the document.

        Raises:
            ConfigError: it is not YAML, a key is unknown, or one is given twice.
        """
        # Composing is recursive: "[" 600 times is too deep for it.
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError) as error:
            # Not chained to YAML's own error, whose text quotes the file.
            raise ConfigError(f"{self.source_name}: not YAML{_problem(error)}") from None
        given: dict[str, Given] = {}
        if root is None or root.tag == _NULL:
            return given
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{self.source_name}: expected keys and values (key: value)")
        for path, value in self._leaves(root, ""):
            # YAML keeps the last one, and the other would be ignored in silence.
            if path in given:
                first = given[path].place.rpartition(", ")[2]
                raise ConfigError(f"{path}: given twice ({first} and {self._place(value)})")
            given[path] = Given(self._raw(value, path), self._place(value))
        return given

    def _leaves(self, node: yaml.MappingNode, section: str) -> Iterator[tuple[str, yaml.Node]]:
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            path = f"{section}.{name}" if section else name
            if path in self.paths:
                yield path, value
            elif path not in self.sections:
                known = [*self.paths, *self.sections]
                raise ConfigError(unknown_key(path, self._place(key), known))
            elif isinstance(value, yaml.MappingNode):
                yield from self._leaves(value, path)
            elif value.tag != _NULL:  # ``broker:`` without keys leaves the defaults
                place = self._place(value)
                raise ConfigError(f"{path}: expected its keys on the lines below ({place})")

    def _raw(self, node: yaml.Node, path: str) -> Raw | None:
        if isinstance(node, yaml.SequenceNode):
            # A null in a list becomes an empty text, which no kind accepts.
            return tuple(self._scalar(item, path) or "" for item in node.value)
        return self._scalar(node, path)

    def _scalar(self, node: yaml.Node, path: str) -> str | None:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN_TAGS:
            raise ConfigError(f"{path}: expected a plain value ({self._place(node)})")
        return None if node.tag == _NULL else str(node.value)

    def _place(self, node: yaml.Node) -> str:
        return f"{self.source_name}, line {node.start_mark.line + 1}"


def _problem(error: Exception) -> str:
    # Without YAML's excerpt of the text, which may contain a password.
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark else ""
    return f"{line}: {getattr(error, 'problem', None) or type(error).__name__}"


def unknown_key(path: str, place: str, known: Collection[str]) -> str:
    """Return the error message for an unknown key, with the most similar known one."""
    # Or of another section: for ``timeout``, ``request.timeout``.
    tails = {name.rpartition(".")[2]: name for name in sorted(known, reverse=True)}
    same_tail = get_close_matches(path.rpartition(".")[2], tails, 1, 0.7)
    nearest = get_close_matches(path, known, 1, 0.7) or [tails[tail] for tail in same_tail]
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"{path}: unknown key{hint} ({place})"
