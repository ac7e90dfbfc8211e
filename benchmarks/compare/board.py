"""A row for a table that compares devices.

Rule: a row has all that is needed to repeat the measurement.
"""

from pathlib import Path

from benchmarks.compare.engines import EDGED
from benchmarks.compare.table import markdown
from edged.commands.bench.figures import ABSENT, ROWS, Document

_FIGURES = {
    "prefill_512_tok_s": "prefill 512, tok/s",
    "decode_tok_s": "decode, tok/s",
    "ttft_s": "first token of 42, ms",
    "rss_bytes": "RSS, MiB",
}
_HEAD = [
    *("device", "memory, GiB", "model", "threads"),
    *(*_FIGURES.values(), "roofline", "versions", "date", "command"),
]


def board_row(document: Document) -> list[str]:
    """Return the cells of a row."""
    device = document["device"]
    versions = document["versions"]
    roofline = document["roofline"]
    shown = {row.name: row for row in ROWS}
    engine = document["engines"][EDGED]
    values = {name: engine.get(name) for name in _FIGURES}
    cells = [
        str(device["name"]),
        f"{device['memory_bytes'] / 2**30:.1f}",
        document["model"]["id"],
        str(document["num_threads"]),
        *(ABSENT if v is None else shown[name].shown(v) for name, v in values.items()),
        ABSENT if roofline is None else f"{roofline:.2f}",
        ", ".join(f"{name} {versions[name]}" for name in ("edged", "onnxruntime", "python")),
        document["date"],
        f"`{document['command']}`",
    ]
    return [cell.replace("|", "/").replace("\n", " ") for cell in cells]


def add_row(document: Document, file: Path | None) -> str:
    """Append the row to a file, with the header if the file is new, and return it."""
    head, rule, row = markdown([_HEAD, board_row(document)]).splitlines()
    if file is not None:
        is_new = not file.exists() or head not in file.read_text(encoding="utf-8")
        lines = [head, rule, row] if is_new else [row]
        with file.open("a", encoding="utf-8") as stream:
            stream.write("\n".join([*lines, ""]))
    return row if file is not None else f"{head}\n{rule}\n{row}"
