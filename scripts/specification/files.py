"""The files of the specification, as they stand in ``docs/``."""

import json
from typing import Any

import yaml

from scripts.specification.asyncapi import asyncapi_document
from scripts.specification.node import event_schema, info_schema
from scripts.specification.pieces import Schema
from scripts.specification.replies import fragment_schema, reply_schema
from scripts.specification.requests import cancel_schema, generate_schema
from scripts.specification.state import state_schema

_MADE = "# Made by scripts/make-specification from the declarations in edged/; do not edit.\n"


def schemas() -> dict[str, Schema]:
    """Return each schema by its name."""
    return {
        "generate": generate_schema(),
        "cancel": cancel_schema(),
        "reply": reply_schema(),
        "fragment": fragment_schema(),
        "info": info_schema(),
        "state": state_schema(),
        "event": event_schema(),
    }


def specification_files() -> dict[str, str]:
    """Return the text of each file by its path below ``docs/``."""
    files = {
        f"schemas/{name}.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in schemas().items()
    }
    document = yaml.dump(
        asyncapi_document(), Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=100
    )
    return {"asyncapi.yaml": _MADE + document} | files


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors: whoever reads it need not follow them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401, ARG002 - PyYAML's signature
        """Write what is used twice twice."""
        return True
