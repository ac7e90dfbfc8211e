"""Declare a configuration key as a dataclass field, and read the declarations back.

Rule: the declaration is the field; nothing about a key is written anywhere else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypeVar

from edged.config.kinds import Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of one key."""

    path: str
    """Dotted, as in YAML: ``broker.host``."""
    field_name: str
    kind: Kind[Any]
    doc: str
    default: Any
    """Value inside the program; None where ``is_required``."""
    note: str | None
    """Describes a default that is not a constant, such as "the host name"."""
    is_required: bool
    is_secret: bool

    @property
    def is_nullable(self) -> bool:
        """Whether null is a valid value."""
        return self.default is None and not self.is_required


def required(kind: Kind[T], doc: str) -> T:
    """Declare a field without a default."""
    return field(metadata={"kind": kind, "doc": doc})  # type: ignore[no-any-return]


def setting(kind: Kind[T], default: T, doc: str, *, note: str | None = None) -> T:
    """Declare a field that always has a value."""
    return field(default=default, metadata={"kind": kind, "doc": doc, "note": note})


def optional(
    kind: Kind[T], doc: str, *, note: str | None = None, is_secret: bool = False
) -> T | None:
    """Declare a field that is None unless it is set; a secret one is left out of ``repr``."""
    metadata = {"kind": kind, "doc": doc, "note": note, "is_secret": is_secret}
    return field(default=None, repr=not is_secret, metadata=metadata)


def sections_of(config: type[Any]) -> Mapping[str, type[Any]]:
    """Return section name → its dataclass; the empty name is ``config`` with its own keys."""
    sections: dict[str, Any] = {"": config}
    sections |= {item.name: item.type for item in fields(config) if not item.metadata}
    return MappingProxyType(sections)


def settings_of(section: type[Any], name: str) -> Iterator[Setting]:
    """Yield the declarations of one section, in order."""
    for item in fields(section):
        if item.metadata:
            kind = item.metadata["kind"]
            key = item.name.removesuffix(kind.unit_suffix)
            is_required = item.default is MISSING
            yield Setting(
                path=f"{name}.{key}" if name else key,
                field_name=item.name,
                kind=kind,
                doc=item.metadata["doc"],
                default=None if is_required else item.default,
                note=item.metadata.get("note"),
                is_required=is_required,
                is_secret=item.metadata.get("is_secret", False),
            )
