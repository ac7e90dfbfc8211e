"""``docs/configuration.md``, made from the declarations.

Rule: the document says nothing about a key that its declaration does not say.
"""

import textwrap

from edged.config.declare import Setting
from edged.config.load import SECTIONS, SETTINGS
from scripts.specification.pieces import docs_of

_EXAMPLE_MODEL = "/var/lib/edged/models/smollm2-135m-instruct"

_INTRODUCTION = """\
# Configuration

<!-- Made by scripts/make-config-reference from edged/config/keys.py; do not edit. -->

`edged run --config FILE` reads one YAML file. An unknown key or a wrong value stops the start with
exit status 78 and a line that names the key, the value, what is expected and where it stands. A
file or folder that is not there, or memory that others hold, is waited for.
Only `model.path` is required.

- A duration is a number with `ms`, `s`, `min`, `h` or `d`, such as `500ms` or `5min`; a bare number
  is seconds.
- A size is a number with `K`, `M` or `G` (also `KiB`, `MiB`, `GiB`), powers of 1024 as in systemd's
  units; `kB`, `MB` and `GB` are powers of 1000; a bare number is bytes.
- A relative path starts at the folder of the configuration file.
- `null` means "not set".
"""


def reference_markdown() -> str:
    """Write the reference: a table for each section, then an example with every key."""
    parts = [_INTRODUCTION]
    for name, section in SECTIONS.items():
        parts.append(f"## {name or 'Top level'}\n\n{section.__doc__}\n")
        parts.append(_table(name))
    parts.append("## Example with every key and its default\n")
    parts.append(f"```yaml\n{example_yaml()}```\n")
    return "\n".join(parts)


def example_yaml() -> str:
    """Write a configuration with every key, each at its default and explained; it loads."""
    lines: list[str] = []
    for name in SECTIONS:
        indent = "  " if name else ""
        lines += ["", f"{name}:"] if name else []
        for item in _settings(name):
            words = textwrap.wrap(_doc(item), 90)
            lines += [f"{indent}# {line}" for line in words]
            lines.append(f"{indent}{_example_line(item)}")
    return "\n".join(lines) + "\n"


def _settings(section: str) -> list[Setting]:
    return [item for item in SETTINGS.values() if item.path.rpartition(".")[0] == section]


def _doc(item: Setting) -> str:
    section = SECTIONS[item.path.rpartition(".")[0]]
    return item.advice or docs_of(section)[item.field_name]


def _table(section: str) -> str:
    head = "| key | value | default | meaning |\n|---|---|---|---|\n"
    rows = (
        f"| `{item.path}` | {_escaped(item.kind.expected)} | {_default(item)} | {_doc(item)} |\n"
        for item in _settings(section)
    )
    return head + "".join(rows)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _default(item: Setting) -> str:
    if item.advice is not None:
        return "**required**"
    if item.note is not None:
        return item.note
    return "null" if item.default is None else f"`{item.kind.show(item.default)}`"


def _example_line(item: Setting) -> str:
    key = item.path.rpartition(".")[2]
    if item.advice is not None:
        return f"{key}: {_EXAMPLE_MODEL}"
    shown = "null" if item.default is None else item.kind.show(item.default)
    return f"{key}: {shown}" + (f"  # default: {item.note}" if item.note else "")
