"""Declare a configuration key as a dataclass field, and read the declarations back.

Rule: the declaration is the field with its docstring; nothing about a key is written anywhere else.
"""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from edged.config.kinds import Kind

T = TypeVar("T")
Default = TypeVar("Default")


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of one key."""

    path: str
    """Dotted, as in YAML: ``broker.host``."""
    field_name: str
    kind: Kind[Any]
    default: Any
    """Value inside the program; None where it is required."""
    advice: str | None
    """What to set it to; None where it is not required."""
    note: str | None
    """Describes a default that is not a constant, such as "the host name"."""
    is_secret: bool


def required(kind: Kind[T], advice: str) -> T:
    """Declare a field without a default; an error for its absence ends with the advice."""
    return field(metadata={"kind": kind, "advice": advice})  # type: ignore[no-any-return]


def setting(
    kind: Kind[T], default: Default, *, note: str | None = None, is_secret: bool = False
) -> T | Default:
    """Declare a field with a default; a secret one is left out of ``repr``."""
    metadata = {"kind": kind, "note": note, "is_secret": is_secret}
    return field(default=default, repr=not is_secret, metadata=metadata)


def settings_of(section: type[Any], name: str) -> Iterator[Setting]:
    """Yield the declarations of one section, in order."""
    for item in fields(section):
        if item.metadata:
            kind = item.metadata["kind"]
            key = item.name.removesuffix(kind.unit_suffix)
            yield Setting(
                path=f"{name}.{key}" if name else key,
                field_name=item.name,
                kind=kind,
                default=None if item.default is MISSING else item.default,
                advice=item.metadata.get("advice"),
                note=item.metadata.get("note"),
                is_secret=item.metadata.get("is_secret", False),
            )
