"""How a field of a dataclass declares a setting, and how the declarations are read back.

Rule: the declaration is the field; nothing about a key stands anywhere else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
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
    """Tells the default where the value cannot, such as "the host name"."""
    is_required: bool
    is_secret: bool

    @property
    def is_nullable(self) -> bool:
        """Whether null is one of its values."""
        return self.default is None and not self.is_required


def about(
    kind: Kind[Any], doc: str, *, note: str | None = None, is_secret: bool = False
) -> Mapping[str, Any]:
    """Make the metadata of a field that declares a setting."""
    return {"kind": kind, "doc": doc, "note": note, "is_secret": is_secret}


def setting(kind: Kind[T], default: T, doc: str, *, note: str | None = None) -> T:
    """Declare a field that always has a value."""
    return field(default=default, metadata=about(kind, doc, note=note))


def optional(
    kind: Kind[T], doc: str, *, note: str | None = None, is_secret: bool = False
) -> T | None:
    """Declare a field that is None until it is set; a secret one stays out of ``repr``."""
    metadata = about(kind, doc, note=note, is_secret=is_secret)
    return field(default=None, repr=not is_secret, metadata=metadata)


def sections_of(config: type[Any]) -> Mapping[str, type[Any]]:
    """Give section name → its dataclass; the empty name is ``config`` with its own keys."""
    sections: dict[str, Any] = {"": config}
    sections |= {item.name: item.type for item in fields(config) if not item.metadata}
    return MappingProxyType(sections)


def settings_of(section: type[Any], name: str) -> Iterator[Setting]:
    """Yield the declarations of one section, in order."""
    for item in fields(section):
        if item.metadata:
            yield _setting_of(item, name)


def _setting_of(item: Field[Any], section: str) -> Setting:
    kind = item.metadata["kind"]
    key = item.name.removesuffix(kind.unit_suffix)
    is_required = item.default is MISSING
    return Setting(
        path=f"{section}.{key}" if section else key,
        field_name=item.name,
        kind=kind,
        doc=item.metadata["doc"],
        default=None if is_required else item.default,
        note=item.metadata["note"],
        is_required=is_required,
        is_secret=item.metadata["is_secret"],
    )
