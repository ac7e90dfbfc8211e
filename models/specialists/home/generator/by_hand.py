"""Reads sentences and right answers that nobody generated.

Rule: what is wrong in ``READ`` may be looked at and mended; the others are only judged by.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

READ = Path(__file__).with_name("by-hand.txt")
FRESH = Path(__file__).with_name("fresh.txt")
HARDER = Path(__file__).with_name("harder.txt")
_FIELD = re.compile(r'(\w+)=("[^"]*"|\S+)')
Line = dict[str, Any]


def read(file: Path) -> Iterator[Line]:
    """Yield the examples of a file, each as a line of a file to judge with."""
    devices: list[dict[str, str]] = []
    home = ""
    for block in re.split(r"\n(?=[=>])", file.read_text("utf-8")):
        head, *lines = [line for line in block.splitlines() if line and line[0] != "#"] or [""]
        if head.startswith("="):
            home, devices = head.removeprefix("=").strip(), [_device(line) for line in lines]
        elif head:
            *area, prompt = (part.strip() for part in head.removeprefix(">").split(" > "))
            inputs = {"area": area[0]} if area else {}
            yield {
                "prompt": prompt,
                "inputs": {**inputs, "devices": devices},
                "answer": _answer(lines),
                "group": home,
            }


def _device(line: str) -> dict[str, str]:
    """Read a device: identifier, name, area, floor."""
    parts = (part.strip() for part in line.split("|"))
    return dict(zip(("id", "name", "area", "floor"), parts, strict=False))


def _answer(lines: list[str]) -> Line:
    """Read the actions, or why there are none."""
    if lines[0] in ("none", "ambiguous"):
        return {"actions": [], "reason": lines[0]}
    return {"actions": [_action(line) for line in lines]}


def _action(line: str) -> Line:
    """Read an action: service, devices and data."""
    data = {name: _value(text) for name, text in _FIELD.findall(line)}
    service, *targets = _FIELD.sub("", line).split()
    return {"service": service, "target": targets, "data": data}


def _value(text: str) -> object:
    """Read a value: JSON, or a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text
