"""Strict YAML: no repeated keys, and a plain ``on`` or ``no`` is a string."""

from pathlib import Path
from typing import Any

import yaml

from edged_conformance.errors import CaseError


def load_strictly(path: Path) -> Any:  # noqa: ANN401 - whatever the file has
    """Load one file.

    Raises:
        CaseError: It cannot be read, is not YAML, or a key is repeated; with the line.
    """
    try:
        return yaml.load(path.read_text("utf-8"), _StrictLoader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise CaseError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error


class _StrictLoader(yaml.SafeLoader):
    """YAML without repeated keys, and with ``true`` and ``false`` as the only booleans."""

    # YAML 1.1 reads yes, no, on and off as booleans; in these files they are strings.
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's name for what a plain scalar can be
        first: [pair for pair in pairs if first in "tf" or not pair[0].endswith(":bool")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a repeated key.

        Raises:
            ConstructorError: A key is repeated.
        """
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        repeated = next((key for key in keys if keys.count(key) > 1 and key != "<<"), None)
        if repeated is not None:
            problem = f"the key {repeated!r} is repeated"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)
